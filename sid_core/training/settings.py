"""What decides what a run learns, and what these settings mean over iterations and times."""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..method.guidance import Guidance
from ..method.process import VP, Process

ADAM, ADAM_8_BIT = "Adam", "Adam, 8 bits"
OPTIMIZERS = (ADAM, ADAM_8_BIT)
PUBLISHED, BY_ERROR, BY_SNR, BY_ROOT_SNR = "as published", "1/error", "snr", "sqrt(snr)"
WEIGHTINGS = (PUBLISHED, BY_ERROR, BY_SNR, BY_ROOT_SNR)
SMALLEST = 5e-324  # above zero
# Both ends included. What t_init may be beyond that depends on the model, see `step_times`.
RANGES = {
    "steps": (1, math.inf),
    "t_init": (SMALLEST, math.inf),
    "batch": (1, math.inf),
    "student_learning_rate": (0, math.inf),
    "fake_learning_rate": (0, math.inf),
    "learning_rate_decay_iterations": (0, math.inf),
    "warm_up_iterations": (0, math.inf),
    "fake_updates": (1, math.inf),
    "alpha": (-math.inf, math.inf),
    "caption_dropout": (0, 1),
    "ema_half_life_images": (0, math.inf),
    "gradient_norm": (0, math.inf),
    "adam_beta2": (0, 1 - 1e-9),
    "adam_epsilon": (SMALLEST, math.inf),
    "adversarial_weight": (0, math.inf),
    "discriminator_weight": (SMALLEST, math.inf),
    "adversarial_warm_up": (0, math.inf),
}
# What nodes call a setting that has a longer or shorter name here.
SHOWN_NAMES = {"batch": "batch_size", "ema_half_life_images": "ema_half_life"}


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run learns.

    steps, t_init: how the student samples. alpha, weighting: of the student's loss (`time_weight`). score_times: the
    VP training times, both ends included, at which scores are compared. Learning rates of both optimizers (see
    `learning_rate_factor`), Adam's β2 with β1 = 0 and its ε. fake_updates: of the fake score for each of the student's
    (SiD: 1; DMD2, arXiv 2405.14867: 5 to 10). ema_half_life_images: 0 is off. caption_dropout: share of ∅-prompts while
    the fake score is trained with κ1 ≠ 0. gradient_norm: to clip to; 0 is off.

    With real pictures (`Bucket.images`) there is an adversarial term too. adversarial_weight: λ of the student's share
    against SiD's loss; SiDA 1e-4, few-step SiD about 1e-3, SiD-DiT 1e-2; 0 is off. discriminator_weight: of the
    discriminator's share against the fake score's regression (SiD-DiT: 1). adversarial_warm_up: images at a run's start
    in which only the discriminator learns from real pictures. SiD-DiT: 40 k at batch 256 and learning rates of 1e-6; a
    LoRA's are higher, and its runs shorter.
    """

    guidance: Guidance
    steps: int = 4
    t_init: float | None = None
    batch: int = 32
    student_learning_rate: float = 1e-5
    fake_learning_rate: float = 1e-5
    learning_rate_decay_iterations: int = 0
    warm_up_iterations: int = 0
    fake_updates: int = 1
    alpha: float = 1.0
    weighting: str = PUBLISHED
    score_times: tuple[int, int] = (20, 979)
    caption_dropout: float = 0.1
    ema_half_life_images: float = 50_000
    gradient_norm: float = 0.0
    optimizer: str = ADAM
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    seed: int = 0
    adversarial_weight: float = 1e-3
    discriminator_weight: float = 1.0
    adversarial_warm_up: int = 1000

    def __post_init__(self) -> None:
        """Raises ValueError for what can't be trained with, NaN and infinities included."""
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not (low <= value <= high and math.isfinite(value)):
                raise ValueError(f"Set {shown_name(name)} to {_in_words(low, high)}; it is {value}.")
        for name, choices in (("weighting", WEIGHTINGS), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"Choose {name} from {', '.join(choices)}; it is {getattr(self, name)!r}.")
        low, high = self.score_times
        if not 0 <= low <= high <= 999:
            raise ValueError(
                f"Set score_time_low and score_time_high to a range within 0 to 999, the lower one first; they are "
                f"{low} and {high}."
            )

    def as_dict(self) -> dict:
        """Plain values, for JSON."""
        return asdict(self)


def shown_name(setting: str) -> str:
    """The name of a setting on the nodes, for messages."""
    return SHOWN_NAMES.get(setting, setting)


def _in_words(low: float, high: float) -> str:
    """What a range of RANGES takes."""
    if low == -math.inf:
        return "a finite number"
    least = "a number above 0" if low == SMALLEST else f"{low:g} or more"
    return least if high == math.inf else f"a number from {low:g} to {high:g}"


def learning_rate_factor(settings: Settings, iteration: int) -> float:
    """Of both learning rates: linearly up over the warm-up; then constant, or half a cosine down to zero at the end of
    `learning_rate_decay_iterations`, which the warm-up is part of."""
    factor = min(1.0, (iteration + 1) / (settings.warm_up_iterations + 1))
    if settings.learning_rate_decay_iterations:
        progress = min(1.0, iteration / settings.learning_rate_decay_iterations)
        factor *= 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * progress))))
    return factor


def draw_score_times(process: Process, settings: Settings, batch: int, generator: torch.Generator) -> Tensor:
    """(B,) times to compare scores at: VP uniform over score_times; flow sigmoid(N(ln 2, 1.6)) (SiD-DiT)."""
    if isinstance(process, VP):
        low, high = settings.score_times
        return torch.randint(low, high + 1, (batch,), generator=generator)
    return torch.sigmoid(torch.randn(batch, generator=generator) * 1.6 + torch.tensor(2.0).log())


def time_weight(weighting: str, process: Process, t: Tensor) -> Tensor | None:
    """The student's loss weight (B,) at times t (B,); None is 1/error, which `student_loss` finds itself.

    As published: 1/error for VP (SiD-LSG), 1 - t for flow; snr = (α/σ)² and its root are SiD-DiT's (arXiv 2509.25127).
    """
    if weighting == BY_ERROR or (weighting == PUBLISHED and isinstance(process, VP)):
        return None
    if weighting == PUBLISHED:
        return 1 - t
    alpha, sigma = process.coefficients(t)
    return alpha / sigma if weighting == BY_ROOT_SNR else (alpha / sigma) ** 2
