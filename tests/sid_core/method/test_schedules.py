"""Other methods' times as they are published, times written by hand, and those that a picture is changed at."""

import re

import pytest
import torch
from oracle_gaussians import PROCESS, denoised, flowed

from sid_pack.sid_core.method.process import VP, Flow
from sid_pack.sid_core.method.sampling import few_step, step_times
from sid_pack.sid_core.method.schedules import LCM, TRAILING, method_times, own_times_of, times_to_change

SD = VP.stable_diffusion()
PUBLISHED = {  # DMD2's readme has the first; the others are diffusers' of these settings
    (TRAILING, 4): [999, 749, 499, 249],
    (TRAILING, 1): [999],
    (TRAILING, 2): [999, 499],
    (TRAILING, 3): [999, 666, 332],
    (TRAILING, 8): [999, 874, 749, 624, 499, 374, 249, 124],
    (LCM, 4): [999, 759, 499, 259],
    (LCM, 8): [999, 879, 759, 639, 499, 379, 259, 139],
    (LCM, 1): [999],
    (LCM, 50): list(range(999, 0, -20)),
}


@pytest.mark.parametrize(("method", "steps"), PUBLISHED)
def test_other_methods_times_are_those_that_are_published(method, steps):
    assert method_times(method, steps, SD).tolist() == PUBLISHED[method, steps]


@pytest.mark.parametrize(
    ("method", "steps", "process", "message"),
    [
        (TRAILING, 0, SD, "Set steps to a number from 1 to 1000 for the times of DMD2, Lightning, Hyper-SD; it is 0"),
        (LCM, 51, SD, "Set steps to a number from 1 to 50 for the times of LCM; it is 51"),
        (LCM, 4, Flow(), "Set times to SiD, or write them in own_times: those of LCM are for models of the SD kind"),
    ],
)
def test_a_method_that_has_no_such_times_is_refused(method, steps, process, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        method_times(method, steps, process)


@pytest.mark.parametrize("text", ["999, 749, 499, 249", "999 749 499 249", " 999,749;499.0\n249, "])
def test_times_by_hand_in_any_punctuation(text):
    assert own_times_of(text, SD).tolist() == [999, 749, 499, 249]


def test_a_flows_times_by_hand_are_the_numbers_themselves():
    assert own_times_of("1, 0.9375, 0.8333, 0.625", Flow()).tolist() == [1, 0.9375, 0.8333, 0.625]


@pytest.mark.parametrize(
    ("text", "process", "expected"),
    [
        ("749, 999", SD, "whole times from 999 down to 1"),
        ("999, 999", SD, "whole times from 999 down to 1"),
        ("1000, 500", SD, "whole times from 999 down to 1"),
        ("1, 0.75, 0.5", SD, "whole times from 999 down to 1"),
        ("999, x", SD, "whole times from 999 down to 1"),
        ("999, nan", SD, "whole times from 999 down to 1"),
        (",", SD, "whole times from 999 down to 1"),
        ("999, 749", Flow(), "times from 1 down to above 0"),
        ("1, 0", Flow(), "times from 1 down to above 0"),
    ],
)
def test_times_that_do_not_fall_or_are_of_another_kind_of_model_are_refused(text, process, expected):
    with pytest.raises(ValueError, match=f"^Write own_times as falling {expected}, with commas between them; it is"):
        own_times_of(text, process)


MEAN, DEVIATION, PICTURES = 1.0, 0.5, 40_000


def drawn(times: torch.Tensor, mode: str) -> torch.Tensor:
    """What the true posterior mean of N(MEAN, DEVIATION²) draws at these times."""
    chance = torch.Generator().manual_seed(0)

    def noise() -> torch.Tensor:
        return torch.randn(PICTURES, 1, generator=chance, dtype=torch.float64)

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return denoised(x_t, t, MEAN, DEVIATION)

    return few_step(predict, noise(), times, PROCESS, mode=mode, next_noise=noise)


def moments(times: torch.Tensor) -> tuple[float, float]:
    """Mean and deviation with fresh noise in closed form: x̂ = m + g (α (x̂ - m) + σ n), g = s² α/(α² s² + σ²)."""
    centre = spread = 0.0
    for alpha, sigma in zip(*(part.tolist() for part in PROCESS.coefficients(times)), strict=True):
        gain = DEVIATION**2 * alpha / (alpha**2 * DEVIATION**2 + sigma**2)
        centre = MEAN + gain * alpha * (centre - MEAN)
        spread = gain * (alpha**2 * spread**2 + sigma**2) ** 0.5
    return centre, spread


@pytest.mark.parametrize("method", [TRAILING, LCM])
def test_a_perfect_network_draws_with_fresh_noise_what_follows_from_the_times(method):
    times = method_times(method, 4, PROCESS)
    centre, spread = moments(times)
    pictures = drawn(times, "fresh")
    assert pictures.mean().item() == pytest.approx(centre, abs=0.01)
    assert pictures.std().item() == pytest.approx(spread, rel=0.02)
    # and that other times would be seen
    assert moments(step_times(4, process=PROCESS))[1] != pytest.approx(spread, rel=0.05)


def test_trailing_steps_with_implied_noise_go_where_the_probability_flow_goes():
    """Lightning's and Hyper-SD's way, which is Euler's: the more steps, the nearer, in proportion."""
    first = torch.randn(PICTURES, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    last = torch.tensor([999])
    truth = flowed(PROCESS.diffuse(torch.zeros_like(first), first, last), last, MEAN, DEVIATION)
    apart = [
        (drawn(method_times(TRAILING, steps, PROCESS), "ddim") - truth).square().mean().sqrt().item()
        for steps in (8, 64)
    ]
    assert apart[1] < 0.04 and 4 < apart[0] / apart[1] < 16


@pytest.mark.parametrize(
    ("denoise", "kept"),
    [
        (1.0, [625, 468, 312, 156]),
        (0.75, [468, 312, 156]),
        (0.5, [312, 156]),
        (0.25, [156]),
        (0.9, [562, 468, 312, 156]),
        (0.6, [375, 312, 156]),
        (0.51, [318, 312, 156]),
        (0.1, [62]),
        (0.01, [6]),
        (0.0, []),
    ],
)
def test_a_picture_is_changed_from_its_share_of_the_first_time_on_in_the_students_own_times(denoise, kept):
    assert times_to_change(step_times(4, process=SD), denoise).tolist() == kept
    flow = times_to_change(step_times(4, process=Flow()), denoise).tolist()
    assert flow == pytest.approx([denoise, *(t for t in (0.75, 0.5, 0.25) if t < denoise)] if denoise else [])


@pytest.mark.parametrize(
    ("steps", "denoise", "kept"), [(3, 0.67, 2), (3, 0.33, 1), (6, 0.17, 1), (6, 0.83, 5), (7, 0.43, 3), (1, 0.5, 1)]
)
def test_a_share_that_the_widget_rounds_is_the_students_own_time(steps, denoise, kept):
    """And not a step beside it."""
    for process in (SD, Flow()):
        times = step_times(steps, process=process)
        changed = times_to_change(times, denoise)
        assert len(changed) == kept
        assert steps == 1 or changed.tolist() == times[-kept:].tolist()
