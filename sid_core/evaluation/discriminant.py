"""Which class a feature vector is of, by Fisher's discriminants: for many classes of few examples each."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True)
class Discriminant:
    """The space in which examples of a class vary alike in all directions, and the classes' directions in it.

    centre: (D,), whitening: (D, D), directions: (C, D) of length 1; all float64.
    """

    centre: Tensor
    whitening: Tensor
    directions: Tensor

    def likeness(self, x: Tensor) -> Tensor:
        """Cosine similarity of feature vectors to the classes' means, all as seen from the centre. (N, D) → (N, C)."""
        return normalize((x.double() - self.centre) @ self.whitening, dim=1) @ self.directions.T

    def ranks(self, x: Tensor, classes: Tensor) -> Tensor:
        """How many classes each of x (N, D) is at least as like as its own of `classes` (N,): 1 where it is named."""
        likeness = self.likeness(x)
        # What is not finite is not less than anything, so it is last.
        return (~(likeness < likeness.gather(1, classes[:, None]))).sum(1)


def fit_discriminant(x: Tensor, labels: Tensor, shrinkage: float) -> Discriminant:
    """Linear discriminant analysis (Fisher 1936; Rao 1948), with the covariance shrunk as Friedman (1989) has it.

        C = mean_i (x_i - m_label)(x_i - m_label)ᵀ + shrinkage tr(C)/D I = L Lᵀ,   whitened x = L⁻¹ (x - mean)

    x: (N, D). labels: (N,), of classes 0 … C - 1, of each one at least. Raises ValueError where a class has none.
    """
    counts = labels.bincount()
    if not counts.all() or len(x) != len(labels) or shrinkage <= 0:
        raise ValueError(
            f"a discriminant needs a label for each x, an x of each class and shrinkage above 0: {len(x)} x, "
            f"{len(labels)} labels, {int((counts == 0).sum())} classes without any, shrinkage {shrinkage}"
        )
    x = x.double()
    centre = x.mean(0)
    means = x.new_zeros(len(counts), x.shape[1]).index_add(0, labels, x) / counts[:, None]
    apart = x - means[labels]
    covariance = apart.T @ apart / len(x)
    covariance.diagonal().add_(shrinkage * covariance.diagonal().mean())
    root = torch.linalg.cholesky(covariance)
    whitening = torch.linalg.solve_triangular(root, torch.eye(len(root), dtype=x.dtype), upper=False).T
    return Discriminant(centre, whitening, normalize((means - centre) @ whitening, dim=1))
