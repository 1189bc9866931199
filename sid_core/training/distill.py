"""Score identity Distillation: the training iteration, as a generator of step results.

Few-step SiD (arXiv 2505.12674): the student's k-th output is matched for a k drawn uniformly in each iteration, so one
fake score serves the uniform mixture of all its steps. Three roles start equal: the frozen teacher f_φ, the fake
score f_ψ that follows the student's outputs, and the student G_θ. It takes prompts alone; with real pictures the fake
score is a discriminator as well (SiDA, arXiv 2410.14919), of that mixture against them.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ..data.conditioning import EncodedPrompts
from ..data.pairs import RealPictures
from ..method.process import Process
from ..method.sampling import step_times
from .batch import Predictors, draw_batch, part_of
from .run import NotFiniteError, Run, diverged, set_learning_rates
from .settings import Settings
from .shares import fake_share, student_share


@dataclass(frozen=True)
class StepResult:
    """What one iteration did.

    images: of all iterations so far. step: which of the student's steps was trained, from 1. Losses are per element of
    a latent. skipped: samples left out for being NaN. spread: the standard deviation across the batch's pictures, mean
    over elements; magnitude: their root mean square, both in the network's own scale. discriminator_loss,
    adversarial_loss: cross entropies of the discriminator and of the student that deceives it, log 2 by chance; None
    where an iteration has none.
    """

    iteration: int
    images: int
    step: int
    student_loss: float
    fake_loss: float
    skipped: int
    spread: float
    magnitude: float
    discriminator_loss: float | None = None
    adversarial_loss: float | None = None


@dataclass(frozen=True)
class Bucket:
    """One size of picture: (C, …) of its latents in the network's own scale, the prompts encoded for it, and real
    pictures of that size, if there are any, for the adversarial term."""

    latent_shape: tuple[int, ...]
    prompts: EncodedPrompts
    images: RealPictures | None = None


def is_adversarial(settings: Settings, buckets: Sequence[Bucket]) -> bool:
    """Whether there is an adversarial term in any iteration's losses."""
    return settings.adversarial_weight > 0 and any(bucket.images is not None for bucket in buckets)


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
    micro_batch: int | None = None,
) -> Iterator[StepResult]:
    """Train `run` for ever, one iteration a `next()`; the caller decides when to look, to save and to stop.

    buckets: one or more; an iteration's pictures are all of one size, each as likely, the same on every rank.
    Each of the run's ranks draws a batch of its own. micro_batch: at most so many samples are gone through at once (a
    network may get several rows for each: with and without its prompt, of teacher and fake score), and their gradients
    are summed; what is learnt is the same, for less memory and, as the student's last step is then computed twice,
    somewhat more time. Raises NotFiniteError when no sample of a batch is finite, and OtherRankError when another rank
    has ended. The weights are never left in the middle of an optimizer's step.
    """
    settings, ranks = run.settings, run.ranks
    common = {"predict": predict, "process": process, "settings": settings}
    proven = False  # that an iteration of such micro-batches fits into memory
    times = step_times(settings.steps, process=process, t_init=settings.t_init)
    while True:
        set_learning_rates(run)
        of_all_ranks = generator_for(settings.seed, run.iteration)
        step = int(torch.randint(settings.steps, (), generator=of_all_ranks))
        bucket = buckets[int(torch.randint(len(buckets), (), generator=of_all_ranks))]
        elements = torch.Size(bucket.latent_shape).numel()
        pictures = bucket.images if is_adversarial(settings, [bucket]) else None
        split = torch.arange(settings.batch).split(micro_batch or settings.batch)
        # One part's graph serves both updates; those of several would be in memory at once.
        reuse = len(split) == 1
        for update in reversed(range(settings.fake_updates)):
            done = update >= settings.fake_updates - run.fake_updated
            if done and update > 0:
                continue
            draws = draw_batch(
                settings,
                process,
                generator_for(settings.seed, run.iteration, ranks.rank, update),
                step=step,
                shape=bucket.latent_shape,
                prompts=len(bucket.prompts),
                pictures=len(pictures) if pictures else 0,
            )
            parts = [
                part_of(draws.select(rows), predict.student, bucket.prompts, times[: step + 1], process, device)
                for rows in split
            ]
            parts = [found for part in parts if (found := part.generate(predict, reuse and update == 0))]
            if not parts and ranks.size == 1:  # others may have some
                raise NotFiniteError(diverged(run, "the student's pictures are"))
            if done:
                continue
            gradients = run.fake_update(at_once=proven)
            gradients.gather(parts, partial(fake_share, **common, pictures=pictures))
            run.fake_loss = gradients.apply() / elements
            run.discriminator_loss = gradients.told()
            run.fake_updated, run.torn = run.fake_updated + 1, False

        drawn = torch.cat([part.x_g.detach() for part in parts]) if parts else torch.full((1, 1), torch.nan)
        deceives = pictures is not None and run.images >= settings.adversarial_warm_up

        gradients = run.student_update(at_once=proven)
        run.fake.requires_grad_(False)
        try:
            gradients.gather(parts, partial(student_share, **common, adversarial=deceives, anew=not reuse))
            loss_student = gradients.apply()
        finally:
            run.fake.requires_grad_(True)

        run.iteration += 1
        run.images += run.batch
        run.ema.update(run.student.parameters(), run.batch, run.images)
        run.fake_updated, run.torn, proven = 0, False, True
        yield StepResult(
            run.iteration,
            run.images,
            step + 1,
            loss_student / elements,
            run.fake_loss,
            run.batch - gradients.samples,
            *torch.stack([drawn.std(0, correction=0).mean(), drawn.square().mean().sqrt()]).tolist(),
            run.discriminator_loss,
            gradients.told(),
        )
