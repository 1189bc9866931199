"""The two losses of Score identity Distillation, in x_0 space; pure functions of tensors."""

import torch
from torch import Tensor


def student_loss(
    x_g: Tensor, y_teacher: Tensor, y_fake: Tensor, *, alpha: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """L = (y_φ - y_ψ) · [(y_φ - x_g) - α (y_φ - y_ψ)] · weight, summed over elements, averaged over the batch.

    SiD (arXiv 2404.04057, eq. 23), SiD-LSG (arXiv 2406.01561, eq. 12). x_g: the student's output, y_teacher, y_fake:
    clean predictions at its noised version, all (B, C, …). weight: (B,), by default `error_weight`. α is 1 for
    text-to-image, 1.2 in EDM SiD.
    """
    if weight is None:
        weight = error_weight(x_g, y_teacher)
    gap = y_teacher - y_fake
    per_sample = (gap * ((y_teacher - x_g) - alpha * gap)).flatten(1).sum(1)
    return (per_sample * weight.to(per_sample)).mean()


def error_weight(x_g: Tensor, y_teacher: Tensor) -> Tensor:
    """1/mean|x_g - y_φ| of each sample, (B,): without gradient, the mean clipped at 1e-5 (SiD-LSG's weight)."""
    with torch.no_grad():
        return 1 / (x_g - y_teacher).abs().flatten(1).mean(1).clamp(min=1e-5)


def fake_score_loss(y_fake: Tensor, x_g: Tensor, weight: Tensor) -> Tensor:
    """Denoising regression weight · ‖y_ψ - x_g‖², summed over elements, averaged over the batch.

    y_fake, x_g: (B, C, …); weight: (B,) = `process.regression_weight(t)`. With snr_t this is ‖ε̂ - ε‖², for eps- and
    v-prediction alike: the paper's snr/(snr+1) on a v-error is the same number.
    """
    return ((y_fake - x_g).square().flatten(1).sum(1) * weight.to(y_fake)).mean()
