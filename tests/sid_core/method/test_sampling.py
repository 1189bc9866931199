"""Few-step generation against the authors' code, and the noise modes in closed form."""

import math
import re
from fractions import Fraction

import pytest
import torch
from oracles import parity, relative_error
from torch import Tensor

from sid_pack.sid_core.method.process import VE, VP, Flow
from sid_pack.sid_core.method.sampling import NOISE_MODES, few_step, implied_noise, step_times

ENTRIES, TENSORS = parity("sampling")


def toy(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    """The network of the parity vectors; t: (B,) in 0…1000."""
    bias = TENSORS["toy.b"] * t[:, None] / 1000 + TENSORS["toy.u"] * cond.mean((1, 2))[:, None]
    return torch.tanh(torch.einsum("oc,bchw->bohw", TENSORS["toy.W"], x) + bias.float()[..., None, None])


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["name"] for entry in ENTRIES])
def test_sampling_equals_the_authors_code(entry):
    vp = entry["process"] == "vp"
    process = VP.stable_diffusion() if vp else Flow(entry["shift"])
    times = step_times(entry["steps"], process=process, t_init=entry.get("t_init"))
    assert times.tolist() == pytest.approx(entry["times"], rel=1e-12)

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        return process.clean(toy(x_t, t if vp else 1000 * t, TENSORS["cond"]), x_t, t)

    first, *later = TENSORS[f"{entry['name']}.noise"]
    noises = iter(later)
    clean = few_step(predict, first, times, process, mode=entry["mode"], next_noise=lambda: next(noises))
    assert relative_error(clean, TENSORS[f"{entry['name']}.clean"]) <= 1e-5


def test_the_parity_vectors_hold_every_noise_mode():
    assert {entry["mode"] for entry in ENTRIES} == set(NOISE_MODES)


@pytest.mark.parametrize("t_init", [625, 999, 749])
def test_vp_times_are_the_exact_fractions_truncated_for_any_number_of_steps(t_init):
    process = VP.stable_diffusion()
    for steps in [*range(1, 65), 100, 625]:
        exact = [int(Fraction(t_init) * (steps - i) / steps) for i in range(steps)]
        assert step_times(steps, process=process, t_init=t_init).tolist() == exact


def test_flow_times_are_evenly_spaced_and_then_shifted():
    assert step_times(5, process=Flow()).tolist() == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert step_times(2, process=Flow(), t_init=0.5).tolist() == pytest.approx([0.5, 0.25])
    assert step_times(4, process=Flow(3.0)).tolist() == pytest.approx([1, 0.9, 0.75, 0.5])


def test_the_default_first_time_is_the_papers():
    assert step_times(1, process=VP.stable_diffusion()).tolist() == [625]
    assert step_times(1, process=Flow()).tolist() == [1.0]


@pytest.mark.parametrize(
    ("process", "steps", "t_init", "message"),
    [
        (VP.stable_diffusion(), 0, None, "Set steps to 1 or more; it is 0"),
        (VP.stable_diffusion(), -1, None, "Set steps to 1 or more; it is -1"),
        (VP.stable_diffusion(), 1001, None, "Lower steps to 999 or less: it is 1001"),
        (VP.stable_diffusion(), 4, 0, "Set t_init to a time from 4 to 999: it is 0"),
        # A flow model's: all of the times but the first would be 0.
        (VP.stable_diffusion(), 4, 1.0, "Set t_init to a time from 4 to 999: it is 1"),
        (VP.stable_diffusion(), 1, 0.4, "Set t_init to a time from 1 to 999: it is 0.4"),
        (VP.stable_diffusion(), 4, 3.5, "from 4 to 999: it is 3.5"),
        (VP.stable_diffusion(), 700, None, "from 700 to 999: it is 625"),
        (VP.stable_diffusion(), 1, 999.5, "from 1 to 999: it is 999.5"),
        (VP.stable_diffusion(), 1, math.nan, "from 1 to 999: it is nan"),
        (Flow(), 4, 625, "Set t_init to a time above 0, up to 1: it is 625"),
        (Flow(), 4, 1.001, "above 0, up to 1: it is 1.001"),
        (Flow(), 4, 0.0, "above 0, up to 1: it is 0"),
        (Flow(), 4, -0.5, "above 0, up to 1: it is -0.5"),
        (Flow(), 4, math.inf, "above 0, up to 1: it is inf"),
    ],
)
def test_steps_and_first_times_of_another_kind_of_model_are_refused_with_the_range_of_this_one(
    process, steps, t_init, message
):
    with pytest.raises(ValueError, match=re.escape(message)):
        step_times(steps, process=process, t_init=t_init)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 64, 625])
def test_the_least_first_time_that_is_accepted_gives_no_two_equal_times(steps):
    times = step_times(steps, process=VP.stable_diffusion(), t_init=steps).tolist()
    assert len(set(times)) == steps and times == sorted(times, reverse=True) and times[-1] >= 1


def test_an_unknown_noise_mode_raises_and_says_which_there_are():
    with pytest.raises(ValueError, match="Choose the noise mode from fresh, ddim, fixed; it is 'white'"):
        few_step(lambda x, t: x, torch.zeros(1, 1), torch.tensor([1.0]), Flow(), mode="white")


class Recorder:
    """A predictor that always answers the same picture and keeps what it was asked."""

    def __init__(self, answer: Tensor):
        self.answer = answer
        self.asked: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.asked.append((x_t, t))
        return self.answer


@pytest.mark.parametrize("process", [Flow(), VE(), VP.stable_diffusion()], ids=["flow", "ve", "vp"])
def test_each_noise_mode_feeds_the_network_what_its_formula_says(process):
    times = {Flow: [0.9, 0.4, 0.2], VE: [2.5, 0.9, 0.4], VP: [625, 312, 100]}[type(process)]
    times = torch.tensor(times, dtype=None if isinstance(process, VP) else torch.float64)
    z, n1, n2, answer = (randn(2, 3, 4, seed=i) for i in range(4))
    alpha, sigma = process.coefficients(times)
    # "ddim" keeps the noise that the first prediction implied, for the answer is the same each time.
    kept = z - alpha[0] / sigma[0] * answer
    for mode, used in {"fresh": (n1, n2), "ddim": (kept, kept), "fixed": (z, z)}.items():
        predict, noises = Recorder(answer), iter([n1, n2])
        result = few_step(predict, z, times, process, mode=mode, next_noise=lambda noises=noises: next(noises))
        torch.testing.assert_close(result, answer)
        expected = [sigma[0] * z, alpha[1] * answer + sigma[1] * used[0], alpha[2] * answer + sigma[2] * used[1]]
        torch.testing.assert_close([x_t for x_t, _ in predict.asked], expected)
        assert [t.tolist() for _, t in predict.asked] == [[time] * 2 for time in times.tolist()]  # one t a sample
        assert len(list(noises)) == (0 if mode == "fresh" else 2)  # the others draw nothing


def test_fresh_noise_is_gaussian_by_default():
    z, predict = torch.zeros(64, 256), Recorder(torch.zeros(64, 256))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        few_step(predict, z, torch.tensor([1.0, 0.5]), Flow())
    noise = predict.asked[1][0] / 0.5
    assert float(noise.mean()) == pytest.approx(0, abs=0.03)
    assert float(noise.std()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("mode", NOISE_MODES)
def test_one_step_is_one_prediction_whatever_the_mode(mode):
    z = randn(2, 3)
    clean = few_step(lambda x, t: 2 * x + t[:, None], z, torch.tensor([0.5]), Flow(), mode=mode, next_noise=None)
    torch.testing.assert_close(clean, z + 0.5)


def test_sampling_begins_with_the_picture_it_is_given():
    x_start, predict = randn(2, 3), Recorder(torch.zeros(2, 3, dtype=torch.float64))
    few_step(predict, randn(2, 3, seed=1), torch.tensor([0.5]), Flow(), x_start=x_start)
    assert predict.asked[0][0] is x_start


@pytest.mark.parametrize("mode", NOISE_MODES)
def test_a_schedule_in_two_parts_is_the_whole(mode):
    process, times = Flow(), step_times(4, process=Flow())
    z, later = randn(2, 3, 4), [randn(2, 3, 4, seed=i) for i in (1, 2, 3)]

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x_t) * (1 + t[:, None, None])

    def run(part: Tensor, noises, **options) -> Tensor:
        return few_step(predict, z, part, process, mode=mode, next_noise=lambda: next(noises), **options)

    whole = run(times, iter(later))
    noises = iter(later)
    half = run(times[:2], noises, t_end=times[2])
    torch.testing.assert_close(run(times[2:], noises, x_start=half), whole)


def test_implied_noise_is_the_noise_of_the_true_picture():
    process, t = VP.stable_diffusion("v"), torch.tensor([20, 700])
    x0, noise = randn(2, 3, 4), randn(2, 3, 4, seed=1)
    torch.testing.assert_close(implied_noise(process.diffuse(x0, noise, t), x0, t, process), noise)
