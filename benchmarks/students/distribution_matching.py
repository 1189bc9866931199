"""Distribution matching distillation: the student's gradient out of two scores; pure functions of tensors.

DMD (arXiv 2311.18828), as DMD2 (arXiv 2405.14867) uses it.
"""

import torch
from torch import Tensor


@torch.no_grad()
def matching_gradient(x_g: Tensor, y_teacher: Tensor, y_fake: Tensor) -> Tensor:
    """(y_ψ - y_φ) / mean|x_g - y_φ|: downhill of it the student's pictures become likelier for the teacher.

    DMD, eq. 7 and 8: the gradient of D_KL(p_fake ‖ p_teacher) by x_g is w_t α_t (s_ψ - s_φ), and the scores' difference
    is α_t/σ_t² (y_ψ - y_φ). As in the authors' code all factors of t are left out but the normalizer, the mean over a
    sample's elements; it is clipped at 1e-5. All (B, C, …): the student's pictures, and the clean predictions of both
    scores at their noised versions. → (B, C, …), without gradient.
    """
    size = (x_g - y_teacher).abs().flatten(1).mean(1).clamp(min=1e-5)
    return (y_fake - y_teacher) / size.view(-1, *[1] * (x_g.ndim - 1))


def surrogate_loss(x_g: Tensor, gradient: Tensor) -> Tensor:
    """½ mean ‖x_g - (x_g - gradient)‖² with the bracket held still: its gradient by x_g is gradient / elements."""
    return 0.5 * (x_g - (x_g - gradient).detach()).square().mean()
