"""A trained student that a run's student begins from (SiD²A of SiDA, arXiv 2410.14919); the fake score does not."""

from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sid_core.files.student import StudentInfo
from ...sid_core.training.adapters import TARGETS, LoRASet, find_targets
from ..host.model import signature_of
from ..host.weights import with_ordinary_weights
from ..sampling.attached import attached_lora, student_info
from ..sampling.base import difference_of
from ..sampling.loras import ALPHA, DOWN, UP, layer_names
from .roles import LoRAOptions


@dataclass(frozen=True)
class Initial:
    """student: its MODEL. model: the one that is distilled. lora: the student's LoRA; None for the whole network."""

    student: ModelPatcher
    model: ModelPatcher
    info: StudentInfo
    lora: dict[str, Tensor] | None

    @classmethod
    def of(cls, student: ModelPatcher, model: ModelPatcher, options: LoRAOptions | None) -> "Initial":
        """options: of the LoRAs to train; None is for the whole network, which may begin from any student of the model.

        Raises ValueError for what such a run can't begin from.
        """
        info, base = student_info(student), signature_of(model)
        if info is None:
            raise ValueError(
                "Connect SiD Load Student or another SiD Distill as student, or nothing: this MODEL is not a SiD "
                "student. Without one, the student begins as the guider's model."
            )
        if info.base != base:
            raise ValueError(
                "Connect a student of the guider's model as student, or that student's own model to the guider: it is "
                f"a student of {info.base}, and the guider's model is {base}."
            )
        lora = attached_lora(student) if options else None
        if options:
            _require_same_lora(lora, model, options)
        return cls(student, model, info, lora)

    def remarks(self, now: StudentInfo) -> list[str]:
        """What a user should be told before such a run, of a student to be sampled as `now` says."""
        told = []
        if (self.info.steps, self.info.t_init) != (now.steps, now.t_init):
            told.append(
                f"Set steps to {self.info.steps} and t_init to {self.info.t_init:g}, as the connected student has "
                f"them, unless it is to learn others: they are {now.steps} and {now.t_init:g}."
            )
        if difference := difference_of(self.info, self.model):
            told.append(
                f"Let it run until its previews are sharp: the student begins as {self.info.run:.60}, which was "
                f"distilled from weights that differ by some {100 * difference:.2g} % from those of the guider's model."
            )
        if self.lora is not None:
            others = _patches(self.student) - sum(name.endswith(DOWN) for name in self.lora) - _patches(self.model)
            if others:
                told.append(
                    "Connect the student's MODEL as SiD Load Student gives it, to the model that the guider has: what "
                    "else is patched in it is not used, only its own LoRA is."
                )
        return told

    def begin(self, adapters: LoRASet) -> None:
        """Give these adapters, of the options that it was made for, the student's weights."""
        names = layer_names(self.model)
        with torch.no_grad():
            for layer, adapter in adapters.by_layer().items():
                down, up, alpha = (self.lora[names[layer] + part] for part in (DOWN, UP, ALPHA))
                adapter.down.copy_(down.view_as(adapter.down))
                # A file's alpha / rank goes into one of the factors, for a run has a scale of its own.
                adapter.up.copy_(up.view_as(adapter.up) * (float(alpha) / len(down) / adapter.scale))

    def with_ordinary_weights(self) -> ModelPatcher:
        """Its MODEL, to be copied whole."""
        return with_ordinary_weights(self.student)


def _require_same_lora(tensors: dict[str, Tensor] | None, model: ModelPatcher, options: LoRAOptions) -> None:
    if tensors is None:
        raise ValueError(
            "Set mode to full, or connect a student that is a LoRA as student: this one is a whole network, which a "
            "LoRA can't begin from."
        )
    found = {name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN)}
    layers = {targets: _layers(model, targets) for targets in TARGETS}
    if found != layers[options.targets]:
        fitting = [targets for targets, names in layers.items() if names == found]
        repair = f"Set lora_targets to {fitting[0]!r}" if fitting else "Connect another student as student"
        raise ValueError(
            f"{repair}: the connected student's LoRA is on {len(found)} layers, and with {options.targets!r} this "
            f"run's is on {len(layers[options.targets])}."
        )
    ranks = sorted({len(tensors[name + DOWN]) for name in found})
    if ranks != [options.student_rank]:
        repair = f"Set student_rank to {ranks[0]}" if len(ranks) == 1 else "Connect another student as student"
        raise ValueError(
            f"{repair}: the connected student's LoRA is of rank {', '.join(map(str, ranks))}, and student_rank is "
            f"{options.student_rank}."
        )


def _layers(model: ModelPatcher, targets: str) -> set[str]:
    """Their names in LoRA files."""
    names = layer_names(model)
    try:
        return {names[layer] for layer in find_targets(model.model.diffusion_model, targets) if layer in names}
    except ValueError:  # the network has no such layers
        return set()


def _patches(model: ModelPatcher) -> int:
    return sum(map(len, model.patches.values()))
