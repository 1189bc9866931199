"""What a micro-batch adds to the updates of both trained roles: SiD's losses, and the adversarial ones beside them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.conditioning import Cond, moved, replace_rows, select
from ..data.pairs import RealPictures
from ..method.discriminator import deception_loss, discriminator_loss
from ..method.guidance import combined, halves
from ..method.losses import error_weight, fake_score_loss, student_loss
from ..method.process import Process
from .batch import Part, Predictors, finite_samples, only
from .settings import Settings, time_weight
from .together import guided_together, together


@dataclass(frozen=True)
class Share:
    """loss: the mean over `samples`, to differentiate. score: SiD's own loss in it. adversarial: how well real and
    generated pictures are told apart, as a mean cross entropy without any weights; None without such a term."""

    loss: Tensor
    samples: int
    score: Tensor
    adversarial: Tensor | None = None


def fake_share(
    part: Part, predict: Predictors, process: Process, settings: Settings, pictures: RealPictures | None
) -> Share:
    """The fake score's regression onto the student's pictures, and with real ones what it learns as a discriminator.

    That is as SiD-DiT (arXiv 2509.25127) has it: both kinds of pictures get the same times and noises, and the
    cross entropy is multiplied by C·H·W, as the regression is a sum over elements. Captions are dropped from the
    regression alone.
    """
    x_g, t = part.x_g.detach(), part.draws.fake_times.to(part.x_t.device)
    noise = part.draws.fake_noise.to(x_g.device)
    x_t = process.diffuse(x_g, noise, t)
    scale, weight = settings.guidance.fake_train, process.regression_weight(t)
    if pictures is None:
        cond = replace_rows(part.cond, part.draws.dropped, part.uncond)
        y_fake = guided_together(predict.fake, x_t, t, cond, part.uncond, scale, predict.at_once())
        score = fake_score_loss(y_fake, x_g, weight)
        return Share(score, len(part), score)
    y_fake, generated = _guided_with_logits(predict, x_t, t, part.cond, part.uncond, scale, part.draws.dropped)
    score = fake_score_loss(y_fake, x_g, weight)
    adversarial = discriminator_loss(_logits_of_real(part, predict, process, pictures, noise, t), generated)
    loss = score + settings.discriminator_weight * x_g[0].numel() * adversarial
    return Share(loss, len(part), score, adversarial)


def student_share(
    part: Part, predict: Predictors, process: Process, settings: Settings, adversarial: bool, anew: bool = False
) -> Share:
    """SiD's loss over the samples for which both scores are finite: L, or ½ L + ½ λ L_adv (SiDA, arXiv 2410.14919).

    anew: the part's picture has no graph to go back by, and is made again.
    """
    if anew:
        part.x_g = predict.student(part.x_t, part.t, part.cond)
    x_g, t = part.x_g, part.draws.student_times.to(part.x_t.device)
    x_t = process.diffuse(x_g, part.draws.student_noise.to(x_g.device), t)
    y_fake, logits, y_teacher = _both_scores(predict, x_t, t, part, settings.guidance.fake_score, adversarial)
    usable = finite_samples(y_fake, y_teacher, *([] if logits is None else [logits]))
    samples = int(usable.sum())
    if samples < len(part):
        # What goes back through a score that gave NaN is NaN as well, in that sample alone.
        x_g.register_hook(lambda gradient: only(gradient, usable))
        x_g, t, y_fake, y_teacher = (each[usable] for each in (x_g, t, y_fake, y_teacher))
        logits = None if logits is None else logits[usable]
    weight = time_weight(settings.weighting, process, t)
    if weight is None:
        weight = error_weight(x_g, y_teacher)
    score = student_loss(x_g, y_teacher, y_fake, alpha=settings.alpha, weight=weight)
    if logits is None:
        return Share(score, samples, score)
    deception = deception_loss(logits, weight) * part.x_t[0].numel()
    loss = 0.5 * score + 0.5 * settings.adversarial_weight * deception
    return Share(loss, samples, score, deception_loss(logits))


def _both_scores(
    predict: Predictors, x_t: Tensor, t: Tensor, part: Part, scale: float, adversarial: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The fake score's guided prediction, with an adversarial term its logits with the captions, and the teacher's."""
    cond, uncond = part.cond, part.uncond
    if predict.both is None or not predict.at_once():
        if adversarial:
            y_fake, logits = _guided_with_logits(predict, x_t, t, cond, uncond, scale)
        else:
            y_fake, logits = guided_together(predict.fake, x_t, t, cond, uncond, scale, predict.at_once()), None
        return y_fake, logits, predict.teacher(x_t, t, cond, uncond)
    judged = adversarial and scale != 0
    predictions, logits, y_teacher = predict.both(x_t, t, halves(cond, uncond, scale), cond, uncond, judged)
    if adversarial and not judged:
        logits = predict.discriminator(x_t, t, cond)
    return combined(predictions, scale), logits, y_teacher


def _guided_with_logits(
    predict: Predictors, x_t: Tensor, t: Tensor, cond: Cond, uncond: Cond, scale: float, dropped: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `guided`, and the logits of the forward with the captions, which stay in the adversarial term in any case.

    dropped: (B,) whose prediction is to be the ∅-prompt's instead, which is what guidance between it and itself is.
    """
    if scale == 0:
        return predict.fake(x_t, t, uncond), predict.discriminator(x_t, t, cond)
    drops = dropped is not None and (predict.in_step or bool(dropped.any()))
    if scale == 1 and not drops:
        return predict.fake_with_logits(x_t, t, cond)
    if predict.at_once():
        (unconditional, _), (clean, logits) = together(predict.fake_with_logits, x_t, t, [uncond, cond])
    else:
        unconditional, (clean, logits) = predict.fake(x_t, t, uncond), predict.fake_with_logits(x_t, t, cond)
    clean = unconditional + scale * (clean - unconditional)
    if drops:
        clean = torch.where(dropped.to(clean.device).view(-1, *[1] * (clean.ndim - 1)), unconditional, clean)
    return clean, logits


def _logits_of_real(
    part: Part, predict: Predictors, process: Process, pictures: RealPictures, noise: Tensor, t: Tensor
) -> Tensor:
    """Of those real pictures of the part that are finite."""
    real, cond = pictures.batch(part.draws.real)
    real, cond = real.to(noise), moved(cond, noise.device)
    finite = finite_samples(real)
    if not finite.all():
        rows = finite.nonzero()[:, 0]
        real, noise, t, cond = real[rows], noise[rows], t[rows], select(cond, rows)
    return predict.discriminator(process.diffuse(real, noise, t), t, cond)
