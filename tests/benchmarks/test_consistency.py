"""The parts of latent consistency distillation, against the probability flow of Gaussians."""

import math

import pytest
import torch
from oracle_gaussians import DEVIATION, PROCESS, denoised, flowed

MEAN = -0.8


def x_at(t: int) -> torch.Tensor:
    return torch.linspace(-2, 2, 9, dtype=torch.float64).view(-1, 1, 1, 1) + 0.01 * t / 1000


def times(t: int) -> torch.Tensor:
    return torch.full((9,), t)


def test_at_time_zero_the_function_is_the_identity_whatever_the_network_says():
    from consistency import consistent

    clean = torch.full((9, 1, 1, 1), 100.0, dtype=torch.float64, requires_grad=True)
    found = consistent(clean, x_at(0), times(0))
    assert torch.equal(found, x_at(0))
    assert not torch.autograd.grad(found.sum(), clean)[0].any()


def test_the_scalings_keep_the_variance_of_the_data_and_are_the_authors():
    from consistency import boundary_scalings

    skip, out = boundary_scalings(torch.tensor([0, 1, 20]))
    # By hand: 0.25/(100 t² + 0.25), 10 t/√(100 t² + 0.25)
    assert skip.tolist() == pytest.approx([1, 0.25 / 100.25, 0.25 / 40000.25])
    assert out.tolist() == pytest.approx([0, 10 / math.sqrt(100.25), 200 / math.sqrt(40000.25)])


@pytest.mark.parametrize("t", [156, 249, 999])
def test_at_the_times_of_students_it_is_the_clean_prediction(t):
    """So stock `lcm` samples them. 156 and 249: the last of four times of a SiD and of an LCM student."""
    from consistency import consistent

    clean = torch.randn(9, 1, 1, 1, dtype=torch.float64)
    assert (consistent(clean, x_at(t), times(t)) - clean).abs().max() < 1e-6


def test_the_solver_s_times_are_every_twentieth():
    from consistency import solver_times

    assert solver_times(PROCESS, 50).tolist() == list(range(19, 1000, 20))


def target(t: int, stride: int) -> torch.Tensor:
    """What the flow makes of the solver's step from time t: the target of a student that is right at t - stride."""
    from consistency import ddim_step

    earlier = times(t - stride)
    x_s = ddim_step(x_at(t), denoised(x_at(t), times(t), MEAN, DEVIATION), times(t), earlier, PROCESS)
    return flowed(x_s, earlier, MEAN, DEVIATION)


@pytest.mark.parametrize("t", [140, 500, 900])
def test_the_target_is_the_flow_s_in_the_limit_of_short_steps(t):
    exact = flowed(x_at(t), times(t), MEAN, DEVIATION)
    long, short = ((target(t, stride) - exact).abs().max() for stride in (40, 4))
    assert long > 0
    # A single step's error is of second order.
    assert long / short == pytest.approx(100, rel=0.35)


def test_many_steps_from_noise_are_the_flow():
    from consistency import ddim_step

    x = x_at(999)
    for t in range(999, 0, -1):
        x = ddim_step(x, denoised(x, times(t), MEAN, DEVIATION), times(t), times(t - 1), PROCESS)
    assert (x - flowed(flow_start := x_at(999), times(999), MEAN, DEVIATION)).abs().max() < 0.02 * flow_start.std()


def test_guiding_the_clean_prediction_guides_the_noise():
    """LCM's eq. 14 guides ε̂; a step by the guided x̂_0 is the same one."""
    from consistency import ddim_step

    t, earlier, omega = times(600), times(580), 2.5
    cond, uncond = (denoised(x_at(600), t, mean, DEVIATION) for mean in (MEAN, 0.4))
    found = ddim_step(x_at(600), cond + omega * (cond - uncond), t, earlier, PROCESS)
    (alpha, sigma), (alpha_s, sigma_s) = (PROCESS.coefficients(torch.tensor(at)) for at in (600, 580))
    noises = [(x_at(600) - alpha * clean) / sigma for clean in (cond, uncond)]
    noise = (1 + omega) * noises[0] - omega * noises[1]
    expected = alpha_s * (x_at(600) - sigma * noise) / alpha + sigma_s * noise
    torch.testing.assert_close(found, expected)


def test_the_loss_is_quadratic_near_and_absolute_far():
    from consistency import pseudo_huber

    far = pseudo_huber(torch.tensor([3.0, -5.0]), torch.zeros(2))
    near = pseudo_huber(torch.full((2,), 1e-5, dtype=torch.float64), torch.zeros(2))
    assert float(far) == pytest.approx(4 - 0.001, abs=1e-6)
    assert float(near) == pytest.approx(1e-10 / 0.002, rel=1e-3)
