"""Settings: what they mean for an iteration, and which of them can't be trained with."""

import math
from dataclasses import fields

import pytest
import torch
from oracles import ToyDistillation, small, stable_diffusion_alphas

from sid_pack.sid_core.method.guidance import Guidance
from sid_pack.sid_core.method.process import VP, Flow
from sid_pack.sid_core.training.settings import (
    Settings,
    draw_score_times,
    learning_rate_factor,
    shown_name,
    time_weight,
)

LSG, ZERO = Guidance.lsg(2.0), Guidance.zero_cfg()
SD = VP.stable_diffusion()


def test_vp_scores_are_compared_at_every_time_of_the_range():
    settings, draw = Settings(LSG, score_times=(20, 23)), torch.Generator().manual_seed(0)
    times = draw_score_times(SD, settings, 4000, draw)
    assert times.unique().tolist() == [20, 21, 22, 23]
    assert all(abs(int((times == t).sum()) - 1000) < 100 for t in range(20, 24))


def test_flow_scores_are_compared_at_logit_normal_times():
    times = draw_score_times(Flow(), Settings(LSG), 20_000, torch.Generator().manual_seed(0))
    logits = torch.logit(times.double())
    assert float(logits.mean()) == pytest.approx(math.log(2), abs=0.05)
    assert float(logits.std()) == pytest.approx(1.6, abs=0.05)


def test_weightings_over_time():
    t = torch.tensor([100, 700])
    alphas = torch.tensor(stable_diffusion_alphas(), dtype=torch.float64)[t]
    snr = alphas / (1 - alphas)
    flow = torch.tensor([0.2, 0.5], dtype=torch.float64)
    for weighting, vp, line in (
        ("as published", None, 1 - flow),
        ("1/error", None, None),
        ("snr", snr, ((1 - flow) / flow) ** 2),
        ("sqrt(snr)", snr**0.5, (1 - flow) / flow),
    ):
        for found, expected in ((time_weight(weighting, SD, t), vp), (time_weight(weighting, Flow(), flow), line)):
            assert (found is None) == (expected is None)
            assert found is None or torch.allclose(found.double(), expected, rtol=1e-5)


# Settings and the run's other parts.


def test_learning_rates_fall_by_half_a_cosine():
    toy = ToyDistillation(SD, small(Settings(ZERO, learning_rate_decay_iterations=4)))
    rates = []
    for _ in zip(range(6), toy.iterations(), strict=False):
        rates.append(toy.run.student_optimizer.param_groups[0]["lr"])
        assert toy.run.fake_optimizer.param_groups[0]["lr"] == rates[-1]
    expected = [0.01 * 0.5 * (1 + math.cos(math.pi * min(1, i / 4))) for i in range(6)]
    assert rates == pytest.approx(expected, abs=1e-9)


def test_learning_rates_rise_linearly_in_the_warm_up():
    settings = Settings(ZERO, warm_up_iterations=4, learning_rate_decay_iterations=10)
    factors = [learning_rate_factor(settings, i) for i in range(7)]
    cosine = [0.5 * (1 + math.cos(math.pi * i / 10)) for i in range(7)]
    assert factors == pytest.approx([c * f for c, f in zip(cosine, [0.2, 0.4, 0.6, 0.8, 1, 1, 1], strict=True)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "Set steps to 1 or more; it is 0"),
        ({"batch": 0}, "Set batch_size to 1 or more"),
        ({"fake_updates": 0}, "fake_updates to 1 or more"),
        ({"weighting": "w"}, "Choose weighting from .*; it is 'w'"),
        ({"optimizer": "SGD"}, "Choose optimizer from .*; it is 'SGD'"),
        ({"score_times": (20, 1000)}, "within 0 to 999.* 20 and 1000"),
        ({"caption_dropout": 1.5}, "caption_dropout to a number from 0 to 1; it is 1.5"),
        ({"t_init": 0.0}, "t_init to a number above 0"),
        ({"student_learning_rate": -1e-6}, "student_learning_rate to 0 or more"),
    ],
)
def test_settings_that_cannot_be_trained_with_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(LSG, **changes)


NUMBERS = [field.name for field in fields(Settings) if field.type in (int, float, float | None)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [name for name in NUMBERS if name != "seed"])
def test_a_setting_that_is_no_finite_number_is_named(name, value):
    with pytest.raises(ValueError, match=f"^Set {shown_name(name)} to .*; it is {value}"):
        Settings(LSG, **{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_guidance_is_finite(value):
    for guidance in (Guidance.lsg, Guidance.anti_cfg):
        with pytest.raises(ValueError, match=f"finite number; it is {value}"):
            guidance(value)
