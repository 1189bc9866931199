"""Measures by nearest neighbours, against plain loops and sets whose answer is known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sid_pack.sid_core.evaluation.neighbours import precision_and_recall, recall_at


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_force(samples: np.ndarray, real: np.ndarray, k: int) -> tuple[float, float]:
    def share_among(points, of):
        inside = 0
        for x in points:
            for i, centre in enumerate(of):
                radius = sorted(np.linalg.norm(centre - other) for j, other in enumerate(of) if j != i)[k - 1]
                if np.linalg.norm(x - centre) <= radius:
                    inside += 1
                    break
        return inside / len(points)

    return share_among(samples, real), share_among(real, samples)


def test_precision_and_recall_are_those_of_plain_loops():
    samples, real = 1.5 * randn(25, 3) + 1, randn(31, 3, seed=1)
    for k in (1, 3):
        expected = brute_force(samples.numpy(), real.numpy(), k)
        assert precision_and_recall(samples, real, k) == pytest.approx(expected)
        assert 0 < expected[0] < 1 and 0 < expected[1] < 1


def test_a_set_has_all_of_itself():
    x = randn(20, 5)
    assert precision_and_recall(x, x) == (1, 1)


def test_samples_of_one_of_two_kinds_are_precise_and_recall_half():
    near, far = randn(40, 2), randn(40, 2, seed=1) + 100
    precision, recall = precision_and_recall(near, torch.cat([near, far]))
    assert (precision, recall) == (1, 0.5)
    assert precision_and_recall(torch.cat([near, far]), near) == (0.5, 1)


def test_one_picture_over_and_over_recalls_only_itself():
    real = randn(20, 3)
    assert precision_and_recall(real[:1].expand(20, 3), real) == (1, 1 / 20)


def test_precision_holds_for_float32_far_from_the_origin():
    x = (1000 + randn(50, 4)).float()
    assert precision_and_recall(x, x.double()) == (1, 1)


def test_sets_with_too_few_neighbours_are_refused():
    with pytest.raises(ValueError, match="feature sets"):
        precision_and_recall(randn(3, 2), randn(10, 2))


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
