"""An iteration's batch: what it leaves to chance, and the micro-batches that it goes through the networks in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.conditioning import Cond, EncodedPrompts, moved, select
from ..method.process import Process
from ..method.sampling import few_step
from .settings import Settings, draw_score_times

Predictor = Callable[[Tensor, Tensor, Cond], Tensor]
BothScores = Callable[
    [Tensor, Tensor, Sequence[Cond], Cond, Cond, bool], tuple[Sequence[Tensor], Tensor | None, Tensor]
]


@dataclass(frozen=True)
class Predictors:
    """How to call the three roles: predictor(x_t, t, cond) → clean prediction (B, C, …).

    `teacher` already has its guidance κ4 in it; it is called with the prompts' cond and the ∅-prompt's.
    discriminator: the fake score's logits (B, …) alone, see `pooled`. fake_with_logits: both in one forward. Without
    these there is no adversarial term. both(x_t, t, conds, cond, uncond, judged) → the fake score's predictions for
    each of `conds`, if judged its logits for the last of them, and the teacher's prediction: all in one forward, where
    both are on one network. at_once: whether what is predicted at one x_t is to be one batch. in_step: the networks are
    called equally often whatever is drawn and comes out, as `Ranks.in_step` asks.
    """

    teacher: Callable[[Tensor, Tensor, Cond, Cond], Tensor]
    fake: Predictor
    student: Predictor
    discriminator: Predictor | None = None
    fake_with_logits: Callable[[Tensor, Tensor, Cond], tuple[Tensor, Tensor]] | None = None
    both: BothScores | None = None
    at_once: Callable[[], bool] = lambda: True
    in_step: bool = False


@dataclass(frozen=True)
class Draws:
    """All that an iteration leaves to chance, (B, …) each, so that a micro-batch takes its rows of it.

    noises: one for each of the student's steps. dropped: whose caption the fake score is trained without. The times and
    noises at which both scores are looked at: once to train the fake score, once for the student's loss. real: which of
    the real pictures the discriminator sees; None without an adversarial term.
    """

    prompts: Tensor
    noises: tuple[Tensor, ...]
    dropped: Tensor
    fake_times: Tensor
    fake_noise: Tensor
    student_times: Tensor
    student_noise: Tensor
    real: Tensor | None

    def select(self, rows: Tensor) -> "Draws":
        values = {name: value for name, value in vars(self).items() if name != "noises"}
        noises = tuple(noise[rows] for noise in self.noises)
        return Draws(noises=noises, **{name: None if value is None else value[rows] for name, value in values.items()})


def draw_batch(
    settings: Settings,
    process: Process,
    draw: torch.Generator,
    *,
    step: int,
    shape: tuple[int, ...],
    prompts: int,
    pictures: int,
) -> Draws:
    """step: of the student, from 0. shape: (C, …) of a latent. prompts, pictures: how many there are of both; with
    none of the latter, all else is drawn as it is with some."""
    batch = settings.batch

    def noise() -> Tensor:
        return torch.randn(batch, *shape, generator=draw)

    return Draws(
        torch.randint(prompts, (batch,), generator=draw),
        tuple(noise() for _ in range(step + 1)),
        torch.rand(batch, generator=draw) < settings.caption_dropout,
        draw_score_times(process, settings, batch, draw),
        noise(),
        draw_score_times(process, settings, batch, draw),
        noise(),
        torch.randint(pictures, (batch,), generator=draw) if pictures else None,  # last: see above
    )


@dataclass
class Part:
    """A micro-batch: its draws, conditioning, the student's last input x_t at t (B,), and its picture x_g."""

    draws: Draws
    cond: Cond
    uncond: Cond
    x_t: Tensor
    t: Tensor
    x_g: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x_t)

    def generate(self, predict: Predictors, with_gradient: bool) -> "Part | None":
        """Those of the samples whose picture by the student is finite, with it; None without any."""
        student = predict.student
        with torch.set_grad_enabled(with_gradient):
            self.x_g = student(self.x_t, self.t, self.cond)
            finite = finite_samples(self.x_g)
            if predict.in_step or finite.all():
                return self
            if not finite.any():
                return None
            keep = finite.nonzero()[:, 0]
            conds = select(self.cond, keep), select(self.uncond, keep)
            part = Part(self.draws.select(keep.cpu()), *conds, self.x_t[keep], self.t[keep])
            # Once more without the others: their gradient is not finite either, and would reach every weight.
            part.x_g = student(part.x_t, part.t, part.cond) if with_gradient else self.x_g[keep]
            return part


def part_of(
    draws: Draws, student: Predictor, prompts: EncodedPrompts, times: Tensor, process: Process, device: torch.device
) -> Part:
    """The micro-batch of these draws, up to the last of `times`: the student's steps before it are done."""
    cond = moved(prompts.batch(draws.prompts), device)
    uncond = moved(prompts.unconditional(len(draws.prompts)), device)
    noises = [noise.to(device) for noise in draws.noises]
    return Part(draws, cond, uncond, *noisy_input(student, times, cond, process, noises))


def finite_samples(*predictions: Tensor) -> Tensor:
    """(B,) bool: whether all of a sample is finite, in all of the predictions (B, C, …)."""
    return torch.stack([y.detach().flatten(1).isfinite().all(1) for y in predictions]).all(0)


def only(gradient: Tensor, samples: Tensor) -> Tensor:
    """The gradient (B, C, …) with zeros for all but these samples, (B,) bool."""
    kept = torch.zeros_like(gradient)
    kept[samples] = gradient[samples]
    return kept


def noisy_input(
    student: Predictor, times: Tensor, cond: Cond, process: Process, noises: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """What the student is given at the last of `times`, (B, C, …), and that time as (B,), when it samples from the
    first noise on: its steps before are done without gradient.

    noises: one for each of the times.
    """
    first, *others = noises
    t = times[-1].to(first.device).expand(len(first))
    if not others:
        return process.diffuse(torch.zeros_like(first), first, t), t
    following = iter(others)
    with torch.no_grad():
        x_t = few_step(
            lambda x_t, t: student(x_t, t, cond),
            first,
            times[:-1],
            process,
            next_noise=lambda: next(following),
            t_end=times[-1],
        )
    return x_t, t
