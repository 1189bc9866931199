"""What ComfyUI knows of a network: its class, its weights, and what diffusers and LoRA files call their rows.

It stands alone, without the rest of the pack, so that `network_names_program.py` can ask it from outside of a ComfyUI.
All that comes out is plain lists and texts, see sid_core/convert/architecture.py.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import comfy.lora
import comfy.model_base
import comfy.model_detection
import comfy.model_sampling
import comfy.utils
import torch
from torch import Tensor

Shapes = Mapping[str, list[int]]
Pieces = list[tuple[str, int, int]]  # rows of weights, joined: (weight, first row, behind the last row)

NETWORK, WEIGHT = "diffusion_model.", ".weight"
# As the host's own LoRA loader chooses among them; what is none of these is a UNet, or has no names in diffusers.
TRANSFORMERS = {
    comfy.model_base.SD3: comfy.utils.mmdit_to_diffusers,
    comfy.model_base.Flux: comfy.utils.flux_to_diffusers,
    comfy.model_base.AuraFlow: comfy.utils.auraflow_to_diffusers,
    comfy.model_base.PixArt: comfy.utils.pixart_to_diffusers,
    comfy.model_base.Lumina2: comfy.utils.z_image_to_diffusers,
}


def of_base_model(base: comfy.model_base.BaseModel) -> dict[str, Any]:
    """The same of a model that is there."""
    shapes = {name: list(weight.shape) for name, weight in base.diffusion_model.state_dict().items()}
    lora = comfy.lora.model_lora_keys_unet(base, {})
    return {
        "kind": type(base.model_config).__name__,
        "component": "unet" if "num_res_blocks" in base.model_config.unet_config else "transformer",
        "flow": isinstance(base.model_sampling, comfy.model_sampling.CONST),
        # What LoRA files usually call the layers of: SDXL has names by its original blocks.
        "by_original": isinstance(base, comfy.model_base.SDXL),
        "shapes": shapes,
        "diffusers": _pieces(_diffusers_names(base), shapes),
        "lora": _pieces({name: place for name, place in lora.items() if _weight(place).endswith(WEIGHT)}, shapes),
    }


def of_weights(shapes: Shapes) -> dict[str, Any] | None:
    """The same of the model that ComfyUI takes these weights for, by its own names or diffusers'; None for none.

    No weight is read, and none is made: their shapes tell.
    """
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    config = comfy.model_detection.model_config_from_unet(dict(weights), "")
    if config is None:
        own = _by_own_names(weights)
        config = comfy.model_detection.model_config_from_unet(own, "") if own else None
    if config is None:
        return None
    config.set_inference_dtype(torch.float32, None)
    # Without weights, whose values some classes would look at to tell how they predict.
    return of_base_model(config.get_model({}, "", device=torch.device("meta")))


def _by_own_names(weights: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Diffusers' weights by the host's names."""
    if "conv_in.weight" not in weights:
        return comfy.model_detection.convert_diffusers_mmdit(dict(weights))
    names = comfy.utils.unet_to_diffusers(_unet_config(weights))
    return {own: weights[name] for name, own in names.items() if name in weights}


def _unet_config(names: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the host's map of a diffusers UNet's names depends on, counted; the host itself knows a few by heart."""
    blocks = Counter(".".join(name.split(".")[:2]) for name in names if ".resnets.0.conv1.weight" in name)
    levels = sum(block.startswith("down_blocks.") for block in blocks)
    down = [_depths(names, f"down_blocks.{level}") for level in range(levels)]
    up = [_depths(names, f"up_blocks.{level}") for level in range(levels)]
    return {
        "channel_mult": [1] * levels,  # only how many there are
        "num_res_blocks": [len(depths) for depths in down],
        "transformer_depth": sum(down, []),
        "transformer_depth_output": sum(up, [])[::-1],
        "transformer_depth_middle": _count(names, "mid_block.attentions.0.transformer_blocks"),
    }


def _depths(names: Mapping[str, Tensor], block: str) -> list[int]:
    """For each of a block's residual layers, how deep the transformer behind it is."""
    layers = _count(names, f"{block}.resnets")
    return [_count(names, f"{block}.attentions.{layer}.transformer_blocks") for layer in range(layers)]


def _count(names: Mapping[str, Tensor], list_name: str) -> int:
    start = f"{list_name}."
    return len({name.removeprefix(start).partition(".")[0] for name in names if name.startswith(start)})


def _diffusers_names(base: comfy.model_base.BaseModel) -> dict[str, Any]:
    """diffusers' name → its place, as the host writes it: a weight, or (weight, (0, first row, rows), change)."""
    config = base.model_config.unet_config
    for kind, names in TRANSFORMERS.items():
        if isinstance(base, kind):
            return names(config)
    # Two names for one layer, of which diffusers gives each UNet one.
    sdxl = isinstance(base, comfy.model_base.SDXL | comfy.model_base.SDXLRefiner)
    other = "class_embedding." if sdxl else "add_embedding."
    names = comfy.utils.unet_to_diffusers(config)
    return {name: place for name, place in names.items() if not name.startswith(other)}


def _pieces(places: Mapping[str, Any], shapes: Shapes) -> dict[str, Pieces]:
    """name → its rows; what the network has no such rows of is left out."""
    found = {}
    for name, place in places.items():
        weight = _weight(place)
        if weight in shapes and (pieces := _rows(weight, place, shapes[weight])):
            found[name] = pieces
    return found


def _weight(place: str | tuple) -> str:
    return (place if isinstance(place, str) else place[0]).removeprefix(NETWORK)


def _rows(weight: str, place: str | tuple, shape: list[int]) -> Pieces:
    """The rows that a name stands for, in its own order: what the host does with them is done with their numbers."""
    rows = torch.arange(shape[0] if shape else 1)
    _, part, change = (place, None, None) if isinstance(place, str) else (*place, None)[:3]
    if part:
        dimension, first, count = part
        if dimension or first + count > len(rows):
            return []
        rows = rows[first : first + count]
    if change:  # from the file's order to the network's, which is asked for the other way round
        rows = rows[change(torch.arange(len(rows))).argsort()]
    starts = [0, *(int(i) + 1 for i in (rows.diff() != 1).nonzero()), len(rows)]
    return [(weight, int(rows[a]), int(rows[b - 1]) + 1) for a, b in zip(starts, starts[1:], strict=False)]
