"""Whether a student's tensors are all there and fit the MODEL they are put onto: names, shapes, kinds and values."""

from collections.abc import Iterator

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sid_core.files.tensors import is_finite
from ...sid_core.training.adapters import TARGETS, find_targets
from .loras import ALPHA, DOWN, UP, layer_names

KINDS = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}
NAMED = 3  # tensors of each kind of trouble that an error names
Shapes = dict[str, tuple[int, ...]]


def is_lora(tensors: dict[str, Tensor]) -> bool:
    return any(name.endswith((DOWN, UP)) for name in tensors)


def require_network(weights: dict[str, Tensor], model: ModelPatcher) -> None:
    """Raises ValueError unless these are all weights of the MODEL's diffusion model."""
    network = model.model.diffusion_model.state_dict()
    _require(weights, {name: tuple(weight.shape) for name, weight in network.items()})


def require_lora(tensors: dict[str, Tensor], model: ModelPatcher) -> None:
    """Raises ValueError unless these are a student's whole LoRA: of all layers of one of TARGETS, alphas above 0."""
    _require(tensors, _lora_shapes(tensors, model))
    for name, alpha in tensors.items():
        if name.endswith(ALPHA) and float(alpha) <= 0:
            raise ValueError(f"{name} is {float(alpha):g}, and an alpha is above 0")


def _lora_shapes(tensors: dict[str, Tensor], model: ModelPatcher) -> Shapes:
    """What the LoRA has to be: of the kind of layers that it comes closest to, in the ranks that it has."""
    found = {name.removesuffix(end) for name in tensors for end in (DOWN, UP, ALPHA) if name.endswith(end)}
    candidates = list(_layers(model))
    if not candidates:
        raise ValueError("this MODEL has no layers that a LoRA could be of")
    layers = min(candidates, key=lambda each: len(each.keys() ^ found))
    shapes: Shapes = {}
    for name, layer in layers.items():
        down = tensors.get(name + DOWN)
        rank = down.shape[0] if down is not None and down.ndim else 1
        kernel = getattr(layer, "kernel_size", ())
        into = layer.in_channels if kernel else layer.in_features
        out = layer.out_channels if kernel else layer.out_features
        shapes |= {name + DOWN: (rank, into, *kernel), name + UP: (out, rank, *(1 for _ in kernel)), name + ALPHA: ()}
    return shapes


def _layers(model: ModelPatcher) -> Iterator[dict[str, torch.nn.Module]]:
    """For each of TARGETS that the MODEL has layers of: these, by their names in LoRA files."""
    names = layer_names(model)
    for targets in TARGETS:
        try:
            layers = find_targets(model.model.diffusion_model, targets)
        except ValueError:  # it has none of these
            continue
        yield {names[layer]: module for layer, module in layers.items() if layer in names}


def _require(tensors: dict[str, Tensor], shapes: Shapes) -> None:
    troubles = {
        "{} lack": (name for name in shapes if name not in tensors),
        "{} belong to something else": (name for name in tensors if name not in shapes),
        "{}": _misfits(tensors, shapes),
    }
    for said, names in troubles.items():
        if listed := list(names):
            more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
            named = ", ".join(f"{name:.100}" for name in listed[:NAMED])
            raise ValueError(said.format(named + more))


def _misfits(tensors: dict[str, Tensor], shapes: Shapes) -> Iterator[str]:
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape and not (shape == () and tensor.shape == (1,)):
            yield f"{name} is of shape {list(tensor.shape)}, not {list(shape)}"
        elif tensor.dtype not in KINDS:
            yield f"{name} is {str(tensor.dtype).removeprefix('torch.')}, not a floating-point number"
        elif tensor.numel() == 0:
            yield f"{name} is empty"
        elif not is_finite(tensor):
            yield f"{name} is not finite"
