"""Discriminants against what a direct inverse says, and on classes that only they can tell apart."""

import pytest
import torch
from torch import Tensor

from sid_pack.sid_core.evaluation.discriminant import fit_discriminant


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_likeness_is_the_cosine_that_the_covariance_within_classes_defines():
    x, labels, new = randn(40, 6) + 3, torch.arange(40) % 4, randn(5, 6, seed=1)
    means = torch.stack([x[labels == label].mean(0) for label in range(4)])
    within = (x - means[labels]).T @ (x - means[labels]) / 40
    metric = torch.linalg.inv(within + 0.1 * within.trace() / 6 * torch.eye(6, dtype=torch.float64))

    a, b = new - x.mean(0), means - x.mean(0)
    lengths = [torch.stack([v @ metric @ v for v in vectors]).sqrt() for vectors in (a, b)]
    expected = a @ metric @ b.T / (lengths[0][:, None] * lengths[1])
    torch.testing.assert_close(fit_discriminant(x, labels, 0.1).likeness(new), expected)


def test_classes_are_told_apart_under_a_variation_that_all_share():
    """fifty times as strong as what differs, as a picture's style is next to its subject"""
    shared = torch.zeros(300, 8, dtype=torch.float64)
    shared[:, 0] = 50 * randn(300, seed=3)
    labels = torch.arange(300) % 30
    x = randn(30, 8, seed=1)[labels] + 0.1 * randn(300, 8, seed=2) + shared
    known = torch.arange(300) < 240
    ranks = fit_discriminant(x[known], labels[known], 1e-6).ranks(x[~known], labels[~known])
    assert (ranks == 1).double().mean() > 0.9


def test_a_rank_counts_the_classes_that_are_as_like():
    x, labels = torch.eye(4, dtype=torch.float64).repeat(2, 1), torch.arange(4).repeat(2)
    discriminant = fit_discriminant(x + 0.01 * randn(8, 4), labels, 1.0)
    between = torch.tensor([[3.0, 2, 1, 0], [3.0, 2, 1, 0], [3.0, 2, 1, 0], [torch.nan] * 4])
    assert discriminant.ranks(between, torch.tensor([0, 1, 3, 0])).tolist() == [1, 2, 4, 4]


@pytest.mark.parametrize(("labels", "shrinkage"), [([0, 1, 3], 0.1), ([0, 1], 0.1), ([0, 1, 1], 0.0)])
def test_a_class_without_examples_and_unequal_sets_are_refused(labels, shrinkage):
    with pytest.raises(ValueError, match="a discriminant needs"):
        fit_discriminant(randn(3, 2), torch.tensor(labels), shrinkage)
