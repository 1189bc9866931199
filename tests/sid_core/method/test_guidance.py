"""Guidance: the authors' numbers, and no forward more than a scale needs."""

import pytest
import torch
from oracles import parity, relative_error
from torch import Tensor

from sid_pack.sid_core.method.guidance import Guidance, guided, steer_away
from sid_pack.sid_core.method.process import VP

_, TENSORS = parity("sampling")


@pytest.mark.parametrize("scale", [1.0, 0.0, -1.0, 2.0, 4.5])
def test_guidance_equals_the_authors_code(scale):
    process, t = VP.stable_diffusion(), TENSORS["guided.t"]
    x_t = process.diffuse(TENSORS["guided.x0"], TENSORS["guided.noise"], t)

    def predict(x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        bias = TENSORS["toy.b"] * t[:, None] / 1000 + TENSORS["toy.u"] * cond.mean((1, 2))[:, None]
        mixed = torch.einsum("oc,bchw->bohw", TENSORS["toy.W"], x_t)
        return process.clean(torch.tanh(mixed + bias[..., None, None]), x_t, t)

    clean = guided(predict, x_t, t, TENSORS["cond"], TENSORS["uncond"], scale)
    assert relative_error(clean, TENSORS[f"guided.clean[{scale}]"]) <= 1e-5


@pytest.mark.parametrize(
    ("scale", "asked", "value"),
    [(1.0, ["c"], 10), (0.0, ["∅"], 4), (-1.0, ["c", "∅"], -2), (2.0, ["c", "∅"], 16), (0.5, ["c", "∅"], 7)],
)
def test_a_scale_costs_only_the_forwards_it_needs(scale, asked, value):
    seen = []

    def predict(x_t: Tensor, t: Tensor, cond: str) -> Tensor:
        seen.append(cond)
        return torch.full_like(x_t, {"c": 10.0, "∅": 4.0}[cond])

    result = guided(predict, torch.zeros(2, 3), torch.zeros(2), "c", "∅", scale)
    assert sorted(seen) == asked
    assert result.tolist() == [[value] * 3] * 2


@pytest.mark.parametrize(
    ("guidance", "kappas"),
    [
        (Guidance.lsg(1.5), (1.5, 1.5, 1.5)),
        (Guidance.zero_cfg(), (0, 0, 1)),
        (Guidance.anti_cfg(), (-1, -1, 1)),
        (Guidance.anti_cfg(-2.5), (-2.5, -2.5, 1)),
    ],
)
def test_strategies_have_the_scales_of_their_papers(guidance, kappas):
    assert (guidance.fake_train, guidance.fake_score, guidance.teacher) == kappas


def test_steering_moves_away_from_the_weaker_model_in_proportion():
    clean, weaker = torch.tensor([1.0, 5.0]), torch.tensor([3.0, 5.0])
    assert steer_away(clean, weaker, 0.5).tolist() == [0.0, 5.0]
    assert steer_away(clean, weaker, 0.0).tolist() == clean.tolist()
