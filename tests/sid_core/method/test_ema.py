"""The moving average in closed form."""

import math

import pytest
import torch

from sid_pack.sid_core.method.ema import EMA

ONE, ZERO = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)


def after(images: int, batch: int, half_life: float, ramp_up: float = math.inf) -> float:
    """How much of weights that jump from 0 to 1 at the start the average has taken in."""
    ema = EMA([ZERO], half_life, ramp_up)
    for seen in range(batch, images + 1, batch):
        ema.update([ONE], batch, seen)
    return float(ema.average[0][0])


def test_after_one_half_life_half_of_the_old_weights_is_left():
    assert after(1000, 10, half_life=1000) == pytest.approx(0.5)
    assert after(3000, 10, half_life=1000) == pytest.approx(1 - 0.5**3)


@pytest.mark.parametrize("batch", [1, 5, 50, 100])
def test_the_half_life_does_not_depend_on_the_batch_size(batch):
    assert after(100, batch, half_life=70) == pytest.approx(1 - 0.5 ** (100 / 70))


def test_a_young_run_forgets_its_starting_weights_sooner():
    remaining = math.prod(0.5 ** (10 / (0.05 * seen)) for seen in range(10, 101, 10))
    assert after(100, 10, half_life=1000, ramp_up=0.05) == pytest.approx(1 - remaining)
    # From half_life/ramp_up images on, the bound is no longer felt.
    ramped, plain = EMA([ZERO], 10, 0.05), EMA([ZERO], 10, math.inf)
    for ema in (ramped, plain):
        ema.update([ONE], 7, images_seen=200)
    torch.testing.assert_close(ramped.average, plain.average)


def test_a_half_life_of_zero_follows_the_weights():
    assert after(10, 10, half_life=0) == 1


def test_a_negative_half_life_raises():
    with pytest.raises(ValueError, match="-1"):
        EMA([ZERO], -1)


def test_the_average_is_a_copy_and_takes_each_weight_to_its_own():
    weights = [ZERO.clone(), ONE.clone()]
    ema = EMA(weights, 10, math.inf)
    weights[0] += 8
    assert ema.average[0].tolist() == [0, 0, 0]
    ema.update(weights, batch=10, images_seen=10)
    assert [average.tolist() for average in ema.average] == [[4.0] * 3, [1.0] * 3]
