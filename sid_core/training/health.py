"""Whether a run is well: warnings from the numbers of its iterations, each with the likely cause and what to change.

The limits come from runs of the demo model with four steps: well ones under each of the three strategies, none of which
gets a warning, and spoilt ones. Learning rates a hundred times too high are told of as soon as there are enough
iterations. Ones twenty times too high are not, in 60 iterations: every number stays within what well runs of another
strategy have, so the previews remain what to look at. dev/LOG.md has the numbers.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from .distill import StepResult

# Iterations that are averaged. The student's steps differ by up to 1.8 in spread and 1.5 in magnitude, and which of
# them an iteration trains is chance; with this many the average of a well run moves by a tenth.
WINDOW = 30
FIRST = 5  # iterations whose average spread is that of the run's start
# A sample in a hundred is an accident that costs nothing; one in twenty, for a whole window, is a cause at work.
NAN_SHARE = 0.05
# Spread rises in a well run (by 1.2 to 1.6 in 40 iterations, as the blur of the teacher's single steps goes).
COLLAPSED_SPREAD = 0.5
# Good students of the demo model, whose captions have one picture each, keep 0.2 to 0.5 of what their teacher has in as
# many steps. Other models' captions have many pictures, so they ought to keep more.
COLLAPSED_SEEDS = 0.1
# Root mean square, against the very first iteration, the only one before any weight has changed: 1.8 in well runs,
# where it began with the blurred first step; 3 at a learning rate a hundred times too high.
SATURATED_MAGNITUDE = 2.5
# Models are trained on values of about 1. A first iteration below this showed a blur, of a prompt that leaves much open
# most of all: 0.4 in runs of the demo model that went on to 1.3 and were well.
BLURRED_MAGNITUDE = 0.6
# Predicting no noise at all has a loss of 1 per element; 0.1 to 0.2 in well runs.
LOST_FAKE_LOSS = 1.0
# |student's loss| / fake score's loss, in well runs: 0.1 to 0.6 where teacher and fake score are guided alike, 2 to 5
# under Zero-CFG and 9 in the first iterations under Anti-CFG, where they differ by their guidance from the beginning
# (which other models may do more: hence the growth). A fake score that does not learn at all: below 1e-4.
RATIO_HIGH, RATIO_GROWTH, RATIO_LOW = 20.0, 5.0, 0.01
# log 2 by chance. Most of the times that pictures are compared at leave little of them to see, so a discriminator is
# far above this even where it is good.
WON_DISCRIMINATOR_LOSS = 0.05
# Teacher and fake score begin equal, with a student's loss of 0. At learning rates of 1e-6 they part slowly.
PATIENCE = 500

MESSAGES = {
    "nan": "Lower student_learning_rate and fake_learning_rate, or the guider's guidance_scale if it is above 5: "
    "{0:.0%} of the samples are not finite, as numbers overflow in the network.",
    "collapse": "Lower student_learning_rate or raise fake_learning_rate, lower the guider's guidance_scale, or raise "
    "batch_size: the student's pictures differ only {0:.0%} as much from each other as when the run began, so it is "
    "collapsing onto a few.",
    "seeds": "Lower student_learning_rate or raise fake_learning_rate, or lower the guider's guidance_scale: the "
    "pictures of one prompt differ only {0:.0%} as much by their seeds as when the run began, so prompts are "
    "collapsing onto one picture each.",
    "saturation": "Lower student_learning_rate, or the guider's guidance_scale or alpha: the student's values are "
    "{0:.1f} times as large as when the run began, which shows as glaring colours. The steps are too large.",
    "fake_score_lost": "Lower fake_learning_rate if this came at once, else student_learning_rate: the fake score's "
    "loss is {0:.2g}, and above 1 it knows less than nothing about the student's pictures and leads it astray.",
    "fake_score_behind": "Raise fake_learning_rate or lower student_learning_rate: the student's loss is {0:.1f} times "
    "the fake score's, which does not keep up with the student.",
    "no_signal": "Raise fake_learning_rate: the student's loss is {0:.2g} of the fake score's. Teacher and fake score "
    "say the same, so the student only learns from rounding errors.",
    "discriminator_won": "Lower discriminator_weight of SiD Training Options or fake_learning_rate, or use more "
    "images: the discriminator's loss is {0:.2g}, where 0.69 is chance. It always tells images from the student's "
    "pictures, and so no longer shows the student the way to them.",
}


@dataclass(frozen=True)
class HealthWarning:
    """kind: one of MESSAGES. message: what is seen, the likely cause, and which settings to change how."""

    kind: str
    message: str


class Health:
    """Looks at each iteration's result; warns once of each kind. window: iterations that are averaged."""

    def __init__(self, batch: int, window: int = WINDOW):
        self.batch = batch
        self.warned: set[str] = set()
        self._recent: deque[StepResult] = deque(maxlen=window)
        self._first: list[StepResult] = []
        self._seeds = 0.0

    def recall(self, rows: Iterable[Mapping[str, Any]], *, warnings: bool) -> None:
        """Take in the metrics of a run that goes on. warnings: those given then are not given again."""
        names = {field.name: field.default is MISSING for field in fields(StepResult)}
        for row in rows:
            if "warning" in row:
                self.warned |= {row["warning"]} if warnings else set()
            elif "seed_spread" in row:
                self._seeds = self._seeds or row["seed_spread"]
            elif all(row.get(name) is not None for name, required in names.items() if required):
                self._take(StepResult(**{name: row[name] for name in names if name in row}))

    def update(self, result: StepResult) -> list[HealthWarning]:
        """The warnings that this result is the first to give reason for."""
        self._take(result)
        if len(self._recent) < self._recent.maxlen:
            return []
        new = {kind: value for kind, value in self._signs().items() if kind not in self.warned}
        self.warned |= new.keys()
        return [HealthWarning(kind, MESSAGES[kind].format(value)) for kind, value in new.items()]

    def look(self, seed_spread: float) -> list[HealthWarning]:
        """The same for the spread of one prompt's pictures across seeds, in the network's own scale; the first that is
        told is that of the run's start."""
        self._seeds = self._seeds or seed_spread
        share = seed_spread / self._seeds if self._seeds else 1.0
        if "seeds" in self.warned or share >= COLLAPSED_SEEDS:
            return []
        self.warned.add("seeds")
        return [HealthWarning("seeds", MESSAGES["seeds"].format(share))]

    def _take(self, result: StepResult) -> None:
        if len(self._first) < FIRST:
            self._first.append(result)
        self._recent.append(result)

    def _signs(self) -> dict[str, float]:
        """Every kind of trouble there is now, with the number that its message tells."""
        skipped = sum(r.skipped for r in self._recent) / (len(self._recent) * self.batch)
        fake = _mean(r.fake_loss for r in self._recent)
        ratio = _ratio(self._recent)
        too_high = max(RATIO_HIGH, RATIO_GROWTH * _ratio(self._first))
        started = _mean(r.spread for r in self._first)
        # A batch of one has no spread, then or now.
        spread = _mean(r.spread for r in self._recent) / started if started else 1.0
        magnitude = _mean(r.magnitude for r in self._recent) / max(self._first[0].magnitude, BLURRED_MAGNITUDE)
        judged = {
            "nan": (skipped, skipped > NAN_SHARE),
            "collapse": (spread, spread < COLLAPSED_SPREAD),
            "saturation": (magnitude, magnitude > SATURATED_MAGNITUDE),
            "fake_score_lost": (fake, fake > LOST_FAKE_LOSS),
            "fake_score_behind": (ratio, ratio > too_high),
            "no_signal": (ratio, ratio < RATIO_LOW and self._recent[-1].iteration >= PATIENCE),
        }
        # Sizes that have no pictures have none in their iterations.
        judging = [r.discriminator_loss for r in self._recent if r.discriminator_loss is not None]
        if len(judging) >= FIRST:
            judged["discriminator_won"] = (_mean(judging), _mean(judging) < WON_DISCRIMINATOR_LOSS)
        return {kind: value for kind, (value, is_bad) in judged.items() if is_bad}


def _ratio(results: Iterable[StepResult]) -> float:
    """How large the student's loss is against the fake score's, on average."""
    listed = list(results)
    return sum(abs(r.student_loss) for r in listed) / max(sum(r.fake_loss for r in listed), 1e-30)


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
