"""A student's LoRA by the names that LoRA files have for its layers."""

import comfy.lora
import comfy.model_base
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sid_core.convert.lora import ALPHA, DOWN, UP, preferred_names
from ...sid_core.training.adapters import LoRASet
from .attached import NETWORK


def lora_tensors(model: ModelPatcher, adapters: LoRASet) -> dict[str, Tensor]:
    """The adapters as a LoRA file names them (kohya-style), copied to the CPU.

    Raises ValueError for layers that no name of a LoRA file stands for.
    """
    names = layer_names(model)
    layers = adapters.by_layer()
    if unnamed := [layer for layer in layers if layer not in names]:
        raise ValueError(
            "Choose mode full, or other lora_targets: ComfyUI has no names in LoRA files for "
            f"{len(unnamed)} of this model's layers, such as {unnamed[0]}."
        )
    tensors: dict[str, Tensor] = {}
    for layer, adapter in layers.items():
        name = names[layer]
        tensors[name + DOWN] = adapter.down.detach().to("cpu", copy=True)
        tensors[name + UP] = adapter.up.detach().to("cpu", copy=True)
        tensors[name + ALPHA] = torch.tensor(adapters.alpha)
    return tensors


def scaled(tensors: dict[str, Tensor], strength: float) -> dict[str, Tensor]:
    """A LoRA that does so many times as much, 0 and less included, which an alpha can't say."""
    if strength == 1:
        return tensors
    return {name: tensor.float() * strength if name.endswith(UP) else tensor for name, tensor in tensors.items()}


def layer_names(model: ModelPatcher) -> dict[str, str]:
    """layer of the MODEL's network → its name in LoRA files."""
    suffix = ".weight"
    return {
        weight.removeprefix(NETWORK).removesuffix(suffix): name
        for weight, name in lora_names(model).items()
        if weight.startswith(NETWORK) and weight.endswith(suffix)
    }


def lora_names(model: ModelPatcher) -> dict[str, str]:
    """weight of the MODEL → its name in LoRA files, by diffusers' blocks, but for SDXL by the original, as is usual.

    Weights without such a name have ComfyUI's own, which is the weight's.
    """
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    # What is not a text is a part of a weight, as other tools split it.
    whole = ((name, key) for name, key in keys.items() if isinstance(key, str))
    return preferred_names(whole, by_original=isinstance(model.model, comfy.model_base.SDXL))
