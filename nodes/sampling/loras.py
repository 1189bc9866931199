"""A student's LoRA as the host and other tools know it: by their names, as patches on a MODEL, and in a file."""

import comfy.lora
import comfy.model_base
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sid_core.files.student import StudentInfo
from ...sid_core.training.adapters import LoRASet
from ..host import adapt

ATTACHMENT = "sid_student_lora"
KOHYA = "lora_unet_"


def lora_tensors(model: ModelPatcher, adapters: LoRASet) -> dict[str, Tensor]:
    """The adapters as a LoRA file names them (kohya-style), copied to the CPU."""
    names = kohya_names(model)
    tensors: dict[str, Tensor] = {}
    for layer, adapter in adapters.by_layer().items():
        name = names[f"{adapt.NETWORK}{layer}.weight"]
        tensors[f"{name}.lora_down.weight"] = adapter.down.detach().to("cpu", copy=True)
        tensors[f"{name}.lora_up.weight"] = adapter.up.detach().to("cpu", copy=True)
        tensors[f"{name}.alpha"] = torch.tensor(adapters.alpha)
    return tensors


def attached_lora(model: ModelPatcher) -> dict[str, Tensor] | None:
    """The LoRA of the student on this wire, or None where the student is a whole network."""
    return model.get_attachment(ATTACHMENT)


def kohya_names(model: ModelPatcher) -> dict[str, str]:
    """weight of the MODEL → its name in LoRA files, by diffusers' blocks, but for SDXL by the original, as is usual."""
    original = isinstance(model.model, comfy.model_base.SDXL)
    names: dict[str, str] = {}
    for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        by_original = name == KOHYA + key.removeprefix(adapt.NETWORK).removesuffix(".weight").replace(".", "_")
        if name.startswith(KOHYA) and (key not in names or by_original == original):
            names[key] = name
    return names


def with_lora(model: ModelPatcher, tensors: dict[str, Tensor], info: StudentInfo) -> ModelPatcher:
    """A clone of the base MODEL with a student's LoRA, that says `info`. Raises ValueError where it doesn't fit."""
    patches = comfy.lora.load_lora(tensors, comfy.lora.model_lora_keys_unet(model.model, {}))
    student = model.clone()
    expected = sum(name.endswith(".alpha") for name in tensors)
    if len(student.add_patches(patches)) != expected:
        raise ValueError(
            f"the LoRA has {expected} layers, of which this MODEL has {len(patches)}. Connect the model it was "
            "distilled from, or another of exactly that architecture."
        )
    student.set_attachments(adapt.STUDENT_INFO, info)
    student.set_attachments(ATTACHMENT, tensors)
    return student
