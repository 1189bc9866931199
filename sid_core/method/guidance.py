"""Classifier-free guidance as distillation uses it: one scale κ for each place where a score is evaluated."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

Cond = TypeVar("Cond")


@dataclass(frozen=True)
class Guidance:
    """κ1 trains the fake score, κ2 = κ3 evaluates it in the student's loss, κ4 evaluates the teacher.

    LSG: SiD-LSG (arXiv 2406.01561). Zero-CFG, Anti-CFG: Few-step SiD (arXiv 2505.12674).
    """

    fake_train: float
    fake_score: float
    teacher: float
    name: str = "custom"

    def __post_init__(self) -> None:
        for scale in (self.fake_train, self.fake_score, self.teacher):
            if not math.isfinite(scale):
                raise ValueError(f"Set the guidance scale to a finite number; it is {scale}.")

    @classmethod
    def lsg(cls, scale: float) -> "Guidance":
        """Long-short guidance: the same scale everywhere; the authors train with 1.5 … 4.5."""
        return cls(scale, scale, scale, "lsg")

    @classmethod
    def zero_cfg(cls) -> "Guidance":
        """No guidance of the teacher, no text in the fake score: every place costs one forward."""
        return cls(0.0, 0.0, 1.0, "zero_cfg")

    @classmethod
    def anti_cfg(cls, scale: float = -1.0) -> "Guidance":
        """Negative guidance in the fake score. The paper's abstract gives no value; -1 is this project's default."""
        return cls(scale, scale, 1.0, "anti_cfg")


def guided(
    predict_clean: Callable[[Tensor, Tensor, Cond], Tensor],
    x_t: Tensor,
    t: Tensor,
    cond: Cond,
    uncond: Cond,
    scale: float,
) -> Tensor:
    """f_κ = f(x_t, ∅) + κ (f(x_t, c) - f(x_t, ∅)), with one forward where κ is 0 or 1.

    x_t: (B, C, …), t: (B,); `cond`, `uncond` are passed through. → clean prediction, (B, C, …).
    """
    return combined([predict_clean(x_t, t, each) for each in halves(cond, uncond, scale)], scale)


def halves(cond: Cond, uncond: Cond, scale: float) -> list[Cond]:
    """What guidance of this scale needs a prediction for: one of the two where κ is 0 or 1, else ∅ and the prompt."""
    if scale == 1:
        return [cond]
    return [uncond] if scale == 0 else [uncond, cond]


def evaluations(scale: float) -> int:
    """How many predictions guidance of this scale takes: 1 where it is 0 or 1, else 2."""
    return len(halves(None, None, scale))


def combined(predictions: Sequence[Tensor], scale: float) -> Tensor:
    """f_κ of the predictions for `halves`."""
    if len(predictions) == 1:
        return predictions[0]
    unconditional, conditional = predictions
    return unconditional + scale * (conditional - unconditional)


def steer_away(clean: Tensor, weaker: Tensor, strength: float) -> Tensor:
    """Move a prediction away from a weaker model's: f + s (f - f_weak) (autoguidance, arXiv 2406.02507, eq. 3)."""
    return clean + strength * (clean - weaker)
