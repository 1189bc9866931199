"""The forward diffusions x_t = α_t x_0 + σ_t ε, and the way from a network's prediction to the clean image."""

import sys
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor


class Coefficients(NamedTuple):
    """α_t and σ_t of x_t = α_t x_0 + σ_t ε, each of t's shape."""

    alpha: Tensor
    sigma: Tensor


class Process(Protocol):
    """What sampling and distillation need of a forward diffusion."""

    default_t_init: float

    def first_times(self, steps: int) -> tuple[float, float]: ...
    def snap(self, t: Tensor) -> Tensor: ...
    def regression_weight(self, t: Tensor) -> Tensor: ...
    def coefficients(self, t: Tensor) -> Coefficients: ...
    def diffuse(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor: ...
    def clean(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor: ...


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(B,) or () → (B, 1, …, 1) on `like`'s device and dtype, to scale samples of any rank."""
    values = values.to(like.device, like.dtype)
    return values.reshape(-1, *[1] * (like.ndim - 1))


class _Diffusion:
    def diffuse(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = α_t x_0 + σ_t ε. x0, noise: (B, C, …), t: (B,) or a scalar."""
        alpha, sigma = (per_sample(c, x0) for c in self.coefficients(t))
        return alpha * x0 + sigma * noise


@dataclass(frozen=True)
class VP(_Diffusion):
    """Variance-preserving diffusion over discrete training times t ∈ {0 … T-1} (Ho et al., arXiv 2006.11239).

    α_t = √ᾱ_t, σ_t = √(1-ᾱ_t). `prediction` says what the network returns: "eps", or "v" = α_t ε - σ_t x_0
    (Salimans & Ho, arXiv 2202.00512).
    """

    alphas_cumprod: Tensor
    prediction: Literal["eps", "v"] = "eps"
    default_t_init: float = 625
    _tables: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.prediction not in ("eps", "v"):
            raise ValueError(f"prediction is {self.prediction!r}; expected 'eps' or 'v'")

    @classmethod
    def stable_diffusion(cls, prediction: Literal["eps", "v"] = "eps") -> "VP":
        """The schedule of SD1.5, SD2 and SDXL: 1000 times, √β linear from √0.00085 to √0.012."""
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        return cls(torch.cumprod(1 - betas, dim=0), prediction)

    def first_times(self, steps: int) -> tuple[float, float]:
        """The least and the greatest t_init: truncated to whole numbers, fewer times than steps would be equal ones."""
        return steps, len(self.alphas_cumprod) - 1

    def snap(self, t: Tensor) -> Tensor:
        """Sampler times as the training times they stand for: truncated to whole numbers."""
        return t.long()

    def regression_weight(self, t: Tensor) -> Tensor:
        """snr = (α/σ)², which makes a squared error in x_0 one in ε."""
        alpha, sigma = self.coefficients(t)
        return (alpha / sigma) ** 2

    def coefficients(self, t: Tensor) -> Coefficients:
        """t: whole training times 0…T-1, any shape. Raises ValueError outside that range."""
        try:
            # Unlike an index, it takes no negative times, and looks by itself: nothing waits for a GPU here.
            return Coefficients(*F.embedding(t.long(), self._table(t.device)).unbind(-1))
        except IndexError as error:
            raise ValueError(f"t is in {t.min()}…{t.max()}; expected 0…{len(self.alphas_cumprod) - 1}") from error

    def _table(self, device: torch.device) -> Tensor:
        """α_t and σ_t of all times, (T, 2), on that device."""
        if device not in self._tables:
            table = torch.stack([self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()], -1)
            # Apple's GPUs have no float64.
            self._tables[device] = (table.float() if device.type == "mps" else table).to(device)
        return self._tables[device]

    def clean(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x̂_0 = (x_t - σ_t ε̂)/α_t, or α_t x_t - σ_t v̂. Shapes as in `diffuse`."""
        alpha, sigma = (per_sample(c, x_t) for c in self.coefficients(t))
        if self.prediction == "eps":
            return (x_t - sigma * prediction) / alpha
        return alpha * x_t - sigma * prediction


@dataclass(frozen=True)
class Flow(_Diffusion):
    """Rectified flow over t ∈ [0, 1]: x_t = (1-t) x_0 + t ε, v = ε - x_0 (Liu et al., arXiv 2209.03003).

    `shift` s moves the sampler's times, t ← s t / (1 + (s-1) t) (Esser et al., arXiv 2403.03206, eq. 23); the
    process itself is the same for every shift. The few-step students of SiD-DiT (arXiv 2509.25127) use 1.
    """

    shift: float = 1.0
    default_t_init: float = 1.0

    def coefficients(self, t: Tensor) -> Coefficients:
        """t in [0, 1], any shape."""
        return Coefficients(1 - t, t)

    def first_times(self, steps: int) -> tuple[float, float]:
        """t_init is above the first of these, at which nothing is noisy, up to the second."""
        return 0.0, 1.0

    def snap(self, t: Tensor) -> Tensor:
        """Sampler times as the training times they stand for: moved by the shift."""
        return self.shift * t / (1 + (self.shift - 1) * t)

    def regression_weight(self, t: Tensor) -> Tensor:
        """1/t², which makes a squared error in x_0 one in v."""
        return 1 / t**2

    def clean(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x̂_0 = x_t - t v̂. Shapes as in `diffuse`."""
        return x_t - per_sample(t, x_t) * prediction


@dataclass(frozen=True)
class VE(_Diffusion):
    """x = x_0 + σ ε, with the noise level σ itself as time (Karras et al., arXiv 2206.00364).

    VP divided by α_t, with σ = σ_t/α_t: how ComfyUI's samplers see eps- and v-prediction models.
    """

    default_t_init: float = field(default=2.5, init=False)

    def first_times(self, steps: int) -> tuple[float, float]:
        """t_init is above the first of these, at which nothing is noisy, and finite."""
        return 0.0, sys.float_info.max

    def snap(self, t: Tensor) -> Tensor:
        return t

    def regression_weight(self, t: Tensor) -> Tensor:
        """1/σ², which makes a squared error in x_0 one in ε."""
        return 1 / t**2

    def coefficients(self, t: Tensor) -> Coefficients:
        """t = σ > 0, any shape."""
        return Coefficients(torch.ones_like(t), t)

    def clean(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x̂_0 = x - σ ε̂. Shapes as in `diffuse`."""
        return x_t - per_sample(t, x_t) * prediction
