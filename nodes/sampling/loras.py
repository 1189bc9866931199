"""A student's LoRA by the names that LoRA files have for its layers."""

import comfy.lora
import comfy.model_base
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sid_core.training.adapters import LoRASet
from .attached import NETWORK

KOHYA = "lora_unet_"
DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"


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
    original = isinstance(model.model, comfy.model_base.SDXL)
    names: dict[str, str] = {}
    for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        if not isinstance(key, str):
            continue  # a part of a weight, as other tools split it
        weight = key.removesuffix(".weight")
        if name == weight:
            names.setdefault(key, name)
        elif name.startswith(KOHYA):
            by_original = name == KOHYA + weight.removeprefix(NETWORK).replace(".", "_")
            if not names.get(key, "").startswith(KOHYA) or by_original == original:
                names[key] = name
    return names
