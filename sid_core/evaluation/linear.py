"""Linear maps fitted to feature vectors: principal axes, ridge regression, and a probe that tells classes apart.

All in float64: Gram matrices of a thousand dimensions are nearly singular, and float32 shows it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

PROBE_TOLERANCE = 1e-6  # the loss's largest slope that counts as its minimum


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


@dataclass(frozen=True)
class LinearProbe:
    """Scores of C classes, x W + b. weight: (D, C), bias: (C,)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Unnormalized log probabilities. x: (N, D) → (N, C)."""
        return x.double() @ self.weight.double() + self.bias.double()

    def answers(self, x: Tensor) -> Tensor:
        """The likeliest class of each, (N,)."""
        return self(x).argmax(1)


def fit_probe(x: Tensor, labels: Tensor, penalty: float, steps: int = 1000) -> LinearProbe:
    """Multinomial logistic regression with an L2 penalty (Bishop 2006, §4.3.4), solved by L-BFGS.

        W, b = argmin mean_i -log softmax(x_i W + b)[label_i] + penalty / 2 |W|²

    x here is standardized, each dimension to mean 0 and deviation 1, so that the penalty weighs on all alike; the probe
    returned takes x as it is. Classes are 0 … max(labels).

    x: (N, D), labels: (N,) integers. Raises ValueError where the minimum is not reached within `steps`.
    """
    if len(x) != len(labels) or penalty <= 0:
        raise ValueError(f"a probe needs as many x as labels and a penalty above 0: {len(x)}, {len(labels)}, {penalty}")
    x = x.double()
    mean, deviation = x.mean(0), x.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, 1)
    x = (x - mean) / scale
    classes = int(labels.max()) + 1
    with torch.enable_grad():
        weight = x.new_zeros(x.shape[1], classes, requires_grad=True)
        bias = x.new_zeros(classes, requires_grad=True)
        solver = torch.optim.LBFGS(
            [weight, bias],
            max_iter=steps,
            tolerance_grad=PROBE_TOLERANCE,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            solver.zero_grad()
            value = cross_entropy(x @ weight + bias, labels) + penalty / 2 * weight.square().sum()
            value.backward()
            return value

        solver.step(loss)
        loss()
    slope = max(weight.grad.abs().max().item(), bias.grad.abs().max().item())
    if not slope <= 10 * PROBE_TOLERANCE:
        raise ValueError(f"the probe is not at its minimum after {steps} steps: its slope is {slope:.1e}")
    weight = weight.detach() / scale[:, None]
    return LinearProbe(weight, bias.detach() - mean @ weight)
