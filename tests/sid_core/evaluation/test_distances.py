"""Distances between sets against closed forms and a second computation."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from sid_pack.sid_core.evaluation.distances import frechet_distance, kernel_distance


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(dims: int, seed: int = 7) -> Tensor:
    return torch.linalg.qr(randn(dims, dims, seed=seed)).Q


def whitened(features: Tensor) -> Tensor:
    """The same set, its sample mean exactly 0 and its sample covariance exactly the identity."""
    features = features - features.mean(0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(features.T.cov()), features.T, upper=False).T


def test_frechet_of_a_shifted_set_is_the_squared_shift():
    a, shift = randn(50, 6), torch.arange(6.0, dtype=torch.float64)
    assert frechet_distance(a, a + shift) == pytest.approx(shift.square().sum().item(), rel=1e-12)


def test_frechet_of_scaled_axes_is_the_sum_of_squared_differences_of_deviations():
    base, first, second = whitened(randn(80, 4)), torch.tensor([1.0, 2, 3, 0.5]), torch.tensor([2.0, 2, 0, 1.5])
    turn = rotation(4)
    expected = (first - second).square().sum().item()
    assert frechet_distance(base * first @ turn, base * second @ turn) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_covariances_that_do_not_commute_matches_the_matrix_root():
    a, b = randn(60, 5) @ randn(5, 5, seed=1), randn(90, 5, seed=2) @ randn(5, 5, seed=3) + 1
    cov_a, cov_b = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).sqrt().sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_ignores_order_rotation_and_which_set_comes_first():
    a, b = randn(40, 5), randn(70, 5, seed=1) * 2 + 1
    expected = frechet_distance(a, b)
    assert frechet_distance(b, a.flip(0)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a @ rotation(5), b @ rotation(5)) == pytest.approx(expected, rel=1e-9)


def test_frechet_holds_for_sets_smaller_than_their_dimension_and_for_float32():
    a, b = randn(8, 30), randn(12, 30, seed=1)
    padded = frechet_distance(torch.cat([a, a]), torch.cat([b, b]))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert padded < frechet_distance(a, b)  # the same spread, divided by 15 and 23 instead of 14 and 22
    large = (1000 + randn(200, 30)).float()  # in float32 the covariance would be gone
    assert frechet_distance(large, large * 1) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 4), (5, 3), (4,)])
def test_frechet_refuses_sets_that_have_no_distance(shape):
    with pytest.raises(ValueError, match="feature sets"):
        frechet_distance(randn(5, 4), randn(*shape))


def brute_force_mmd(a: np.ndarray, b: np.ndarray) -> float:
    def kernel(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3

    within = [np.mean([kernel(x, y) for x, y in itertools.permutations(rows, 2)]) for rows in (a, b)]
    return sum(within) - 2 * np.mean([kernel(x, y) for x in a for y in b])


def test_kernel_distance_is_the_mean_over_pairs_one_by_one():
    a, b = randn(7, 4), randn(9, 4, seed=1) + 0.5
    assert kernel_distance(a, b) == pytest.approx(brute_force_mmd(a.numpy(), b.numpy()), rel=1e-12)


def test_kernel_distance_of_two_sets_that_are_one_picture_each_is_known():
    """k(x, x) = 8 and k(y, y) = 1 where x is all ones and y all zeros; k(x, y) = 1."""
    assert kernel_distance(torch.ones(5, 3), torch.zeros(4, 3)) == pytest.approx(8 + 1 - 2)


def test_kernel_distance_is_nothing_on_average_between_sets_of_one_kind_of_any_size():
    apart = [kernel_distance(randn(12, 3, seed=2 * i), randn(40, 3, seed=2 * i + 1)) for i in range(400)]
    mean, error = np.mean(apart), np.std(apart) / 400**0.5
    assert abs(mean) < 4 * error
    assert min(apart) < 0
    shifted = [kernel_distance(randn(12, 3, seed=2 * i), randn(40, 3, seed=2 * i + 1) + 1) for i in range(100)]
    assert np.mean(shifted) > 50 * error


@pytest.mark.parametrize("shape", [(1, 4), (5, 3), (4,)])
def test_kernel_distance_refuses_sets_that_have_none(shape):
    with pytest.raises(ValueError, match="feature sets"):
        kernel_distance(randn(5, 4), randn(*shape))
