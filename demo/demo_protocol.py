"""The demo protocol: one fixed way to measure a sampler of the demo's pictures, so that numbers of two days compare.

Four sets of prompts, the same every time (`pack_reference.py` chose them):

- *training*: 1,024 styled captions of pictures that were trained with;
- *pairs*: 256 of held-out pictures whose subject and style were trained with, but apart;
- *subjects*: the 192 of pictures of subjects that were held out in all styles;
- *variety*: 32 training subjects without a style, 16 seeds each.

A run draws each prompt once; a score is the mean over 5 runs with different seeds. Of each set:

- *distance*: Fréchet distance to the real pictures of the same captions, in EfficientNet-lite0 features projected on
  the first 64 principal components of the training pictures; *kernel distance* (KID) in the same space; *precision*
  and *recall* by 3 nearest neighbours, too. The two distances to the teacher's own samples of the captions likewise.
  Precision says little alone: pictures that are like nothing lie in the middle of these coordinates, where the wide
  surroundings of uncommon pictures meet, and even noise has a precision of 1. Its recall is 0.
- *subject*: R@10, how often the caption's subject is among the ten, of a fold's 124, that a picture is nearest to
  (`reference.SubjectJudge`).
- *style*: how often a linear probe, fitted to the training pictures, names the style that the caption asks for.
- *variety* is in two figures: *entropy* of the probe's answers within a caption, and *spread*, the mean distance of two
  pictures of a caption. Both as a share of what 16 pictures have that are drawn at random, with replacement, from
  the caption's real ones: what a sampler comes to on average that knows these, and favours none. So the 16 samples
  are not compared with the 7 to 9 pictures that a real caption has, of which entropy and distance would be others. And
  as a share of the teacher's, of which there are 16 as well.

The real pictures' own line: their *floor* is one random half of a set against the other, averaged over splits. Halves
are smaller sets, so that a perfect sampler comes out below the floor of the Fréchet distance; the kernel distance is
unbiased, its floor 0 but for chance. The probe was fitted to the training pictures:
what it says of real ones is to be read off *pairs* and *subjects*.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from features import image_features, load_feature_network
from host import load_pack
from pictures import STYLES
from reference import NO_STYLE, SETS, VARIETY, Measured, Reference
from torch import Tensor

load_pack()
# The pack has this name only once it is loaded.
from sid_pack.sid_core.evaluation.distances import frechet_distance, kernel_distance  # noqa: E402
from sid_pack.sid_core.evaluation.neighbours import precision_and_recall  # noqa: E402
from sid_pack.sid_core.evaluation.variety import answer_entropy, expected_entropy, mean_pair_distance  # noqa: E402

SEEDS = 5
SEEDS_PER_CAPTION = 16
NEIGHBOURS = 3
FLOOR_SPLITS = 10


@dataclass(frozen=True)
class Prompts:
    """One set's: subject and style (NO_STYLE for none) of each, and its place in `Protocol.captions`; (N,) each."""

    subjects: Tensor
    styles: Tensor
    places: Tensor


@dataclass(frozen=True)
class Score:
    """Mean and standard deviation over the runs; of one run the deviation is 0."""

    mean: float
    std: float = 0.0


Scores = dict[str, dict[str, Score]]
"""By set and then by measure: scores["pairs"]["style"].mean."""


class Protocol:
    """The prompts, and the scores of pictures that were drawn for them."""

    def __init__(self, reference: Reference, device: torch.device | str = "cpu"):
        self.reference = reference
        self._device = device
        self.prompts: dict[str, Prompts] = {}
        self.captions: list[str] = []
        for name in SETS:
            real = reference.real[name]
            subjects, styles = real.subjects, real.styles
            if name == VARIETY:
                subjects = torch.unique(subjects).repeat_interleave(SEEDS_PER_CAPTION)
                styles = torch.full_like(subjects, NO_STYLE)
            places = torch.arange(len(subjects)) + len(self.captions)
            self.prompts[name] = Prompts(subjects, styles, places)
            self.captions += [
                reference.caption(*prompt) for prompt in zip(subjects.tolist(), styles.tolist(), strict=True)
            ]

    def some_prompts(self, count: int | None) -> dict[str, Prompts]:
        """All prompts, or about `count` of each set, always the same; of *variety* whole captions, one at least."""
        if count is None:
            return self.prompts
        few = {}
        for name, prompts in self.prompts.items():
            # The sets are in random order, but for the subjects of VARIETY, of which any are as good.
            rows = slice(max(1, count // SEEDS_PER_CAPTION) * SEEDS_PER_CAPTION if name == VARIETY else count)
            few[name] = Prompts(**{part: tensor[rows] for part, tensor in vars(prompts).items()})
        return few

    @cached_property
    def network(self) -> torch.nn.Module:
        return load_feature_network(self._device)

    def measure(self, images: Tensor, prompts: Prompts) -> Measured:
        """Look at pictures (N, H, W, 3) in [0, 1] that were drawn for these N prompts."""
        return self.reference.measure(image_features(self.network, images), prompts.subjects, prompts.styles)

    def score(self, runs: Iterable[dict[str, Measured]]) -> Scores:
        """Score runs, each of pictures for the prompts of some or all sets. What is kept of a run is a few numbers."""
        return over_runs({name: self.score_set(name, drawn) for name, drawn in run.items()} for run in runs)

    def score_set(self, name: str, drawn: Measured) -> dict[str, float]:
        """One run's scores on one set, by measure."""
        real, teacher = self.reference.real[name], self.reference.teacher.get(name)
        scores = told(drawn) | against(drawn.projected, real.projected)
        if teacher:
            scores["distance_to_teacher"] = frechet_distance(drawn.projected, teacher.projected)
            scores["kernel_distance_to_teacher"] = kernel_distance(drawn.projected, teacher.projected)
        if name == VARIETY:
            captions = torch.unique(drawn.subjects)
            scores |= variety(drawn, captions)
            scores |= shares(scores, variety_of_draws(real, captions), "real")
            scores |= shares(scores, variety(teacher, captions), "teacher") if teacher else {}
        return scores

    @cached_property
    def real_scores(self) -> Scores:
        """What the real pictures themselves score, the floor where a measure compares two sets."""
        return {name: self._real_scores(name, real) for name, real in self.reference.real.items()}

    def _real_scores(self, name: str, real: Measured) -> dict[str, Score]:
        scores = told(real)
        if name == VARIETY:
            own = variety_of_draws(real, torch.unique(real.subjects))
            scores |= own | shares(own, own, "real")
        generator = torch.Generator().manual_seed(0)
        orders = [torch.randperm(len(real.projected), generator=generator) for _ in range(FLOOR_SPLITS)]
        half = len(real.projected) // 2
        floors = (against(real.projected[order[:half]], real.projected[order[half:]]) for order in orders)
        return {measure: Score(value) for measure, value in scores.items()} | spread_of(floors)

    @cached_property
    def perfect_scores(self) -> Scores:
        """What a model without a fault would score, which draws through the same codec; of TRAINING alone."""
        return over_runs([{name: self.score_set(name, seen) for name, seen in self.reference.codec.items()}])

    @cached_property
    def chance(self) -> dict[str, dict[str, float]]:
        """What a guess scores, by set and measure."""
        judge = self.reference.judge
        return {
            name: {"subject": judge.chance(prompts.subjects)} | ({} if name == VARIETY else {"style": 1 / len(STYLES)})
            for name, prompts in self.prompts.items()
        }


def told(drawn: Measured) -> dict[str, float]:
    """How often the judge finds the subject, and the probe the style where all captions ask for one."""
    scores = {"subject": drawn.found.double().mean().item()}
    if (drawn.styles != NO_STYLE).all():
        scores["style"] = (drawn.answers == drawn.styles).double().mean().item()
    return scores


def against(drawn: Tensor, real: Tensor) -> dict[str, float]:
    """What compares two sets of projected features, (N, K) and (M, K)."""
    precision, recall = precision_and_recall(drawn, real, NEIGHBOURS)
    return {
        "distance": frechet_distance(drawn, real),
        "kernel_distance": kernel_distance(drawn, real),
        "precision": precision,
        "recall": recall,
    }


def variety(drawn: Measured, captions: Tensor) -> dict[str, float]:
    """Entropy in nats and spread within a caption, averaged over these captions' subjects."""
    return _mean_within(
        drawn,
        captions,
        entropy=lambda one: answer_entropy(one.answers, len(STYLES)),
        spread=lambda one: mean_pair_distance(one.projected),
    )


def variety_of_draws(real: Measured, captions: Tensor) -> dict[str, float]:
    """The same for SEEDS_PER_CAPTION pictures that are drawn with replacement from each caption's real ones."""
    return _mean_within(
        real,
        captions,
        entropy=lambda one: expected_entropy(one.answers, len(STYLES), SEEDS_PER_CAPTION),
        spread=lambda one: mean_pair_distance(one.projected, replaced=True),
    )


def _mean_within(seen: Measured, captions: Tensor, **measures: Callable[[Measured], float]) -> dict[str, float]:
    each = [seen[seen.subjects == subject] for subject in captions]
    return {name: sum(map(measure, each)) / len(each) for name, measure in measures.items()}


def shares(scores: dict[str, float], whole: dict[str, float], of: str) -> dict[str, float]:
    return {f"{name}_of_{of}": scores[name] / value for name, value in whole.items()}


def over_runs(runs: Iterable[dict[str, dict[str, float]]]) -> Scores:
    runs = list(runs)
    return {name: spread_of(run[name] for run in runs) for name in runs[0]}


def spread_of(runs: Iterable[dict[str, float]]) -> dict[str, Score]:
    """Mean and standard deviation of each measure over runs that have the same ones."""
    runs = list(runs)
    values = {measure: torch.tensor([run[measure] for run in runs], dtype=torch.float64) for measure in runs[0]}
    return {
        measure: Score(value.mean().item(), value.std(correction=min(1, len(value) - 1)).item())
        for measure, value in values.items()
    }
