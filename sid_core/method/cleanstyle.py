"""Style tokens without their content: CleanStyle (arXiv 2602.20721) by rescaling singular values.

X = U Σ Vᵀ of a picture's N style tokens (or of their keys or values): the first singular values hold its style, the
tail its content. What is decomposed once is rescaled at every step for the cost of a small product.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


def suppression(
    progress: float | Tensor, *, alpha: float = 0.01, gamma: float = 20.0, center: float = 0.3
) -> float | Tensor:
    """α_t = α (1 - s(p)), s(p) = 1/(1 + e^{-γ(p - c)}): strong where the picture's content is decided, then gone.

    progress: p, 0 at pure noise and 1 at the image. → α_t, a float for a float, else shaped as progress.
    """
    if isinstance(progress, Tensor):
        return alpha * torch.sigmoid(-gamma * (progress - center))
    # Beyond e^700 floats overflow, and α_t is 0 long before.
    return alpha / (1 + math.exp(min(gamma * (progress - center), 700.0)))


def suppression_steps(
    *, alpha: float = 0.01, gamma: float = 20.0, center: float = 0.3, resolution: float = 0.05
) -> list[tuple[float, float, float]]:
    """`suppression` as a staircase, for tokens that can't change at every step: (start, end, α), first to last.

    start, end: progress; together they are 0 … 1. α: the mean of α_t in between, from which α_t itself is never further
    than resolution · alpha. So the steps lie where α_t changes, whatever gamma is.
    """
    first, last = (suppression(p, alpha=alpha, gamma=gamma, center=center) for p in (0.0, 1.0))
    if first == last:
        return [(0.0, 1.0, first)]
    steps = math.ceil((first - last) / (resolution * alpha))
    levels = [first + (last - first) * i / steps for i in range(1, steps)]
    edges = [0.0, *(center + math.log(alpha / level - 1) / gamma for level in levels), 1.0]

    def integral(progress: float) -> float:
        x = gamma * (center - progress)
        return -alpha * (max(x, 0.0) + math.log1p(math.exp(-abs(x)))) / gamma

    return [(a, b, (integral(b) - integral(a)) / (b - a)) for a, b in pairwise(edges)]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The singular value decomposition of B pictures' tokens, each of its own: left @ right are the tokens.

    left: (B, N, R), right: (B, R, D), with Σ in the one of them that the tokens' longer side is in; both float32 on
    the tokens' device. singular_values: (B, R), largest first. R = min(N, D). dtype: of what the methods return.
    """

    left: Tensor
    right: Tensor
    singular_values: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, tokens: Tensor) -> "Spectrum":
        """tokens: (B, N, D), of any float dtype. Raises ValueError for another shape, and for NaN or infinite values.

        By the eigenvectors of the small side's Gram matrix, in float64 on the CPU, which not every accelerator has:
        ten to a thousand times closer than a float32 SVD, and faster (dev/LOG.md).
        """
        if tokens.ndim != 3 or 0 in tokens.shape:
            raise ValueError(
                f"Give other style tokens: they are of shape {tuple(tokens.shape)}; expected (pictures, tokens, "
                "features)."
            )
        wide = tokens.detach().to("cpu", torch.float64)
        if broken := [i for i, picture in enumerate(wide) if not picture.isfinite().all()]:
            raise ValueError(
                "Look for an image encoder or adapter that has overflowed, a damaged file or an empty picture: the "
                f"style tokens of picture {', '.join(str(i + 1) for i in broken)} (of {len(wide)}) have NaN or "
                "infinite values, so they have no spectrum. In bfloat16 or float32 they would not overflow."
            )
        tall = tokens.shape[1] > tokens.shape[2]
        if tall:
            wide = wide.mT
        basis = torch.linalg.eigh(wide @ wide.mT).eigenvectors.flip(-1)
        projected = basis.mT @ wide
        values = torch.linalg.vector_norm(projected, dim=-1)
        factors = (projected.mT, basis.mT) if tall else (basis, projected)
        left, right, values = (x.to(tokens.device, torch.float32).contiguous() for x in (*factors, values))
        return cls(left, right, values, tokens.dtype)

    @classmethod
    def joined(cls, spectra: Sequence["Spectrum"]) -> "Spectrum":
        """The spectra of tokens of one shape and dtype as that of one batch, in this order."""
        parts = zip(*((one.left, one.right, one.singular_values) for one in spectra), strict=True)
        return cls(*(torch.cat(part) for part in parts), spectra[0].dtype)

    def part(self, rows: slice) -> "Spectrum":
        """Some pictures of the batch, on the same memory."""
        return Spectrum(self.left[rows], self.right[rows], self.singular_values[rows], self.dtype)

    def purified(
        self, top_k: int = 1, alpha: float | Tensor = 0.01, beta: float = 1.0, relative: bool = False
    ) -> Tensor:
        """The first top_k singular values kept, the tail suppressed (see `purify_gains`). → (B, N, D)."""
        return self.scaled(self.purify_gains(top_k, alpha, beta, relative))

    def negative(
        self,
        alpha: float | Tensor = 0.2,
        beta: float = 1.0,
        hard: bool = False,
        top_k: int = 1,
        relative: bool = False,
    ) -> Tensor:
        """The style-negative: what is to be guided away from, the content (see `negative_gains`). → (B, N, D)."""
        return self.scaled(self.negative_gains(alpha, beta, hard, top_k, relative))

    def purify_gains(
        self, top_k: int = 1, alpha: float | Tensor = 0.01, beta: float = 1.0, relative: bool = False
    ) -> Tensor:
        """g_i = 1 for i < top_k, else β e^{-α σ_i}: what each singular value is multiplied with. → (B, R).

        alpha: one for all, or (B,). relative: σ_i/σ_1 in the exponent, so that the same α does the same to every
        encoder and layer. Raises ValueError for a top_k below 0 or above R.
        """
        self._check(top_k)
        if isinstance(alpha, Tensor):
            alpha = alpha.to(self.singular_values).view(-1, 1)
        gains = beta * torch.exp(-alpha * self.rates(relative))
        gains[:, :top_k] = 1
        return gains

    def rates(self, relative: bool) -> Tensor:
        """What α is multiplied with in the exponent, a tensor of its own: σ_i, or σ_i/σ_1. → (B, R)."""
        values = self.singular_values
        return values / values[:, :1].clamp(min=torch.finfo(values.dtype).tiny) if relative else values.clone()

    def negative_gains(
        self,
        alpha: float | Tensor = 0.2,
        beta: float = 1.0,
        hard: bool = False,
        top_k: int = 1,
        relative: bool = False,
    ) -> Tensor:
        """g_i = β e^{-α σ_i} for all i, as the authors' code has it: large values vanish, the tail stays. → (B, R).

        hard: instead 0 for i < top_k, else β, as the paper's figure has it. top_k is of the hard tail alone, and
        raises ValueError below 0 or above R; alpha and relative are of the soft one alone.
        """
        if not hard:
            return self.purify_gains(0, alpha, beta, relative)
        self._check(top_k)
        gains = torch.full_like(self.singular_values, beta)
        gains[:, :top_k] = 0
        return gains

    def scaled(self, gains: Tensor) -> Tensor:
        """U diag(g_i σ_i) Vᵀ for gains (B, R) → (B, N, D), in the tokens' dtype."""
        return _product(self.left, gains, self.right).to(self.dtype)

    def kept(self, gains: Tensor) -> Tensor:
        """The share of the tokens' energy that gains (B, R) leave: Σ (g_i σ_i)² / Σ σ_i². → (B,); 1 for zero tokens."""
        # By shares of the largest, whose squares can't overflow.
        values = self.singular_values / self.singular_values.amax(-1, keepdim=True)
        return ((gains * values).square().sum(-1) / values.square().sum(-1)).nan_to_num(nan=1.0)

    def _check(self, top_k: int) -> None:
        rank = self.singular_values.shape[-1]
        if not 0 <= top_k <= rank:
            raise ValueError(
                f"Set top_k to a number from 0 to {rank}, of which 1 is usual: k is {top_k}, but these style tokens "
                f"have {rank} singular values, and {rank} keeps them as they are."
            )


class Purifier:
    """`Spectrum.purified` at one α after another: what does not depend on α is computed once."""

    def __init__(self, spectrum: Spectrum, top_k: int = 1, beta: float = 1.0, relative: bool = False):
        """Raises ValueError for a top_k below 0 or above R."""
        # A gain is its factor, 1 or β, times e^{-α rate}, whose rate is 0 where the singular value is kept.
        factors = spectrum.purify_gains(top_k, 0.0, beta)
        self.factors = None if beta == 1 else factors
        self.rates = spectrum.rates(relative)
        self.rates[:, :top_k] = 0
        self.spectrum = spectrum

    def __call__(self, alpha: float) -> Tensor:
        """→ (B, N, D), in the tokens' dtype."""
        gains = torch.exp(self.rates * -alpha)
        if self.factors is not None:
            gains = gains * self.factors
        return self.spectrum.scaled(gains)


def _product(left: Tensor, gains: Tensor, right: Tensor) -> Tensor:
    """left diag(gains) right, the gains multiplied with the smaller of the two."""
    if left.shape[1] < right.shape[2]:
        return (left * gains[:, None, :]) @ right
    return left @ (gains[..., None] * right)


def extrapolate(positive: Tensor, negative: Tensor, *, strength: float, limit: float, blend: float) -> Tensor:
    """Guide an attention's output away from another's, within bounds (normalized attention guidance, 2505.21179).

    moved = positive + strength (positive - negative), shortened where its L1 norm is more than `limit` times
    positive's; then blend·moved + (1 - blend)·positive. (…, D), normed over D, per token; computed in float32, returned
    in positive's dtype. Strength 0 returns `positive` itself.
    """
    if strength == 0:
        return positive
    plain = positive.float()
    moved = plain + strength * (plain - negative.float())
    longest = limit * torch.linalg.vector_norm(plain, 1, dim=-1, keepdim=True)
    length = torch.linalg.vector_norm(moved, 1, dim=-1, keepdim=True)
    moved = torch.where(length > longest, moved * (longest / length), moved)
    return torch.lerp(plain, moved, blend).to(positive.dtype)
