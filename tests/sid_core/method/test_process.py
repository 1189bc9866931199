"""The forward diffusions against closed forms and a second table."""

import math

import pytest
import torch
from oracles import stable_diffusion_alphas
from torch import Tensor

from sid_pack.sid_core.method.losses import fake_score_loss
from sid_pack.sid_core.method.process import VE, VP, Flow, Process

PROCESSES = {
    "eps": (VP.stable_diffusion("eps"), torch.tensor([0, 20, 625, 999])),
    "v": (VP.stable_diffusion("v"), torch.tensor([0, 20, 625, 999])),
    "flow": (Flow(), torch.tensor([0.01, 0.3, 0.5, 1.0], dtype=torch.float64)),
    "ve": (VE(), torch.tensor([0.03, 0.5, 2.5, 14.6], dtype=torch.float64)),
}
SHAPES = [(4, 3, 2, 2), (4, 3, 5, 2, 2), (4, 7)]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(len(values), *[1] * (like.ndim - 1))


def truth(name: str, process: Process, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What a perfect network of this kind returns."""
    if name == "flow":
        return noise - x0
    if name == "v":
        alpha, sigma = (column(c, x0) for c in process.coefficients(t))
        return alpha * noise - sigma * x0
    return noise


def test_vp_coefficients_and_noising_are_the_closed_form():
    process, t = VP(torch.tensor([0.64, 0.36], dtype=torch.float64)), torch.tensor([0, 1])
    alpha, sigma = process.coefficients(t)
    torch.testing.assert_close(alpha, torch.tensor([0.8, 0.6], dtype=torch.float64))
    torch.testing.assert_close(sigma, torch.tensor([0.6, 0.8], dtype=torch.float64))
    x0, noise = randn(2, 1, 3), randn(2, 1, 3, seed=1)
    expected = torch.stack([0.8 * x0[0] + 0.6 * noise[0], 0.6 * x0[1] + 0.8 * noise[1]])
    torch.testing.assert_close(process.diffuse(x0, noise, t), expected)


def test_flow_coefficients_and_noising_are_the_closed_form():
    process, t = Flow(shift=3.0), torch.tensor([0.25, 1.0], dtype=torch.float64)
    assert [c.tolist() for c in process.coefficients(t)] == [[0.75, 0.0], [0.25, 1.0]]
    x0, noise = randn(2, 1, 3), randn(2, 1, 3, seed=1)
    torch.testing.assert_close(process.diffuse(x0, noise, t), torch.stack([0.75 * x0[0] + 0.25 * noise[0], noise[1]]))


@pytest.mark.parametrize(
    ("t", "sigma"),
    [(625, 2.502), (468, 1.455), (312, 0.868), (156, 0.470), (0, 0.02917), (999, 14.6146)],
)
def test_stable_diffusion_has_the_noise_levels_known_of_it(t, sigma):
    c = VP.stable_diffusion().coefficients(torch.tensor(t))
    assert float(c.sigma / c.alpha) == pytest.approx(sigma, rel=1e-3)


def test_stable_diffusion_equals_a_second_computation_at_every_time():
    alpha, sigma = VP.stable_diffusion().coefficients(torch.arange(1000))
    bars = torch.tensor(stable_diffusion_alphas(), dtype=torch.float64)
    torch.testing.assert_close(alpha**2, bars, rtol=1e-12, atol=0)
    torch.testing.assert_close(sigma**2, 1 - bars, rtol=1e-9, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PROCESSES)
def test_clean_of_the_true_prediction_gives_back_the_picture(name, shape):
    process, t = PROCESSES[name]
    x0, noise = randn(*shape), randn(*shape, seed=1)
    x_t = process.diffuse(x0, noise, t)
    torch.testing.assert_close(process.clean(truth(name, process, x0, noise, t), x_t, t), x0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_time_per_sample_is_the_same_as_each_sample_at_its_time(name):
    process, t = PROCESSES[name]
    x0, noise = randn(4, 2, 3, 3), randn(4, 2, 3, 3, seed=1)
    whole = process.diffuse(x0, noise, t)
    alone = [process.diffuse(x0[i : i + 1], noise[i : i + 1], t[i]) for i in range(4)]  # t a scalar
    torch.testing.assert_close(whole, torch.cat(alone), rtol=0, atol=0)


@pytest.mark.parametrize("name", PROCESSES)
def test_pictures_keep_their_precision(name):
    process, t = PROCESSES[name]
    x0, noise = randn(4, 2).float(), randn(4, 2, seed=1).float()
    x_t = process.diffuse(x0, noise, t)
    assert x_t.dtype == process.clean(noise, x_t, t).dtype == torch.float32


def test_ve_is_vp_divided_by_alpha():
    vp, t = PROCESSES["eps"]
    x0, noise = randn(4, 2, 3, 3), randn(4, 2, 3, 3, seed=1)
    alpha, sigma = vp.coefficients(t)
    x_t = vp.diffuse(x0, noise, t)
    torch.testing.assert_close(VE().diffuse(x0, noise, sigma / alpha), x_t / column(alpha, x_t))
    torch.testing.assert_close(VE().clean(noise, x_t / column(alpha, x_t), sigma / alpha), vp.clean(noise, x_t, t))


def test_regression_in_clean_pictures_is_the_networks_own():
    """weight · ‖x̂ - x‖² = ‖ε̂ - ε‖² (eps), snr/(snr+1) · ‖v̂ - v‖² (v), ‖v̂ - v‖² (flow)."""
    x0, noise, prediction = randn(4, 2, 3, 3), randn(4, 2, 3, 3, seed=1), randn(4, 2, 3, 3, seed=2)
    for name, (process, t) in PROCESSES.items():
        x_t = process.diffuse(x0, noise, t)
        loss = fake_score_loss(process.clean(prediction, x_t, t), x0, process.regression_weight(t))
        errors = (prediction - truth(name, process, x0, noise, t)).square().flatten(1).sum(1)
        if name == "v":
            bars = torch.tensor(stable_diffusion_alphas(), dtype=torch.float64)[t]
            snr = bars / (1 - bars)
            errors = errors * snr / (snr + 1)
        assert float(loss) == pytest.approx(float(errors.mean()), rel=1e-8), name


def test_vp_snaps_times_down_and_flow_shifts_them():
    times = torch.tensor([625.0, 468.75, 0.99])
    assert VP.stable_diffusion().snap(times).tolist() == [625, 468, 0]
    times = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    torch.testing.assert_close(Flow(3.0).snap(times), torch.tensor([1.0, 0.75, 0.5], dtype=torch.float64))
    torch.testing.assert_close(Flow().snap(times), times)


@pytest.mark.parametrize("t", [[-1], [1000], [5, 10_000], [math.nan]])
def test_times_outside_the_schedule_raise(t):
    with pytest.raises(ValueError, match=r"expected 0…999"):
        VP.stable_diffusion().coefficients(torch.tensor(t))


def test_an_unknown_prediction_raises_and_says_which_there_are():
    with pytest.raises(ValueError, match="'x0'; expected 'eps' or 'v'"):
        VP(torch.tensor([0.5]), "x0")
