"""Measures by nearest neighbours: do samples lie among the real ones, and which caption does a picture find first."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .distances import check_two_sets


def precision_and_recall(samples: Tensor, real: Tensor, k: int = 3) -> tuple[float, float]:
    """How many samples lie among the real, and how many real among the samples (Kynkäänniemi et al. 2019,
    arXiv 1904.06991, eq. 1 and 2).

        f(φ, Φ) = 1 if |φ - φ'| ≤ |φ' - NN_k(φ', Φ)| for any φ' in Φ, else 0
        precision = mean over samples of f(φ_s, Φ_real),   recall = mean over real of f(φ_r, Φ_samples)

    NN_k(φ', Φ) is the k-th nearest neighbour of φ' in Φ, itself not counted. Distances are Euclidean.

    samples: (N, D), real: (M, D), N and M more than k → two shares of 1.
    """
    check_two_sets(samples, real, fewest=k + 1)
    samples, real = samples.double(), real.double()
    apart, radii_real, radii_samples = euclidean(samples, real), _radii(real, k), _radii(samples, k)
    precision = (apart <= radii_real).any(1).double().mean().item()
    recall = (apart <= radii_samples[:, None]).any(0).double().mean().item()
    return precision, recall


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance of each of x (N, D) to its k-th nearest other one → (N,)."""
    apart = euclidean(x, x)
    apart.fill_diagonal_(torch.inf)
    return apart.kthvalue(k, dim=1).values


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, by differences: products of large norms would not tell that two features are the same."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def recall_at(predicted: Tensor, targets: Tensor, candidates: Tensor, k: int) -> Tensor:
    """Whether each prediction's own candidate is among its k nearest by cosine similarity; the mean of it is R@k.

    Ties, and predictions that are not finite, count against the target.

    predicted: (N, E), targets: (N,) indices into candidates: (C, E) → (N,) bool.
    """
    similarity = normalize(predicted.double(), dim=1) @ normalize(candidates.double(), dim=1).T
    own = similarity.gather(1, targets[:, None])
    not_worse = ~(similarity < own)  # the target itself included; NaN is not below anything
    return not_worse.sum(1) <= k
