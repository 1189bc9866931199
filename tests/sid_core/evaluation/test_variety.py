"""Variety of answers and of features, against known values and enumerated draws."""

import itertools
import math

import pytest
import torch

from sid_pack.sid_core.evaluation.variety import answer_entropy, expected_entropy, mean_pair_distance


def test_entropy_of_one_answer_is_nothing_and_of_even_ones_the_logarithm_of_their_number():
    assert answer_entropy(torch.full((16,), 3), 9) == 0
    assert answer_entropy(torch.arange(16) % 8, 9) == pytest.approx(math.log(8))
    quarters = torch.tensor([0, 0, 1, 2])
    assert answer_entropy(quarters, 3) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4))


def test_expected_entropy_is_the_mean_over_all_draws_there_are():
    answers = torch.tensor([0, 2, 2, 4])
    drawn = [answer_entropy(answers[list(rows)], 5) for rows in itertools.product(range(4), repeat=5)]
    assert expected_entropy(answers, 5, draws=5) == pytest.approx(sum(drawn) / len(drawn), rel=1e-12)


def test_expected_entropy_grows_with_the_draws_towards_that_of_the_answers_themselves():
    answers = torch.arange(8)
    few, many = expected_entropy(answers, 9, 16), expected_entropy(answers, 9, 100_000)
    assert expected_entropy(answers, 9, 1) == pytest.approx(0, abs=1e-12)
    assert few < many < math.log(8)
    assert many == pytest.approx(math.log(8), rel=1e-3)
    assert expected_entropy(torch.full((4,), 1), 9, 16) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("answers", [[], [9], [-1, 2]])
def test_answers_that_are_no_class_are_refused(answers):
    with pytest.raises(ValueError, match="answers from 0 to 8"):
        answer_entropy(torch.tensor(answers, dtype=torch.long), 9)


def test_no_draws_are_refused():
    with pytest.raises(ValueError, match="one draw"):
        expected_entropy(torch.arange(3), 9, 0)


def test_pair_distance_is_the_mean_over_the_pairs():
    triangle = torch.tensor([[0.0, 0], [3, 0], [0, 4]])
    assert mean_pair_distance(triangle) == pytest.approx((3 + 4 + 5) / 3)
    with_itself = [(a - b).norm().item() for a, b in itertools.product(triangle, repeat=2)]
    assert mean_pair_distance(triangle, replaced=True) == pytest.approx(sum(with_itself) / 9)


def test_one_picture_over_and_over_is_at_no_distance():
    assert mean_pair_distance(torch.ones(16, 4)) == 0
    assert mean_pair_distance(torch.ones(1, 4), replaced=True) == 0
    with pytest.raises(ValueError, match="two features"):
        mean_pair_distance(torch.ones(1, 4))
