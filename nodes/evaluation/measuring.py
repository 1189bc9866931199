"""What is computed from a contender's features, each as a number with its interval, or as why it can't be computed."""

from collections.abc import Callable
from dataclasses import dataclass, field

import comfy.model_management

from ...sid_core.evaluation.feature_rows import FeatureRows
from ...sid_core.evaluation.jackknife import PARTS, Estimate
from ...sid_core.evaluation.streamed import (
    FeatureSet,
    frechet_distance,
    kernel_distance,
    mean_estimate,
    precision_and_recall,
    variety,
)
from ..training.evaluation import FRECHET, KERNEL
from .gathering import Gathered

NEIGHBOURS = 3
PRECISION, RECALL = "precision", "recall"
VARIETY, CLIP_SCORE, FORWARDS, SECONDS = "variety", "CLIP score", "forwards an image", "seconds an image"
METRICS = (KERNEL, FRECHET, PRECISION, RECALL, VARIETY, CLIP_SCORE, FORWARDS, SECONDS)
DISTANCES = METRICS[:4]


@dataclass
class Measured:
    """values: by metric, a number or why there is none. remarks: what is to be known about some of the numbers."""

    label: str
    pictures: int
    values: dict[str, Estimate | str]
    remarks: dict[str, str] = field(default_factory=dict)


@dataclass
class Reference:
    """What distances are to. whose: said beside them. is_teacher: the teacher has no distance to itself."""

    features: FeatureSet
    whose: str
    is_teacher: bool


def feature_set(rows: FeatureRows, in_group: int, prompts: int) -> FeatureSet:
    """in_group: pictures of a prompt that follow each other. Those of one prompt alone are each for itself."""
    check = comfy.model_management.throw_exception_if_processing_interrupted
    return FeatureSet(rows, in_group if prompts > 1 else 1, check)


def measure(
    gathered: Gathered, in_group: int, prompts: int, reference: Reference | str, why_no_clip_score: str | None
) -> Measured:
    """reference: or why there is none."""
    rows = gathered.rows
    measured = Measured(gathered.contender.label, len(rows), {})
    values = measured.values
    values[FORWARDS], values[SECONDS] = Estimate(gathered.forwards), Estimate(gathered.seconds)
    features = feature_set(rows, in_group, prompts)
    broken = _why_none(rows)
    if broken is None and isinstance(reference, str):
        why = reference
    elif broken is None and gathered.contender.is_teacher and reference.is_teacher:
        why = "the others are compared with it"
    else:
        why = broken
    if why is None:
        _distances(measured, features, reference.features)
    else:
        values |= dict.fromkeys(DISTANCES, why)
    values[VARIETY] = broken or _tried(lambda: variety(FeatureSet(rows, in_group, features.check), PARTS))
    _clip_score(measured, gathered, features, broken or why_no_clip_score)
    values.update({name: values[name] for name in METRICS})
    return measured


def _why_none(rows: FeatureRows) -> str | None:
    if not rows.width:
        return "no clip_vision is connected"
    if rows.not_finite:
        return f"{rows.not_finite} of {len(rows)} pictures have features that are not finite"
    return None


def _distances(measured: Measured, features: FeatureSet, reference: FeatureSet) -> None:
    values, width = measured.values, features.rows.width
    if (fewest := min(len(features), len(reference))) < 2:
        values |= dict.fromkeys(DISTANCES, f"takes two pictures or more of each; there is {fewest}")
        return
    values[KERNEL] = _tried(lambda: kernel_distance(features, reference, PARTS))
    values[FRECHET] = _tried(lambda: frechet_distance(features, reference, PARTS))
    if fewest <= width and isinstance(values[FRECHET], Estimate):
        measured.remarks[FRECHET] = (
            f"{fewest} pictures for {width} features are too few: it is far too high. Compare it only with others of "
            "as many pictures, or draw more."
        )
    if fewest <= NEIGHBOURS:
        values[PRECISION] = values[RECALL] = f"takes more than {NEIGHBOURS} pictures"
    else:
        values[PRECISION], values[RECALL] = precision_and_recall(features, reference, NEIGHBOURS, PARTS)


def _tried(compute: Callable[[], Estimate]) -> Estimate | str:
    try:
        return compute()
    except ValueError as error:
        return str(error)


def _clip_score(measured: Measured, gathered: Gathered, features: FeatureSet, why_not: str | None) -> None:
    alignment = gathered.alignment
    if why_not or alignment is None:
        measured.values[CLIP_SCORE] = why_not or "no text tower"
        return
    if odd := int((~alignment.isfinite().all(1)).sum()):
        measured.values[CLIP_SCORE] = f"{odd} of {len(alignment)} prompts have embeddings that are not finite"
        return
    spans = features.spans(PARTS)
    measured.values[CLIP_SCORE] = mean_estimate(alignment[:, 0], spans)
    above = mean_estimate(alignment[:, 0] - alignment[:, 1], spans)
    if features.in_group == 1 and (alignment[:, 0] == alignment[:, 1]).all():
        return  # one prompt: there is no other to compare with
    if not above.value > (above.margin or 0):
        measured.remarks[CLIP_SCORE] = (
            f"pictures are no more like their own prompts than like others' ({above.value:+.3f}): clip and clip_vision "
            "may not be of one CLIP."
        )
