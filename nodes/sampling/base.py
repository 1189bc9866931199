"""The MODEL that a student is put onto, and the one that it was distilled from: how far apart their weights are."""

from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher

from ...sid_core.files.student import StudentInfo, apart
from ..host.fingerprints import weights_sample

LEAST = 0.01  # of the weights, from which on they are called others; rounding to 16 bits stays below


@dataclass(frozen=True)
class Distance:
    """difference: of the weights, relative to those of the base that the student was distilled from. patched: whether
    it is with the MODEL's patches in them that they are this near, so that the student has learnt these as well."""

    difference: float
    patched: bool
    least: float

    @property
    def is_same(self) -> bool:
        return self.difference <= self.least


def distance_to_base(info: StudentInfo, model: ModelPatcher) -> Distance | None:
    """Of the MODEL, with its patches or without, whichever is nearer; None where the student's file doesn't say it."""
    if info.base_weights is None:
        return None
    found = {patched: weights_sample(model, patched) for patched in (False, True)}
    distances = {patched: apart(sample, info.base_weights) for patched, sample in found.items() if sample is not None}
    if not distances:
        return None
    nearest = min(distances, key=distances.__getitem__)  # of two that are equal, without
    return Distance(distances[nearest], nearest, _least(model))


def difference_of(info: StudentInfo, model: ModelPatcher) -> float | None:
    """Of the MODEL as it is, all patches in it: how far it is from the student's base, or None where it is the same or
    nobody knows."""
    sample = info.base_weights and weights_sample(model)
    difference = apart(sample, info.base_weights) if sample else 0.0
    return difference if difference > _least(model) else None


def _least(model: ModelPatcher) -> float:
    """What rounding alone may come to: half of the last digit, of which float8 has few."""
    dtype = model.model.get_dtype()
    return max(LEAST, torch.finfo(dtype).eps / 2 if dtype.is_floating_point else LEAST)
