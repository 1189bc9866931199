"""A difference as a LoRA's factors, against float64 SVDs and what Eckart and Young have shown of the nearest matrix."""

import math

import pytest
import torch
from torch import Tensor

from sid_pack.sid_core.method import low_rank
from sid_pack.sid_core.method.low_rank import factored


def with_values(values: Tensor, out: int, into: int, seed: int = 0) -> Tensor:
    """A matrix (out, into) of these singular values."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(side, len(values), generator=generator, dtype=torch.float64)).Q
        for side in (out, into)
    )
    return ((left * values) @ right.T).float()


def product(factors) -> Tensor:
    return factors.up.flatten(1) @ factors.down.flatten(1)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (12, 8, 3, 3), (16, 48, 1, 1), (6, 4, 3, 3, 3)])
def test_it_is_the_nearest_of_its_rank(shape):
    """Its error is the norm of the singular values that it does without, by an SVD in float64."""
    difference = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    values = torch.linalg.svdvals(difference.double().flatten(1))
    for rank in (1, 5, len(values)):
        factors = factored(difference, rank)
        lacking = (difference.flatten(1) - product(factors)).norm()
        tail = float(values[rank:].norm())
        assert factors.error == pytest.approx(tail, rel=1e-4, abs=1e-6 * factors.norm)
        assert float(lacking) == pytest.approx(tail, rel=1e-4, abs=1e-6 * factors.norm)
        assert factors.norm == pytest.approx(float(values.norm()), rel=1e-5)
        assert factors.down.shape == (rank, *shape[1:])
        assert factors.up.shape == (shape[0], rank, *[1] * (len(shape) - 2))


def test_a_large_one_of_falling_values_is_as_near_by_random_draws():
    """Where exact singular values are told from the draws' by their time alone."""
    values = 0.97 ** torch.arange(300, dtype=torch.float64)
    difference = with_values(values, 320, 400)
    assert min(difference.shape) > low_rank.EXACT_SIDE
    factors = factored(difference, 32)
    tail = float(values[32:].norm())
    assert tail <= factors.error * (1 + 1e-5)  # nothing of that rank is nearer
    assert factors.error == pytest.approx(tail, rel=1e-3)


def test_draws_are_of_the_seed_and_take_none_of_anyone_elses():
    difference = torch.randn(300, 300, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(5)
    first = factored(difference, 4, seed=1)
    after = torch.rand(1)
    again = factored(difference, 4, seed=1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(first.up, again.up) and torch.equal(first.down, again.down)
    assert not torch.equal(first.up, factored(difference, 4, seed=2).up)


@pytest.mark.parametrize(("energy", "rank"), [(0.5, 1), (0.8, 2), (0.84, 3), (0.97, 4), (1.0, 7)])
def test_it_takes_no_more_of_the_rank_than_a_share_of_the_squares_needs(energy, rank):
    """16, 9, 4 and 1 of 30 in squares, all together: .533, .833, .967, 1."""
    difference = with_values(torch.tensor([4.0, 3, 2, 1], dtype=torch.float64), 10, 7)
    assert factored(difference, 7, energy).rank == rank
    assert factored(difference, 2, energy).rank == min(rank, 2)


@pytest.mark.parametrize("side", [8, 300])
def test_no_difference_is_the_smallest_that_does_nothing(side):
    factors = factored(torch.zeros(side, side), 8)
    assert (factors.rank, factors.norm, factors.error) == (1, 0, 0)
    assert not product(factors).any()


def test_both_factors_are_of_one_size_so_that_float16_holds_small_differences():
    """Of 1e-6 as SiD's learning rates make them: all of it in one factor would leave it with float16's coarsest."""
    difference = torch.randn(64, 64, generator=torch.Generator().manual_seed(3)) * 1e-6
    factors = factored(difference, 64)
    assert math.isclose(factors.up.norm(), factors.down.norm(), rel_tol=1e-4)
    rounded = factors.up.half().float() @ factors.down.half().float()
    assert (rounded - difference).norm() < 2e-3 * difference.norm()


def test_a_linear_layer_and_a_convolution_of_the_factors_add_what_the_difference_would():
    """As a LoRA runs them: down with the layer's own kernel, then up of one pixel."""
    generator = torch.Generator().manual_seed(4)
    difference, x = torch.randn(5, 3, 3, 3, generator=generator), torch.randn(2, 3, 9, 9, generator=generator)
    factors = factored(difference, 99)
    how = {"stride": 2, "padding": 1}
    added = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, factors.down, **how), factors.up)
    torch.testing.assert_close(added, torch.nn.functional.conv2d(x, difference, **how), rtol=1e-4, atol=1e-4)


def test_a_rank_below_one_is_refused():
    with pytest.raises(ValueError, match="^Set the rank to 1 or more; it is 0"):
        factored(torch.ones(2, 2), 0)
