"""A whole student as a LoRA on its base: what it learnt, layer by layer, in the rank that a file is to have."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import comfy.model_management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ...sid_core.files.student import StudentInfo
from ...sid_core.files.tensors import is_finite
from ...sid_core.method.low_rank import Factors, factored
from ...sid_core.training.adapters import TARGETS, find_targets
from ..host import say
from ..host.fingerprints import weights_sample
from ..host.model import signature_of
from ..host.node import Node
from ..host.search import found_by
from ..host.weights import PatchedWeights, with_ordinary_weights
from .attached import student_info, with_lora
from .extracted import Extracted
from .loras import ALPHA, DOWN, UP, layer_names

WEIGHT = ".weight"


def extract(model: ModelPatcher, base: ModelPatcher, rank: int, energy: float) -> tuple[dict[str, Tensor], Extracted]:
    """What MODEL has learnt beyond its base as a LoRA, by the names that files have; and how much of it that holds.

    It is on the layers of the smallest of TARGETS that has all that differ, for only such a LoRA is a student. rank,
    energy: see `factored`. One layer after the other, in float32 on the compute device. Raises ValueError where no
    layer differs, and the host's interrupt when the user has cancelled.
    """
    names, kinds = layer_names(base), _kinds(base)
    able = set().union(*kinds.values()) & names.keys()
    layers: dict[str, Factors] = {}
    others: dict[str, float] = {}
    for weight, difference in _differences(model, base):
        layer = weight.removesuffix(WEIGHT)
        if layer in able and layer != weight:
            layers[layer] = _on_cpu(factored(difference, rank, energy))
        else:
            others[weight] = float(torch.linalg.vector_norm(difference))
    changed = {layer for layer, factors in layers.items() if factors.norm}
    if not changed:
        raise ValueError(
            "Connect a student as model, and as base the model that it was distilled from: there is no layer in which "
            "these two differ."
        )
    targets = next(targets for targets, found in kinds.items() if changed <= found)
    extracted = Extracted({layer: layers[layer] for layer in layers if layer in kinds[targets]}, others, targets)
    tensors: dict[str, Tensor] = {}
    for layer, factors in extracted.layers.items():
        name, alpha = names[layer], torch.tensor(float(factors.rank))
        tensors |= {name + DOWN: factors.down, name + UP: factors.up, name + ALPHA: alpha}
    return tensors, extracted


def _kinds(base: ModelPatcher) -> dict[str, set[str]]:
    """The layers of each of TARGETS, of which the last has all."""
    kinds = {}
    for targets in TARGETS:
        with contextlib.suppress(ValueError):  # it has none of these
            kinds[targets] = set(find_targets(base.model.diffusion_model, targets))
    return kinds


def _differences(model: ModelPatcher, base: ModelPatcher) -> Iterator[tuple[str, Tensor]]:
    """(name, what MODEL has more than its base) of each weight; with the host's bar, and a look for Cancel."""
    ours, theirs = (PatchedWeights(with_ordinary_weights(each)) for each in (model, base))
    bar = comfy.utils.ProgressBar(len(theirs))
    for name in theirs:
        comfy.model_management.throw_exception_if_processing_interrupted()
        difference = ours[name] - theirs[name]
        if not is_finite(difference):
            raise ValueError(f"Connect another MODEL as model or base: {name:.100} is not finite in one of them.")
        yield name, difference
        bar.update(1)


def _on_cpu(factors: Factors) -> Factors:
    return replace(factors, down=factors.down.cpu(), up=factors.up.cpu())


def require_student(model: ModelPatcher, base: ModelPatcher) -> StudentInfo:
    """What the student on `model` says. Raises ValueError where it is none, or not of that base."""
    info = student_info(model)
    if info is None:
        raise ValueError(
            "Connect SiD Load Student or SiD Distill as model: this MODEL is not a SiD student, so that nothing says "
            "how it is to be sampled. Other models are for ComfyUI's Extract and Save Lora."
        )
    signature = signature_of(base)
    if info.base != signature:
        raise ValueError(
            f"Connect as base the model that the student was distilled from: it is a student of {info.base}, and this "
            f"MODEL is {signature}."
        )
    return info


class SiDExtractLoRA(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDExtractLoRA",
            **found_by(
                "extract lora", "whole model to lora", "subtract models", "svd", "resize lora", "shrink student"
            ),
            display_name="SiD Extract LoRA",
            category="SiD/students",
            description="Makes a LoRA of a whole student: a smaller file, which goes onto other models "
            "of the same base and takes a strength. SiD Save Student writes it.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The student, with all that is patched in it; a LoRA may be made smaller, too.",
                ),
                io.Model.Input("base", tooltip="The model that it was distilled from."),
                io.Int.Input(
                    "rank",
                    default=64,
                    min=1,
                    max=1024,
                    tooltip="Of the LoRA, at most, 1 to 1024. More keeps more of the student, in a larger file.",
                ),
                io.Float.Input(
                    "energy",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Each layer takes no more of the rank than it needs to keep this share of its difference "
                    "(of the squared singular values), 0.01 to 1. 1: all of the rank.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="student"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(cls, model, base, rank, energy):
        info = require_student(model, base)
        tensors, extracted = extract(model, base, rank, energy)
        student = with_lora(base, tensors, replace(info, base_weights=weights_sample(base)))
        say.on_node("\n".join(extracted.summary()))
        return io.NodeOutput(student, extracted.report())


NODES = [SiDExtractLoRA]
