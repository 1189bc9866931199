"""A student's LoRA by the names that LoRA files have for its layers."""

import comfy.lora
import comfy.model_base
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sid_core.training.adapters import LoRASet
from .attached import NETWORK

KOHYA = "lora_unet_"


def lora_tensors(model: ModelPatcher, adapters: LoRASet) -> dict[str, Tensor]:
    """The adapters as a LoRA file names them (kohya-style), copied to the CPU.

    Raises ValueError for a layer that LoRA files have no name for.
    """
    names = kohya_names(model)
    tensors: dict[str, Tensor] = {}
    for layer, adapter in adapters.by_layer().items():
        name = names.get(f"{NETWORK}{layer}.weight")
        if name is None:
            raise ValueError(f"Choose other lora_targets, or mode full: LoRA files have no name for the layer {layer}.")
        tensors[f"{name}.lora_down.weight"] = adapter.down.detach().to("cpu", copy=True)
        tensors[f"{name}.lora_up.weight"] = adapter.up.detach().to("cpu", copy=True)
        tensors[f"{name}.alpha"] = torch.tensor(adapters.alpha)
    return tensors


def kohya_names(model: ModelPatcher) -> dict[str, str]:
    """weight of the MODEL → its name in LoRA files, by diffusers' blocks, but for SDXL by the original, as is usual."""
    original = isinstance(model.model, comfy.model_base.SDXL)
    names: dict[str, str] = {}
    for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        if not isinstance(key, str):  # a part of a weight, as SD3's q in other files; the whole has a name too
            continue
        by_original = name == KOHYA + key.removeprefix(NETWORK).removesuffix(".weight").replace(".", "_")
        if name.startswith(KOHYA) and (key not in names or by_original == original):
            names[key] = name
    return names
