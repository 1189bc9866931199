"""Data-free Score identity Distillation: the training iteration, as a generator of step results.

Few-step SiD (arXiv 2505.12674): the student's k-th output is matched for a k drawn uniformly in each iteration, so one
fake score serves the uniform mixture of all its steps. Three roles start equal: the frozen teacher f_φ, the fake
score f_ψ that follows the student's outputs, and the student G_θ.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.conditioning import Cond, EncodedPrompts, replace_rows, select
from ..data.pairs import RealPictures
from ..method.guidance import guided
from ..method.losses import fake_score_loss, student_loss
from ..method.process import Process
from ..method.sampling import few_step, step_times
from .run import Gradients, NotFiniteError, Run, diverged, set_learning_rates
from .settings import Settings, draw_score_times, time_weight

Predictor = Callable[[Tensor, Tensor, Cond], Tensor]


@dataclass(frozen=True)
class StepResult:
    """What one iteration did.

    images: of all iterations so far. step: which of the student's steps was trained, from 1. Losses are per element of
    a latent. skipped: samples left out for being NaN. spread: the standard deviation across the batch's pictures, mean
    over elements; magnitude: their root mean square, both in the network's own scale.
    """

    iteration: int
    images: int
    step: int
    student_loss: float
    fake_loss: float
    skipped: int
    spread: float
    magnitude: float


@dataclass(frozen=True)
class Bucket:
    """One size of picture: (C, …) of its latents in the network's own scale, and the prompts encoded for it.

    images: real pictures of this size, with captions of their own.
    """

    latent_shape: tuple[int, ...]
    prompts: EncodedPrompts
    images: RealPictures | None = None


@dataclass(frozen=True)
class Predictors:
    """How to call the three roles: predictor(x_t, t, cond) → clean prediction (B, C, …).

    `teacher` already has its guidance κ4 in it; it is called with the prompts' cond and the ∅-prompt's.
    """

    teacher: Callable[[Tensor, Tensor, Cond, Cond], Tensor]
    fake: Predictor
    student: Predictor


def generator_for(seed: int, iteration: int, rank: int | None = None, update: int = 0) -> torch.Generator:
    """A CPU generator that any resumed run draws the same from; without a rank, the same on every rank.

    update: counts what an iteration draws anew.
    """
    key = struct.pack("<qqq", seed, iteration, -1 if rank is None else rank) + bytes(update)
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


def distill(
    run: Run,
    predict: Predictors,
    buckets: Sequence[Bucket],
    process: Process,
    device: torch.device,
    *,
    rank: int = 0,
    micro_batch: int | None = None,
) -> Iterator[StepResult]:
    """Train `run` for ever, one iteration a `next()`; the caller decides when to look, to save and to stop.

    buckets: one or more; an iteration's pictures are all of one size, each as likely, the same on every rank.
    micro_batch: at most so many samples go through a network at once, and their gradients are summed; what is learnt is
    the same, for less memory and, as the student's last step is then computed twice, somewhat more time. Raises
    NotFiniteError when no sample of a batch is finite. The weights are never left in the middle of an optimizer's step.
    """
    settings = run.settings
    times = step_times(settings.steps, process=process, t_init=settings.t_init)
    while True:
        set_learning_rates(run)
        of_all_ranks = generator_for(settings.seed, run.iteration)
        step = int(torch.randint(settings.steps, (), generator=of_all_ranks))
        bucket = buckets[int(torch.randint(len(buckets), (), generator=of_all_ranks))]
        elements = torch.Size(bucket.latent_shape).numel()
        split = torch.arange(settings.batch).split(micro_batch or settings.batch)
        # One part's graph serves both updates; those of several would be in memory at once.
        reuse = len(split) == 1
        for update in reversed(range(settings.fake_updates)):
            done = update >= settings.fake_updates - run.fake_updated
            if done and update > 0:
                continue
            draw = generator_for(settings.seed, run.iteration, rank, update)
            draws = _draw(run, step, bucket, process, draw)
            parts = [
                _part(draws.select(rows), predict, bucket.prompts, times[: step + 1], process, device) for rows in split
            ]
            parts = [found for part in parts if (found := part.generate(predict, reuse and update == 0))]
            if not parts:
                raise NotFiniteError(diverged(run, "the student's pictures are"))
            if done:
                continue
            gradients = Gradients(run, run.fake, run.fake_optimizer, run.fake_scaler, "the fake score's loss is")
            for part in parts:
                gradients.add(_fake_loss(part, predict, process, settings), len(part))
            run.fake_loss = gradients.apply() / elements
            run.fake_updated, run.torn = run.fake_updated + 1, False

        pictures = torch.cat([part.x_g.detach() for part in parts])
        gradients = Gradients(run, run.student, run.student_optimizer, run.student_scaler, "the student's loss is")
        run.fake.requires_grad_(False)
        try:
            for part in parts:
                if not reuse:
                    part.x_g = predict.student(part.x_t, part.t, part.cond)
                gradients.add(*_student_loss(part, predict, process, settings))
            loss_student = gradients.apply()
        finally:
            run.fake.requires_grad_(True)

        run.iteration += 1
        run.images += settings.batch
        run.ema.update(run.student.parameters(), settings.batch, run.images)
        run.fake_updated, run.torn = 0, False
        yield StepResult(
            run.iteration,
            run.images,
            step + 1,
            loss_student / elements,
            run.fake_loss,
            settings.batch - gradients.samples,
            float(pictures.std(0, correction=0).mean()),
            float(pictures.square().mean().sqrt()),
        )


@dataclass(frozen=True)
class _Draws:
    """All that an iteration leaves to chance, (B, …) each, so that a micro-batch takes its rows of it.

    noises: one for each of the student's steps. dropped: whose caption the fake score is trained without. The times and
    noises at which both scores are looked at: once to train the fake score, once for the student's loss.
    """

    prompts: Tensor
    noises: tuple[Tensor, ...]
    dropped: Tensor
    fake_times: Tensor
    fake_noise: Tensor
    student_times: Tensor
    student_noise: Tensor

    def select(self, rows: Tensor) -> "_Draws":
        values = {name: value for name, value in vars(self).items() if name != "noises"}
        noises = tuple(noise[rows] for noise in self.noises)
        return _Draws(noises=noises, **{name: value[rows] for name, value in values.items()})


def _draw(run: Run, step: int, bucket: Bucket, process: Process, draw: torch.Generator) -> _Draws:
    batch = run.settings.batch

    def noise() -> Tensor:
        return torch.randn(batch, *bucket.latent_shape, generator=draw)

    return _Draws(
        torch.randint(len(bucket.prompts), (batch,), generator=draw),
        tuple(noise() for _ in range(step + 1)),
        torch.rand(batch, generator=draw) < run.settings.caption_dropout,
        draw_score_times(process, run.settings, batch, draw),
        noise(),
        draw_score_times(process, run.settings, batch, draw),
        noise(),
    )


@dataclass
class _Part:
    """A micro-batch: its draws, conditioning, the student's last input x_t at t (B,), and its picture x_g."""

    draws: _Draws
    cond: Cond
    uncond: Cond
    x_t: Tensor
    t: Tensor
    x_g: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x_t)

    def generate(self, predict: Predictors, with_gradient: bool) -> "_Part | None":
        """Those of the samples whose picture is finite, with it; None without any."""
        with torch.set_grad_enabled(with_gradient):
            self.x_g = predict.student(self.x_t, self.t, self.cond)
            finite = _finite_samples(self.x_g)
            if finite.all():
                return self
            if not finite.any():
                return None
            keep = finite.nonzero()[:, 0]
            conds = select(self.cond, keep), select(self.uncond, keep)
            part = _Part(self.draws.select(keep.cpu()), *conds, self.x_t[keep], self.t[keep])
            # Once more without the others: their gradient is not finite either, and would reach every weight.
            part.x_g = predict.student(part.x_t, part.t, part.cond) if with_gradient else self.x_g[keep]
            return part


def _part(
    draws: _Draws, predict: Predictors, prompts: EncodedPrompts, times: Tensor, process: Process, device: torch.device
) -> _Part:
    cond = {name: values.to(device) for name, values in prompts.batch(draws.prompts).items()}
    uncond = {name: values.to(device) for name, values in prompts.unconditional(len(draws.prompts)).items()}
    noises = [noise.to(device) for noise in draws.noises]
    return _Part(draws, cond, uncond, *_noisy_input(predict.student, times, cond, process, noises))


def _fake_loss(part: _Part, predict: Predictors, process: Process, settings: Settings) -> Tensor:
    """The mean over the samples of the fake score's regression onto the student's pictures."""
    x_g, t = part.x_g.detach(), part.draws.fake_times.to(part.x_t.device)
    x_t = process.diffuse(x_g, part.draws.fake_noise.to(x_g.device), t)
    cond = replace_rows(part.cond, part.draws.dropped, part.uncond)
    y_fake = guided(predict.fake, x_t, t, cond, part.uncond, settings.guidance.fake_train)
    return fake_score_loss(y_fake, x_g, process.regression_weight(t))


def _student_loss(part: _Part, predict: Predictors, process: Process, settings: Settings) -> tuple[Tensor, int]:
    """The mean over the samples for which both scores are finite, and how many these are."""
    x_g, t = part.x_g, part.draws.student_times.to(part.x_t.device)
    x_t = process.diffuse(x_g, part.draws.student_noise.to(x_g.device), t)
    y_fake = guided(predict.fake, x_t, t, part.cond, part.uncond, settings.guidance.fake_score)
    y_teacher = predict.teacher(x_t, t, part.cond, part.uncond)
    usable = _finite_samples(y_fake, y_teacher)
    if not usable.all():
        # What goes back through a score that gave NaN is NaN as well, in that sample alone.
        x_g.register_hook(lambda gradient: _only(gradient, usable))
    weight = time_weight(settings.weighting, process, t[usable])
    loss = student_loss(x_g[usable], y_teacher[usable], y_fake[usable], alpha=settings.alpha, weight=weight)
    return loss, int(usable.sum())


def _finite_samples(*predictions: Tensor) -> Tensor:
    """(B,) bool: whether all of a sample is finite, in all of the predictions (B, C, …)."""
    return torch.stack([y.detach().flatten(1).isfinite().all(1) for y in predictions]).all(0)


def _only(gradient: Tensor, samples: Tensor) -> Tensor:
    """The gradient (B, C, …) with zeros for all but these samples, (B,) bool."""
    kept = torch.zeros_like(gradient)
    kept[samples] = gradient[samples]
    return kept


def _noisy_input(
    student: Predictor, times: Tensor, cond: Cond, process: Process, noises: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """What the student is given at the last of `times`, and that time as (B,); the steps before it without gradient."""
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
