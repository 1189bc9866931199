"""IP-Adapter files: where they lie, what they hold, and which kind one is."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...sid_core.files.tensors import read_tensors
from .ip_adapter_networks import (
    HiddenProjection,
    IPAdapter,
    Resampler,
    StyleProjections,
    TokenProjection,
    numbered,
    under,
)
from .styleshot import StyleEncoder

FOLDER = "ipadapter"
# Training programs name the parts otherwise than the published files do.
PARTS = {
    "image_proj.": ("image_proj.", "image_proj_model."),
    "ip_adapter.": ("ip_adapter.", "adapter_modules."),
    "style_proj.": ("style_image_proj_modules.",),
}
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


def load_adapter(path: Path, style_encoder: Path | None = None) -> Adapter:
    """The IP-Adapter in a file, and StyleShot's encoder where it is one of StyleShot.

    Raises ValueError for a file that is no IP-Adapter of a kind that is supported, saying what it is, or where
    style_encoder is missing or not wanted; NotACheckpointError for a broken one.
    """
    tensors = _by_part(path, _read(path))
    layers = numbered(under(tensors, "ip_adapter."), "")
    projection = _projection(path, tensors)
    network = IPAdapter(projection, layers)
    if projection.width != network.to_k_ip[0].in_features:
        raise ValueError(
            f"{path.name} is damaged or mixed from two: its image tokens have {projection.width} channels, but its "
            f"layers want {network.to_k_ip[0].in_features}. Download it again."
        )
    for weights, values in ((network.to_k_ip, "to_k_ip.weight"), (network.to_v_ip, "to_v_ip.weight")):
        for layer, module in zip(layers, weights, strict=True):
            module.load_state_dict({"weight": layer[values]})
    wants_encoder = isinstance(projection, StyleProjections)
    if wants_encoder and style_encoder is None:
        raise ValueError(
            f"{path.name} is a StyleShot adapter, which sees images through an encoder of its own: choose StyleShot's "
            "style_aware_encoder.bin as style_encoder."
        )
    if style_encoder is not None and not wants_encoder:
        raise ValueError(
            f"{path.name} is not a StyleShot adapter, so it has no use for {style_encoder.name}: set style_encoder to "
            "'none', and connect a CLIP_VISION to CleanStyleIPAdapter."
        )
    return Adapter(path.name, _managed(network), _load_encoder(style_encoder) if style_encoder else None)


def _read(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by flat names. Pickled files are opened without running what they may hold."""
    if path.suffix.lower() in (".safetensors", ".sft"):
        return read_tensors(path)[0]
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError) as error:
        said = " ".join([type(error).__name__, *str(error).split()])
        raise ValueError(
            f"{path.name} can't be opened as a file of tensors alone ({said[:200]}). It is truncated, of another kind, "
            "or holds code, which is not run; download it again, as .safetensors if there is one."
        ) from error
    return _flat(content) if isinstance(content, dict) else {}


def _flat(content: dict, prefix: str = "") -> dict[str, Tensor]:
    found = {}
    for name, value in content.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value
    return found


def _by_part(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that matter, by the names of published files. Raises ValueError where it is no IP-Adapter we run."""
    known = {
        part + name: tensor
        for part, prefixes in PARTS.items()
        for prefix in prefixes
        for name, tensor in under(tensors, prefix).items()
    }
    said = f"{path.name} is not an IP-Adapter for SD1.5 or SDXL"
    if ENCODER_KEY in tensors:
        raise ValueError(
            f"{said} but StyleShot's encoder: choose it as style_encoder, and StyleShot's ip.bin as the adapter."
        )
    _refuse_faces(path, known)
    keys, values = (
        {name for name in known if name.startswith("ip_adapter.") and name.endswith(f".to_{x}_ip.weight")} for x in "kv"
    )
    if not keys or keys != {name.replace(".to_v_ip.", ".to_k_ip.") for name in values}:
        some = ", ".join(list(tensors)[:3]) or "no tensors"
        raise ValueError(
            f"{said}: it has no ip_adapter.1.to_k_ip.weight and so on, but {some}. Choose a file such as "
            "ip-adapter_sd15.safetensors or ip-adapter-plus_sdxl_vit-h.safetensors."
        )
    return {name: tensor for name, tensor in known.items() if not name.startswith("ip_adapter.")} | {
        name: known[name] for name in keys | values
    }


def _refuse_faces(path: Path, tensors: dict[str, Tensor]) -> None:
    names = under(tensors, "image_proj.")
    face_network = "proj.2.weight" in names and "proj.3.weight" not in names
    resampled = names.get("proj_in.weight")
    if (
        face_network
        or any(name.startswith("perceiver_resampler.") for name in names)
        or any("_lora." in name for name in tensors)
        or (resampled is not None and resampled.shape[1] == INSIGHTFACE_WIDTH)
    ):
        raise ValueError(
            f"{path.name} is a FaceID adapter, which knows faces by InsightFace and not by CLIP vision. It is not "
            "supported here: use IPAdapter_plus's FaceID nodes; CleanStyle works on their MODEL as well."
        )


def _projection(path: Path, tensors: dict[str, Tensor]) -> nn.Module:
    image, style = under(tensors, "image_proj."), under(tensors, "style_proj.")
    kinds = {
        "latents": (Resampler, image),
        "proj.3.weight": (HiddenProjection, image),
        "proj.weight": (TokenProjection, image),
        "0.proj.weight": (StyleProjections, style),
    }
    for name, (kind, part) in kinds.items():
        if name in part:
            return _filled(path, kind, part)
    raise ValueError(
        f"{path.name} has the layers of an IP-Adapter, but makes image tokens in a way that is not known here: "
        f"{', '.join(list(image)[:4]) or 'there is nothing for it'}. Supported are base, plus, full-face and StyleShot."
    )


def _filled(path: Path, kind: type[nn.Module], tensors: dict[str, Tensor]) -> nn.Module:
    try:
        network = kind(tensors)
        network.load_state_dict(tensors)
    except (KeyError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"{path.name} has only a part of a {kind.__name__} ({' '.join(str(error).split())[:300]}). Download it "
            "again."
        ) from error
    return network


def _load_encoder(path: Path) -> ModelPatcher:
    tensors = _read(path)
    if ENCODER_KEY not in tensors:
        raise ValueError(
            f"{path.name} is not StyleShot's encoder: it has {', '.join(list(tensors)[:3]) or 'no tensors'}. Choose "
            "style_aware_encoder.bin."
        )
    # A buffer of counted numbers, which some versions of the program's libraries write.
    wanted = {name: tensor for name, tensor in tensors.items() if not name.endswith(".position_ids")}
    return _managed(_filled(path, StyleEncoder, wanted))


def _managed(network: nn.Module) -> ModelPatcher:
    return ModelPatcher(
        network.train(False).requires_grad_(False),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
