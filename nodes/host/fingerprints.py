"""Digests of what a result depends on: of a model's weights and patches, and of all that decides an encoding."""

import hashlib
import math
from pathlib import Path

import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...sid_core.data.encodings import FORMAT
from ...sid_core.data.latent_files import FORMAT as LATENTS
from ...sid_core.data.prompts import PromptFile
from .weights import PatchedWeights

SAMPLES = 64
SAMPLED_WEIGHTS, SAMPLED_VALUES = 32, 4  # matrices, and values of each
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def encoding_digest(clip, model: ModelPatcher, latent: Tensor, prompts: PromptFile) -> str:
    """Of all that decides how `conditioning_tensors` of these prompts come out, but the prompts' own texts."""
    digest = hashlib.sha256(FORMAT.encode())
    options = (clip.layer_idx, clip.use_clip_schedule, clip.tokenizer_options, type(clip.tokenizer).__qualname__)
    _add(digest, options)
    _add_model(digest, clip.patcher, clip.cond_stage_model)
    if hooks := _hooks(clip):
        _add(digest, hooks)
    base = model.model
    _add(digest, (type(base).__qualname__, type(base.model_config).__qualname__, str(base.get_dtype())))
    _add(digest, tuple(latent.shape[1:]))
    if hasattr(base.diffusion_model, "preprocess_text_embeds"):
        # In a few models a part of the diffusion model works on the text encoder's output first.
        _add_model(digest, model, base)
    if prompts.mentions("embedding:"):
        _add(digest, _embedding_files())
    return digest.hexdigest()[:32]


def latents_digest(vae, size: tuple[int, int]) -> str:
    """Of all that decides how a VAE encodes pictures of that (width, height), but the pictures themselves."""
    digest = hashlib.sha256(LATENTS.encode())
    _add(digest, (str(vae.vae_dtype), size))
    _add_model(digest, vae.patcher, vae.first_stage_model)
    return digest.hexdigest()[:32]


def weights_digest(model: ModelPatcher) -> str:
    """Of a MODEL's weights and patches, however much of it is loaded: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    _add_model(digest, model, model.model)
    return digest.hexdigest()[:16]


def weights_sample(model: ModelPatcher, patched: bool = True) -> tuple[float, ...] | None:
    """Some of the values of a MODEL's weights, from all over its network, in four digits: the same whether they are
    kept in float32 or float16, and near to each other for models that are near (see `student.apart`).

    patched: False leaves the MODEL's patches out. None where there are no finite ones to be had.
    """
    weights = PatchedWeights(model, patched)
    names = sorted(name for name, parts in weights.parts.items() if parts[0][0].ndim > 1 and not parts[0][0].is_meta)
    values: list[float] = []
    count = min(SAMPLED_WEIGHTS, len(names))
    for i in range(count):
        flat = weights[names[i * len(names) // count]].flatten()
        # Not at even places, which would be one column of a matrix.
        places = [len(flat) * (2 * j + 1) // (2 * SAMPLED_VALUES + 1) for j in range(SAMPLED_VALUES)]
        values += [float(f"{value:.4g}") for value in flat[places].tolist()]
    return tuple(values) if values and all(map(math.isfinite, values)) else None


def digest_of(*parts: object) -> str:
    """Of numbers, texts, tensors, lists and dicts of them, and the weights and patches of models, each as its patcher:
    32 hexadecimal digits."""
    digest = hashlib.sha256()
    _add(digest, parts)
    return digest.hexdigest()[:32]


def is_digested(value: object) -> bool:
    """Whether `digest_of` knows all of it: of a ControlNet or a hook on a prompt, for one, it knows nothing."""
    if isinstance(value, dict):
        return all(map(is_digested, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_digested, value))
    return value is None or isinstance(value, Tensor | str | int | float)


def text_encoder_parts(clip, prompts: PromptFile) -> list:
    """For `digest_of`: all that decides how a CLIP encodes these prompts, but their texts."""
    options = [clip.layer_idx, clip.use_clip_schedule, clip.tokenizer_options, type(clip.tokenizer).__qualname__]
    return [options, clip.patcher, _embedding_files() if prompts.mentions("embedding:") else None, *_hooks(clip)]


def _hooks(clip) -> list:
    """Of a CLIP with hooks, what they do to its weights, which is not among its patches, and to what it encodes."""
    # Other packs have CLIPs of their own, which may lack either.
    groups = getattr(clip.patcher, "forced_hooks", None), getattr(clip, "apply_hooks_to_conds", None)
    return [[_hook(hook) for hook in group.hooks] for group in groups if group is not None]


def _hook(hook) -> list:
    numbers = [getattr(hook, name, None) for name in ("_strength_model", "_strength_clip")]
    weights = [getattr(hook, name, None) for name in ("weights", "weights_clip")]
    frames = [[frame.strength, frame.start_percent] for frame in hook.hook_keyframe.keyframes]
    return [type(hook).__qualname__, numbers, weights, frames]


def _add_model(digest, patcher: ModelPatcher, module: nn.Module) -> None:
    """Its weights without patches, and the patches. While it is loaded, the host keeps the former aside, as backups."""
    digest.update(type(module).__qualname__.encode())
    for name, values in [*module.named_parameters(), *module.named_buffers()]:
        original = patcher.backup.get(name)
        _add(digest, (name, values if original is None else original.weight))
    _add(digest, patcher.patches)


def _add(digest, value: object) -> None:
    if isinstance(value, Tensor):
        _add_tensor(digest, value)
    elif isinstance(value, ModelPatcher):
        _add_model(digest, value, value.model)
    elif isinstance(value, dict):
        _add(digest, sorted(value.items(), key=lambda item: str(item[0])))
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)} values".encode())
        for part in value:
            _add(digest, part)
    elif value is None or isinstance(value, str | int | float):
        digest.update(f"{value!r} ".encode())
    else:
        # Such as the host's LoRA adapters, whose numbers are in `weights`.
        digest.update(type(value).__qualname__.encode())
        _add(digest, getattr(value, "weights", None))


def _add_tensor(digest, values: Tensor) -> None:
    """Kind, shape, some of its values, and the sum of all of its bits as integers, which one changed value changes.

    The sum is exact, so it is the same on any device, and takes a second for some gigabytes.
    """
    values = values.detach().as_subclass(Tensor)
    digest.update(f"{values.dtype} {tuple(values.shape)} ".encode())
    if values.is_meta or not values.numel():
        return
    bits = values.flatten()
    bits = bits.view(INTEGERS[bits.element_size()])
    digest.update(f"{bits.sum(dtype=torch.int64).item()} ".encode())
    digest.update(bits[:: max(1, len(bits) // SAMPLES)].cpu().numpy().tobytes())


def _embedding_files() -> list[tuple[str, int, int]]:
    """The files that embedding:name in a prompt may stand for: name, bytes, time of change."""
    names = sorted(folder_paths.get_filename_list("embeddings"))
    states = [Path(folder_paths.get_full_path_or_raise("embeddings", name)).stat() for name in names]
    return [(name, state.st_size, state.st_mtime_ns) for name, state in zip(names, states, strict=True)]
