"""A DMD2 student (arXiv 2405.14867): the training iteration, as a generator of what it did.

Three roles, as in SiD: the frozen teacher, the fake score that follows the student's pictures, and the student. In each
iteration the fake score has several updates and the student one (section 4.2), on pictures of the step that is trained
in a run of the student's own sampler (backward simulation, section 4.5). With real pictures, a head on the fake score's
features tells them from the student's (section 4.3).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from distribution_matching import matching_gradient, surrogate_loss
from gan_head import classifier_loss, features_of, student_gan_loss
from torch import Tensor, nn

from sid_pack.sid_core.data.conditioning import Cond, EncodedPrompts
from sid_pack.sid_core.data.pairs import RealPictures
from sid_pack.sid_core.method.losses import fake_score_loss
from sid_pack.sid_core.method.process import VP
from sid_pack.sid_core.method.sampling import step_times
from sid_pack.sid_core.training.batch import Predictors, noisy_input
from sid_pack.sid_core.training.distill import generator_for
from sid_pack.sid_core.training.run import NotFiniteError, Run, diverged, set_learning_rates
from sid_pack.sid_core.training.settings import draw_score_times

STUDENT_GAN_WEIGHT = 5e-3  # of SDXL's recipe, beside a mean over elements
CLASSIFIER_WEIGHT = 1e-2


@dataclass(frozen=True)
class Judge:
    """What the GAN needs. layer: of the fake score, whose features `head` looks at."""

    layer: nn.Module
    head: nn.Module
    pictures: RealPictures


def dmd2(
    run: Run,
    predict: Predictors,
    prompts: EncodedPrompts,
    latent_shape: tuple[int, ...],
    process: VP,
    device: torch.device,
    judge: Judge | None = None,
) -> Iterator[tuple[float, float]]:
    """Train `run` for ever, an iteration a `next()`; → the losses of student and fake score, means over elements.

    The teacher is guided in `predict`, by the guider's scale. judge: adds the GAN. `run.fake` has the judge's head
    among its parameters. What is drawn depends on the run's seed and iteration alone.
    """
    settings = run.settings
    times = step_times(settings.steps, process=process, t_init=settings.t_init)
    elements = torch.Size(latent_shape).numel()

    def on_device(cond: Cond) -> Cond:
        return {name: values.to(device) for name, values in cond.items()}

    def noise(draw: torch.Generator) -> Tensor:
        return torch.randn(settings.batch, *latent_shape, generator=draw).to(device)

    def noised(clean: Tensor, t: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        t = t.to(device)
        return process.diffuse(clean, noise(draw), t), t

    def realness(clean: Tensor, cond: Cond, draw: torch.Generator) -> Tensor:
        x_t, t = noised(clean, torch.randint(len(process.alphas_cumprod), (len(clean),), generator=draw), draw)
        return judge.head(features_of(judge.layer, lambda: predict.fake(x_t, t, cond)))

    while True:
        set_learning_rates(run)
        step = int(torch.randint(settings.steps, (), generator=generator_for(settings.seed, run.iteration)))
        for update in reversed(range(settings.fake_updates)):
            draw = generator_for(settings.seed, run.iteration, 0, update)
            rows = torch.randint(len(prompts), (settings.batch,), generator=draw)
            cond = on_device(prompts.batch(rows))
            noises = [noise(draw) for _ in range(step + 1)]
            x_t, t = noisy_input(predict.student, times[: step + 1], cond, process, noises)
            with torch.set_grad_enabled(update == 0):  # the last pictures are the student's to learn from
                x_g = predict.student(x_t, t, cond)
            generated = x_g.detach()
            x_t, t = noised(generated, draw_score_times(process, settings, settings.batch, draw), draw)
            loss = fake_score_loss(predict.fake(x_t, t, cond), generated, process.regression_weight(t)) / elements
            if judge:
                pairs = torch.randint(len(judge.pictures), (settings.batch,), generator=draw)
                picture, caption = judge.pictures.batch(pairs)
                real = realness(picture.to(device), on_device(caption), draw)
                loss = loss + CLASSIFIER_WEIGHT * classifier_loss(real, realness(generated, cond, draw))
            run.fake_loss = updated(run, run.fake, loss)

        uncond = on_device(prompts.unconditional(settings.batch))
        run.fake.requires_grad_(False)
        try:
            x_t, t = noised(generated, draw_score_times(process, settings, settings.batch, draw), draw)
            with torch.no_grad():
                y_teacher, y_fake = predict.teacher(x_t, t, cond, uncond), predict.fake(x_t, t, cond)
            loss = surrogate_loss(x_g, matching_gradient(generated, y_teacher, y_fake))
            if judge:
                loss = loss + STUDENT_GAN_WEIGHT * student_gan_loss(realness(x_g, cond, draw))
            student_loss = updated(run, run.student, loss)
        finally:
            run.fake.requires_grad_(True)
        advance(run)
        yield student_loss, run.fake_loss


def updated(run: Run, network: nn.Module, loss: Tensor) -> float:
    """One step of the optimizer that the student or the fake score has; → the loss.

    Raises NotFiniteError before it, so that a run that diverges keeps its last good weights.
    """
    is_student = network is run.student
    if not loss.isfinite():
        raise NotFiniteError(diverged(run, f"the {'student' if is_student else 'fake score'}'s loss is"))
    optimizer = run.student_optimizer if is_student else run.fake_optimizer
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), run.settings.gradient_norm or math.inf)
    run.torn = True
    optimizer.step()
    return loss.item()


def advance(run: Run) -> None:
    """An iteration is done: count it, and take the student into its average."""
    run.iteration += 1
    run.images += run.settings.batch
    run.ema.update(run.student.parameters(), run.settings.batch, run.images)
    run.torn = False
