"""IP-Adapter files: where they lie, what they hold, and which kind one is."""

from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...sid_core.files.tensors import is_finite
from .ip_adapter_names import IMAGE, by_part
from .ip_adapter_names import STYLE as STYLE_PART
from .ip_adapter_networks import (
    HIDDEN,
    POOLED,
    STYLE,
    HiddenProjection,
    IPAdapter,
    Resampler,
    StyleProjections,
    TokenProjection,
)
from .styleshot import SIZE, StyleEncoder
from .tensor_files import tensors_of

FOLDER = "ipadapter"
DEMO = "demo (comes with the pack)"  # in the place of a file's name, which would end as FOLDER's files do
DEMO_FILE = Path(__file__).parents[2] / "demo" / "assets" / "image_prompt.safetensors"
INSIGHTFACE_WIDTH = 512  # of a face embedding, which no CLIP vision has
ENCODER_KEY = "style_embeddings.0"


@dataclass(frozen=True)
class Adapter:
    """What the loader hands on: the weights as ComfyUI manages them, and for StyleShot those of its own encoder."""

    name: str
    weights: ModelPatcher
    style_encoder: ModelPatcher | None = None

    @property
    def network(self) -> IPAdapter:
        return self.weights.model


def register_folder() -> None:
    """models/ipadapter, or what the user has configured for it; with the extensions IPAdapter_plus gives it too."""
    known = folder_paths.folder_names_and_paths.get(FOLDER)
    paths = known[0] if known else [str(Path(folder_paths.models_dir) / FOLDER)]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, folder_paths.supported_pt_extensions)


def offered() -> list[str]:
    """What a user can choose from: the files in FOLDER, and after them the demo's."""
    return [*folder_paths.get_filename_list(FOLDER), DEMO]


def path_of(name: str) -> Path | None:
    """The file of one of `offered`, None where there is no such."""
    if name == DEMO:
        return DEMO_FILE
    found = folder_paths.get_full_path(FOLDER, name)
    return found and Path(found)


def load_adapter(path: Path, style_encoder: Path | None = None) -> Adapter:
    """The IP-Adapter in a file, and StyleShot's encoder where it is one of StyleShot.

    Raises ValueError for a file that is no whole IP-Adapter of a kind that is supported, saying what it is, or where
    style_encoder is missing or not wanted.
    """
    tensors = tensors_of(path)
    if ENCODER_KEY in tensors:
        raise ValueError(
            f"Choose {path.name} as style_encoder, and StyleShot's ip.bin as ip_adapter: it is StyleShot's encoder."
        )
    parts, layers = _parts(path, tensors)
    projection = _projection(path, parts[IMAGE], parts[STYLE_PART])
    _check_layers(path, layers, projection.width)
    network = IPAdapter(projection, layers)
    for modules, which in ((network.to_k_ip, "k"), (network.to_v_ip, "v")):
        for layer, module in zip(layers, modules, strict=True):
            module.load_state_dict({"weight": layer[which]})
    wants_encoder = isinstance(projection, StyleProjections)
    if wants_encoder and style_encoder is None:
        raise ValueError(
            f"Set style_encoder to StyleShot's style_aware_encoder.bin: {path.name} is a StyleShot adapter, which sees "
            "images through an encoder of its own."
        )
    if style_encoder is not None and not wants_encoder:
        raise ValueError(
            "Set style_encoder to 'none', and connect a CLIP_VISION to CleanStyle IP-Adapter: "
            f"{path.name} is no StyleShot adapter, and has no use for {style_encoder.name}."
        )
    return Adapter(path.name, _managed(network), _load_encoder(style_encoder) if style_encoder else None)


def _parts(path: Path, tensors: dict[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], list[dict[str, Tensor]]]:
    """As `by_part`. Raises ValueError where it is no IP-Adapter that we run."""
    try:
        parts, layers = by_part(tensors)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    _refuse_faces(path, tensors, parts[IMAGE])
    if not layers:
        some = ", ".join(list(tensors)[:3]) or "no tensors"
        raise ValueError(
            "Choose an IP-Adapter for SD1.5 or SDXL, such as ip-adapter_sd15.safetensors or "
            f"ip-adapter-plus_sdxl_vit-h.safetensors: {path.name} has no ip_adapter.1.to_k_ip.weight and so on, "
            f"but {some:.200}."
        )
    wanted = {name: tensor for part in parts.values() for name, tensor in part.items()}
    wanted |= {f"{number}.to_{which}_ip": layer[which] for number, layer in enumerate(layers) for which in layer}
    _check_numbers(path, wanted)
    return parts, layers


def _damaged(path: Path, said: str) -> ValueError:
    return ValueError(f"Download {path.name} again: it is damaged or not whole, {' '.join(said.split())[:300]}.")


def _check_numbers(path: Path, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
            raise _damaged(path, f"{name} is of {tensor.dtype} ({tensor.layout}) where floating point is expected")
        if not is_finite(tensor):
            raise _damaged(path, f"{name} has NaN or infinite values")


def _check_layers(path: Path, layers: list[dict[str, Tensor]], width: int) -> None:
    for number, layer in enumerate(layers):
        shapes = [tuple(layer[which].shape) for which in "kv"]
        if shapes[0] != shapes[1] or len(shapes[0]) != 2 or 0 in shapes[0]:
            raise _damaged(path, f"layer {number} has keys of shape {shapes[0]} and values of {shapes[1]}")
        if shapes[0][1] != width:
            raise _damaged(path, f"its image tokens have {width} channels, but layer {number} wants {shapes[0][1]}")


def _refuse_faces(path: Path, tensors: dict[str, Tensor], names: dict[str, Tensor]) -> None:
    face_network = "proj.2.weight" in names and "proj.3.weight" not in names
    resampled = names.get("proj_in.weight")
    if (
        face_network
        or any(name.startswith("perceiver_resampler.") for name in names)
        or any(name.startswith("ip_adapter.") and "_lora." in name for name in tensors)
        or (resampled is not None and resampled.shape[1:] == (INSIGHTFACE_WIDTH,))
    ):
        raise ValueError(
            f"Use IPAdapter_plus's FaceID nodes for {path.name}, CleanStyle works on their MODEL as well: it is a "
            "FaceID adapter, which knows faces by InsightFace and not by CLIP vision."
        )


def _projection(path: Path, image: dict[str, Tensor], style: dict[str, Tensor]) -> nn.Module:
    kinds = {
        "latents": (Resampler, image),
        "proj.3.weight": (HiddenProjection, image),
        "proj.weight": (TokenProjection, image),
        "0.proj.weight": (StyleProjections, style),
    }
    for name, (kind, part) in kinds.items():
        if name in part:
            return _tried(path, _filled(path, kind, part))
    raise ValueError(
        f"Choose an IP-Adapter of another kind (base, plus, full-face or StyleShot): {path.name} makes image tokens "
        f"in a way that is not known here, with {', '.join(list(image)[:4]) or 'nothing for it'}."
    )


def _filled(path: Path, kind: type[nn.Module], tensors: dict[str, Tensor]) -> nn.Module:
    try:
        network = kind(tensors)
        network.load_state_dict(tensors)
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise _damaged(path, f"it has only a part of a {kind.__name__} ({error})") from error
    return network


def _tried(path: Path, projection: nn.Module) -> nn.Module:
    """The projection, whose image tokens are as wide as they should be."""
    shape = {POOLED: (1,), HIDDEN: (1, 2), STYLE: (1, len(list(projection.children())))}[projection.takes]
    tokens = _shapes_run(path, projection, torch.empty(*shape, projection.features, device="meta"))
    if tokens.ndim != 3 or tokens.shape[-1] != projection.width or 0 in tokens.shape:
        raise _damaged(path, f"it makes image tokens of shape {tuple(tokens.shape)}")
    return projection


def _shapes_run(path: Path, network: nn.Module, given: Tensor) -> Tensor:
    """What a network makes of a meta tensor, at no cost. Sizes that don't fit each other show in a run alone."""
    shapes = {name: tensor.to("meta") for name, tensor in network.state_dict().items()}
    try:
        return torch.func.functional_call(network, shapes, (given,))
    except (RuntimeError, ValueError) as error:
        raise _damaged(path, f"its sizes don't fit each other ({error})") from error


def _load_encoder(path: Path) -> ModelPatcher:
    tensors = tensors_of(path)
    if ENCODER_KEY not in tensors:
        raise ValueError(
            "Set style_encoder to StyleShot's style_aware_encoder.bin: "
            f"{path.name} is another file, with {', '.join(list(tensors)[:3]) or 'no tensors':.200}."
        )
    # A buffer of counted numbers, which some versions of the program's libraries write.
    wanted = {name: tensor for name, tensor in tensors.items() if not name.endswith(".position_ids")}
    _check_numbers(path, wanted)
    encoder = _filled(path, StyleEncoder, wanted)
    _shapes_run(path, encoder, torch.empty(1, 3, SIZE, SIZE, device="meta"))
    return _managed(encoder)


def _managed(network: nn.Module) -> ModelPatcher:
    return ModelPatcher(
        network.train(False).requires_grad_(False),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
