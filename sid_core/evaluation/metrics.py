"""Measures of a set of generated samples: how far from the real set, and how well each fits its text.

Everything here works on feature vectors that somebody else computed, in float64: covariances of a thousand samples in
a thousand dimensions are nearly singular, and float32 shows it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance between the Gaussians fitted to two feature sets (Heusel et al. 2017, arXiv 1706.08500, §2).

        d² = |μ_a - μ_b|² + tr(C_a + C_b - 2 (C_a C_b)^½)

    Returned is d², as everyone reports it. With C = RᵀR out of a QR decomposition of the centred features, the last
    trace is the sum of the singular values of R_a R_bᵀ: no matrix root, no negative eigenvalue to clip, and sets
    smaller than their dimension need no care.

    a: (N, D), b: (M, D), N and M at least 2.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"needs two feature sets (N >= 2, D) of one D, got {tuple(a.shape)} and {tuple(b.shape)}")
    mean_a, root_a = _gaussian(a)
    mean_b, root_b = _gaussian(b)
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * cross
    return distance.clamp(min=0).item()


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and a root R of the unbiased covariance, C = RᵀR, R: (min(N, D), D)."""
    features = features.double()
    mean = features.mean(0)
    return mean, torch.linalg.qr((features - mean) / (len(features) - 1) ** 0.5, mode="r").R


@dataclass(frozen=True)
class PCA:
    """An affine map onto the leading principal axes. mean: (D,), axes: (K, D) with orthonormal rows."""

    mean: Tensor
    axes: Tensor

    def project(self, x: Tensor) -> Tensor:
        """Coordinates (x - mean) axesᵀ, not whitened. x: (N, D) → (N, K)."""
        return (x.double() - self.mean) @ self.axes.T


def fit_pca(features: Tensor, dims: int) -> PCA:
    """The `dims` directions along which the features vary most: right singular vectors of the centred (N, D) set."""
    if not 1 <= dims <= min(features.shape[0] - 1, features.shape[1]):
        raise ValueError(f"{dims} principal axes cannot be fitted to features of shape {tuple(features.shape)}")
    features = features.double()
    mean = features.mean(0)
    axes = torch.linalg.svd(features - mean, full_matrices=False).Vh
    return PCA(mean, axes[:dims])


@dataclass(frozen=True)
class LinearMap:
    """y = (x - x_mean) W + y_mean. x_mean: (D,), weight: (D, E), y_mean: (E,)."""

    x_mean: Tensor
    weight: Tensor
    y_mean: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """x: (N, D) → (N, E)."""
        return (x.double() - self.x_mean) @ self.weight + self.y_mean


def ridge_map(x: Tensor, y: Tensor, penalty: float) -> LinearMap:
    """Ridge regression from x to y (Hoerl and Kennard 1970), with an intercept that is not penalized.

        W = argmin |X W - Y|² + penalty |W|² = (XᵀX + penalty I)⁻¹ XᵀY = Xᵀ(XXᵀ + penalty I)⁻¹ Y,   X, Y centred

    Solved in whichever form has the smaller system. x: (N, D), y: (N, E).
    """
    if len(x) != len(y) or penalty <= 0:
        raise ValueError(f"ridge needs as many x as y and a penalty above 0, got {len(x)}, {len(y)}, {penalty}")
    x, y = x.double(), y.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    samples, dims = x.shape
    gram = x @ x.T if samples < dims else x.T @ x
    gram.diagonal().add_(penalty)
    factor = torch.linalg.cholesky(gram)
    weight = x.T @ torch.cholesky_solve(y, factor) if samples < dims else torch.cholesky_solve(x.T @ y, factor)
    return LinearMap(x_mean, weight, y_mean)


def recall_at(predicted: Tensor, targets: Tensor, candidates: Tensor, k: int) -> Tensor:
    """Whether each prediction's own candidate is among its k nearest by cosine similarity; the mean of it is R@k.

    Ties, and predictions that are not finite, count against the target.

    predicted: (N, E), targets: (N,) indices into candidates: (C, E) → (N,) bool.
    """
    similarity = normalize(predicted.double(), dim=1) @ normalize(candidates.double(), dim=1).T
    own = similarity.gather(1, targets[:, None])
    not_worse = ~(similarity < own)  # the target itself included; NaN is not below anything
    return not_worse.sum(1) <= k
