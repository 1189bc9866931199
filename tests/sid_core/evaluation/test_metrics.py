"""Metrics against closed forms and direct solutions."""

import pytest
import torch
from torch import Tensor

from sid_pack.sid_core.evaluation.metrics import fit_pca, frechet_distance, recall_at, ridge_map


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


def test_pca_projects_on_the_leading_singular_vectors():
    x = randn(40, 6) * torch.tensor([5.0, 4, 3, 2, 1, 0.5], dtype=torch.float64) @ rotation(6) + 3
    u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    projected = fit_pca(x, 3).project(x)
    torch.testing.assert_close(projected.abs(), (u[:, :3] * s[:3]).abs())
    torch.testing.assert_close(fit_pca(x, 6).project(x).norm(dim=1), (x - x.mean(0)).norm(dim=1))


def test_pca_keeps_the_mean_of_what_it_was_fitted_to():
    x = randn(40, 6)
    pca = fit_pca(x, 2)
    torch.testing.assert_close(
        pca.project(x + 1) - pca.project(x), (torch.ones(1, 6).double() @ pca.axes.T).expand(40, 2)
    )
    torch.testing.assert_close(pca.project(x).mean(0), torch.zeros(2).double())


@pytest.mark.parametrize("dims", [0, 7, 40])
def test_pca_refuses_more_axes_than_there_are(dims):
    with pytest.raises(ValueError, match="principal axes"):
        fit_pca(randn(7, 10), dims)


@pytest.mark.parametrize("samples", [50, 10])  # more than the 20 dimensions, and fewer: both forms
def test_ridge_is_the_closed_form(samples):
    x, y = randn(samples, 20) + 2, randn(samples, 3, seed=1) - 1
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    weight = torch.linalg.inv(centred_x.T @ centred_x + 0.7 * torch.eye(20)) @ centred_x.T @ centred_y
    new = randn(5, 20, seed=2)
    torch.testing.assert_close(ridge_map(x, y, 0.7)(new), (new - x.mean(0)) @ weight + y.mean(0))


def test_ridge_with_a_small_penalty_finds_the_map_and_with_a_large_one_the_mean():
    x, true = randn(30, 4), randn(4, 2, seed=1)
    y = x @ true + 5
    torch.testing.assert_close(ridge_map(x, y, 1e-9)(x), y)
    torch.testing.assert_close(ridge_map(x, y, 1e12)(x), y.mean(0).expand(30, 2))


@pytest.mark.parametrize(("rows", "penalty"), [(9, 1.0), (10, 0.0)])
def test_ridge_refuses_unequal_sets_and_no_penalty(rows, penalty):
    with pytest.raises(ValueError, match="ridge"):
        ridge_map(randn(10, 3), randn(rows, 2), penalty)


def at_angles(*degrees: float) -> Tensor:
    radians = torch.tensor(degrees).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def test_recall_counts_a_target_only_among_the_k_most_similar():
    candidates = at_angles(0, 10, 20, 30)
    predicted = at_angles(1).expand(4, 2)
    hits = {k: recall_at(predicted, torch.arange(4), candidates, k).tolist() for k in (1, 2, 4)}
    assert hits == {1: [True, False, False, False], 2: [True, True, False, False], 4: [True] * 4}


def test_recall_follows_the_targets_and_not_the_rows():
    candidates = at_angles(0, 90, 180)
    assert recall_at(candidates, torch.tensor([0, 1, 2]), candidates, 1).all()
    assert recall_at(candidates.flip(0), torch.tensor([2, 1, 0]), candidates, 1).all()
    assert not recall_at(candidates, torch.tensor([1, 2, 0]), candidates, 1).any()


def test_recall_compares_directions_and_not_lengths():
    candidates = at_angles(0, 60) * torch.tensor([[1.0], [100]])
    assert recall_at(at_angles(10) * 5, torch.tensor([0]), candidates, 1).all()


@pytest.mark.parametrize("predicted", [torch.zeros(1, 2), torch.full((1, 2), torch.nan)])
def test_recall_gives_nothing_to_a_prediction_that_prefers_no_candidate(predicted):
    assert not recall_at(predicted, torch.tensor([0]), at_angles(0, 90, 180), 2).any()
