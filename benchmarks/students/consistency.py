"""The consistency function of latent consistency models (LCM, arXiv 2310.04378), its solver's step, and its loss."""

import torch
from torch import Tensor

from sid_pack.sid_core.method.process import VP, per_sample
from sid_pack.sid_core.method.sampling import implied_noise

SIGMA_DATA = 0.5
TIME_SCALING = 10.0
HUBER = 0.001


def boundary_scalings(t: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip = σ_d²/((s t)² + σ_d²), c_out = s t/√((s t)² + σ_d²), of t's shape: 1 and 0 at t = 0.

    Consistency models (arXiv 2303.01469, appendix C) by whole training times, with the authors' σ_d and s. From the
    first of a student's times on they are 0 and 1 but for some 1e-7, so that any sampler of clean predictions, as stock
    `lcm`, samples the student without them.
    """
    scaled = TIME_SCALING * t.double()
    total = scaled.square() + SIGMA_DATA**2
    return SIGMA_DATA**2 / total, scaled / total.sqrt()


def consistent(clean: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """f(x_t, t) = c_skip x_t + c_out x̂_0 (LCM, eq. 9). clean, x_t: (B, C, …), t: (B,) → (B, C, …)."""
    skip, out = (per_sample(c, x_t) for c in boundary_scalings(t))
    return skip * x_t + out * clean


def solver_times(process: VP, steps: int) -> Tensor:
    """The times of a DDIM solver of that many steps, (steps,), least first: 19, 39 … 999 for 50 of a thousand."""
    stride = len(process.alphas_cumprod) // steps
    return torch.arange(1, steps + 1) * stride - 1


def ddim_step(x_t: Tensor, clean: Tensor, t: Tensor, earlier: Tensor, process: VP) -> Tensor:
    """x_s = α_s x̂_0 + σ_s ε̂ with the noise that x̂_0 implies (DDIM, arXiv 2010.02502, eq. 12 without noise).

    The step of LCM's eq. 14, over all the times between. A guided x̂_0 implies the noise that guided ε̂ is, as guidance
    is an affine combination and each is affine in the other. t, earlier: (B,), the latter closer to the picture.
    """
    return process.diffuse(clean, implied_noise(x_t, clean, t, process), earlier)


def pseudo_huber(prediction: Tensor, target: Tensor, c: float = HUBER) -> Tensor:
    """mean √((f - f⁻)² + c²) - c, per element: the loss that the authors' script trains LCMs with."""
    return ((prediction - target).square() + c**2).sqrt().mean() - c
