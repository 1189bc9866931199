"""A latent consistency student (LCM, arXiv 2310.04378; as a LoRA, arXiv 2311.05556): the training iteration.

A real picture is noised to one of the solver's times; the guided teacher takes one DDIM step from there towards the
picture; the student's answer at the first is to be what its own average says at the second.
"""

from collections.abc import Iterator

import torch
from consistency import consistent, ddim_step, pseudo_huber, solver_times
from dmd2 import advance, updated
from torch import nn

from sid_pack.sid_core.data.conditioning import EncodedPrompts
from sid_pack.sid_core.data.pairs import RealPictures
from sid_pack.sid_core.method.process import VP
from sid_pack.sid_core.training.distill import Predictors, generator_for
from sid_pack.sid_core.training.run import Run, set_learning_rates

SOLVER_STEPS = 50  # of the whole way, so that a step skips 20 of a thousand times
TARGET_DECAY = 0.95


def lcm(
    run: Run,
    predict: Predictors,
    prompts: EncodedPrompts,
    pictures: RealPictures,
    process: VP,
    device: torch.device,
) -> Iterator[tuple[float, float]]:
    """Train `run` for ever, an iteration a `next()`; → the student's loss, and 0 for the fake score that there is none.

    In the fake score's place, `run.fake` and `predict.fake`, is the student's average, which the target is of; they are
    to start equal. prompts: for the empty one alone, as the captions come with the pictures. The teacher's guidance is
    1 + ω.
    """
    settings = run.settings
    times = solver_times(process, SOLVER_STEPS)
    run.fake.requires_grad_(False)
    while True:
        set_learning_rates(run)
        draw = generator_for(settings.seed, run.iteration, 0)
        picture, caption = pictures.batch(torch.randint(len(pictures), (settings.batch,), generator=draw))
        cond, uncond = (
            {name: values.to(device) for name, values in given.items()}
            for given in (caption, prompts.unconditional(settings.batch))
        )
        t = times[torch.randint(len(times), (settings.batch,), generator=draw)].to(device)
        earlier = (t - len(process.alphas_cumprod) // SOLVER_STEPS).clamp(min=0)
        x_t = process.diffuse(picture.to(device), torch.randn(picture.shape, generator=draw).to(device), t)
        with torch.no_grad():
            x_s = ddim_step(x_t, predict.teacher(x_t, t, cond, uncond), t, earlier, process)
            target = consistent(predict.fake(x_s, earlier, cond), x_s, earlier)
        loss = updated(run, run.student, pseudo_huber(consistent(predict.student(x_t, t, cond), x_t, t), target))
        follow(run.fake, run.student)
        advance(run)
        yield loss, 0.0


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module) -> None:
    """θ⁻ ← μ θ⁻ + (1 - μ) θ (LCM, algorithm 1)."""
    for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(weight, 1 - TARGET_DECAY)
