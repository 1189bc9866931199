"""Linear maps against closed forms and direct solutions."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sid_pack.sid_core.evaluation.linear import fit_pca, fit_probe, ridge_map


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(dims: int, seed: int = 7) -> Tensor:
    return torch.linalg.qr(randn(dims, dims, seed=seed)).Q


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


def newtons_probe(x: np.ndarray, labels: np.ndarray, penalty: float) -> np.ndarray:
    """Two classes' log odds by Newton's method. With both classes' weights w and -w the penalty on them is |w|²."""
    x = (x - x.mean(0)) / x.std(0)
    x = np.hstack([x, np.ones((len(x), 1))])
    curb = np.diag([1.0] * (x.shape[1] - 1) + [0.0]) * penalty / 2  # odds are 2 w: penalty |w|² = penalty / 4 |odds|²
    odds = np.zeros(x.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-x @ odds))
        slope = x.T @ (chance - labels) / len(x) + curb @ odds
        bend = x.T @ (x * (chance * (1 - chance))[:, None]) / len(x) + curb
        odds -= np.linalg.solve(bend, slope)
    return x @ odds


def test_a_probe_of_two_classes_is_newtons_logistic_regression():
    x = randn(80, 3) * torch.tensor([1.0, 10, 0.1]) + 5
    labels = (x[:, 0] + randn(80, seed=1) > 5).long()
    scores = fit_probe(x, labels, 0.05)(x)
    expected = newtons_probe(x.numpy(), labels.numpy(), 0.05)
    np.testing.assert_allclose((scores[:, 1] - scores[:, 0]).numpy(), expected, atol=1e-4)


def test_a_probe_does_not_ask_in_what_units_a_feature_is():
    x, labels = randn(60, 4), torch.arange(60) % 3
    x = x + torch.nn.functional.one_hot(labels, 4) * 2
    other = x * torch.tensor([1.0, 1e3, 1e-3, 5]) - 7
    torch.testing.assert_close(fit_probe(x, labels, 0.1)(x), fit_probe(other, labels, 0.1)(other), atol=1e-3, rtol=0)


def test_a_probe_tells_apart_what_can_be_and_else_names_the_commonest():
    labels = torch.arange(90) % 3
    apart = torch.nn.functional.one_hot(labels, 3) + 0.1 * randn(90, 3)
    assert torch.equal(fit_probe(apart, labels, 1e-3).answers(apart), labels)
    same, uneven = torch.ones(90, 2), (torch.arange(90) < 60).long()
    probe = fit_probe(same, uneven, 1e-3)
    torch.testing.assert_close(probe(same).softmax(1)[0], torch.tensor([1 / 3, 2 / 3]).double(), atol=1e-5, rtol=0)


def test_a_probe_that_is_not_at_its_minimum_is_not_returned():
    with pytest.raises(ValueError, match="minimum"):
        fit_probe(randn(80, 3), torch.arange(80) % 2, 1e-3, steps=1)


@pytest.mark.parametrize(("rows", "penalty"), [(9, 1.0), (10, 0.0)])
def test_a_probe_refuses_unequal_sets_and_no_penalty(rows, penalty):
    with pytest.raises(ValueError, match="probe needs"):
        fit_probe(randn(10, 3), torch.arange(rows) % 2, penalty)
