"""How far a set of samples is from another set, as feature vectors that somebody else computed.

Everything is in float64: covariances of a thousand samples in a thousand dimensions are nearly singular, and float32
shows it.
"""

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance between the Gaussians fitted to two feature sets (Heusel et al. 2017, arXiv 1706.08500, §2).

        d² = |μ_a - μ_b|² + tr(C_a + C_b - 2 (C_a C_b)^½)

    Returned is d², as everyone reports it. With C = RᵀR out of a QR decomposition of the centred features, the last
    trace is the sum of the singular values of R_a R_bᵀ: no matrix root, no negative eigenvalue to clip, and sets
    smaller than their dimension need no care.

    a: (N, D), b: (M, D), N and M at least 2.
    """
    check_two_sets(a, b)
    return distance_of_gaussians(*_gaussian(a), *_gaussian(b))


def distance_of_gaussians(mean_a: Tensor, root_a: Tensor, mean_b: Tensor, root_b: Tensor) -> float:
    """`frechet_distance` of two Gaussians: means (D,), and roots R (any, D) of their covariances, C = RᵀR."""
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * cross
    return distance.clamp(min=0).item()


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and a root R of the unbiased covariance, C = RᵀR, R: (min(N, D), D)."""
    features = features.double()
    mean = features.mean(0)
    return mean, torch.linalg.qr((features - mean) / (len(features) - 1) ** 0.5, mode="r").R


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Squared maximum mean discrepancy of two feature sets, KID (Bińkowski et al. 2018, arXiv 1801.01401, §4).

        MMD²_u = mean_{i≠j} k(a_i, a_j) + mean_{i≠j} k(b_i, b_j) - 2 mean_{i,j} k(a_i, b_j),   k(x, y) = (xᵀy / D + 1)³

    It is unbiased: of two sets from one distribution it is 0 on average, whatever their sizes, and so now and then
    below 0. Taken over the whole sets, not averaged over subsets of them.

    a: (N, D), b: (M, D), N and M at least 2.
    """
    check_two_sets(a, b)
    a, b = a.double(), b.double()
    return (_mean_of_pairs(a) + _mean_of_pairs(b) - 2 * _cubic_kernel(a, b).mean()).item()


def _cubic_kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_of_pairs(x: Tensor) -> Tensor:
    """Mean of the kernel over all pairs of different rows."""
    kernel = _cubic_kernel(x, x)
    return (kernel.sum() - kernel.trace()) / (len(x) * (len(x) - 1))


def check_two_sets(a: Tensor, b: Tensor, fewest: int = 2) -> None:
    """Raises ValueError unless both are sets of `fewest` or more features of one size."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < fewest:
        raise ValueError(
            f"needs two feature sets (N >= {fewest}, D) of one D, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
