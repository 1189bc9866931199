"""A student on a MODEL: its weights as patches of the base, and what it says of itself."""

import comfy.lora
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...sid_core.files.student import StudentInfo
from ..host.families import family_of
from ..host.weights import beyond_patches

STUDENT_INFO = "sid_student"
LORA = "sid_student_lora"
NETWORK = "diffusion_model."


def student_info(model: ModelPatcher) -> StudentInfo | None:
    """How the student on this wire says it is to be run, or None for any other MODEL."""
    return model.get_attachment(STUDENT_INFO)


def as_student(
    model: ModelPatcher, weights: dict[str, Tensor], info: StudentInfo, strength: float = 1.0, below: bool = False
) -> ModelPatcher:
    """A clone of the base MODEL that has `weights` (of its diffusion model) while it is loaded, and says `info`.

    strength: how far from the base's weights to the student's. below: under the patches that the MODEL has already, so
    that these are a part of the student as well; else its weights take their place.
    """
    student = model.clone()
    beyond = beyond_patches(model.model.diffusion_model)
    patched = {NETWORK + key: weight for key, weight in weights.items() if key not in beyond}
    if strength == 1:
        student.add_patches({key: ("set", (weight,)) for key, weight in patched.items()})
    else:
        student.add_patches({key: (weight,) for key, weight in patched.items()}, strength, 1 - strength)
    if below:
        for key in patched:
            *others, own = student.patches[key]
            student.patches[key] = [own, *others]
    for key in (NETWORK + name for name in weights.keys() & beyond):
        student.add_object_patch(
            key, _between(model.get_model_object(key), weights[key.removeprefix(NETWORK)], strength)
        )
    _attach(student, info)
    return student


def _between(base: Tensor, weight: Tensor, strength: float) -> Tensor:
    """What takes the base's place in its network: of the same kind, precision and device."""
    moved = weight.to(base.device, base.dtype)
    if strength != 1 and base.is_floating_point():
        moved = torch.lerp(base.detach().float(), moved.float(), strength).to(base.dtype)
    return nn.Parameter(moved, requires_grad=False) if isinstance(base, nn.Parameter) else moved


def with_lora(model: ModelPatcher, tensors: dict[str, Tensor], info: StudentInfo) -> ModelPatcher:
    """A clone of the base MODEL with a student's LoRA, that says `info`. Raises ValueError where it doesn't fit."""
    patches = comfy.lora.load_lora(tensors, comfy.lora.model_lora_keys_unet(model.model, {}))
    student = model.clone()
    expected = sum(name.endswith(".alpha") for name in tensors)
    if len(student.add_patches(patches)) != expected:
        raise ValueError(
            f"Connect the model that the student was distilled from, or another of exactly that architecture: its LoRA "
            f"has {expected} layers, of which this MODEL has {len(patches)}."
        )
    _attach(student, info)
    student.set_attachments(LORA, tensors)
    return student


def _attach(student: ModelPatcher, info: StudentInfo) -> None:
    """What it says of itself, and where the family has a guidance embedding, the one that students are trained at."""
    student.set_attachments(STUDENT_INFO, info)
    guidance = family_of(student).guidance
    if guidance is None:
        return

    def as_trained(executor, *args, **kwargs):
        if isinstance(kwargs.get("guidance"), Tensor):
            kwargs["guidance"] = torch.full_like(kwargs["guidance"], guidance)
        return executor(*args, **kwargs)

    student.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, STUDENT_INFO)
    student.add_wrapper_with_key(WrappersMP.APPLY_MODEL, STUDENT_INFO, as_trained)


def attached_lora(model: ModelPatcher) -> dict[str, Tensor] | None:
    """The LoRA of the student on this wire, or None where the student is a whole network."""
    return model.get_attachment(LORA)
