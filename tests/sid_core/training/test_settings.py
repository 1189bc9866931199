"""Settings: what they mean for an iteration, and which of them can't be trained with."""

import math

import pytest
import torch
from oracles import ToyDistillation, small, stable_diffusion_alphas

from sid_pack.sid_core.method.guidance import Guidance
from sid_pack.sid_core.method.process import VP, Flow
from sid_pack.sid_core.training.settings import Settings, draw_score_times, learning_rate_factor, time_weight

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
        ({"steps": 0}, "steps is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"fake_updates": 0}, "fake_updates is 0"),
        ({"weighting": "w"}, "weighting is 'w'"),
        ({"optimizer": "SGD"}, "optimizer is 'SGD'"),
        ({"score_times": (20, 1000)}, "20…1000"),
    ],
)
def test_settings_that_cannot_be_trained_with_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(LSG, **changes)
