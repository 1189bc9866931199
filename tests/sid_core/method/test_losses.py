"""The losses against the authors' code and by hand."""

import math

import pytest
import torch
from oracles import parity, relative_error
from torch import Tensor

from sid_pack.sid_core.method.losses import fake_score_loss, student_loss

ENTRIES, TENSORS = parity("losses")
INPUTS = ("x_g", "y_teacher", "y_fake")


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["name"] for entry in ENTRIES])
def test_student_loss_and_gradients_equal_the_authors_code(entry):
    inputs = [TENSORS[name].clone().requires_grad_() for name in INPUTS]
    loss = student_loss(*inputs, alpha=entry["alpha"])
    loss.backward()
    assert relative_error(loss.detach()[None], TENSORS[f"{entry['name']}.loss"]) <= 1e-5
    for name, tensor in zip(INPUTS, inputs, strict=True):
        assert relative_error(tensor.grad, TENSORS[f"{entry['name']}.grad_{name}"]) <= 1e-5, name


def by_hand(x_g: Tensor, y_teacher: Tensor, y_fake: Tensor, alpha: float, weight: list[float]) -> float:
    total = 0.0
    for i in range(len(x_g)):
        for x, teacher, fake in zip(*(v[i].flatten().tolist() for v in (x_g, y_teacher, y_fake)), strict=True):
            total += weight[i] * (teacher - fake) * ((teacher - x) - alpha * (teacher - fake))
    return total / len(x_g)


def test_student_loss_takes_a_weight_per_sample():
    x_g, y_teacher, y_fake = (TENSORS[name].double() for name in INPUTS)
    weight = [0.5, 0.0, 3.0]
    loss = student_loss(x_g, y_teacher, y_fake, alpha=1.2, weight=torch.tensor(weight))
    assert float(loss) == pytest.approx(by_hand(x_g, y_teacher, y_fake, 1.2, weight), rel=1e-9)


def test_student_loss_bounds_the_weight_of_a_picture_the_teacher_agrees_with():
    x_g, y_fake = torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 0.25)
    loss = student_loss(x_g, x_g, y_fake, alpha=1.0)
    assert float(loss) == pytest.approx(-4 * 0.25**2 * 1e5, rel=1e-6)


def test_a_student_at_its_teachers_fake_score_has_neither_loss_nor_gradient():
    x_g = TENSORS["x_g"].clone().requires_grad_()
    loss = student_loss(x_g, TENSORS["y_teacher"], TENSORS["y_teacher"])
    loss.backward()
    assert float(loss.detach()) == 0
    assert not x_g.grad.any()


@pytest.mark.parametrize("which", range(3))
def test_nan_in_any_input_reaches_the_loss(which):
    inputs = [TENSORS[name].clone() for name in INPUTS]
    inputs[which][1, 0, 0, 0] = math.nan
    assert student_loss(*inputs).isnan()


def test_fake_score_loss_sums_elements_and_averages_weighted_samples():
    y_fake, x_g = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]]), torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]])
    assert float(fake_score_loss(y_fake, x_g, torch.tensor([2.0, 0.1]))) == pytest.approx((2 * 5 + 0.1 * 25) / 2)
    y_fake.requires_grad_()
    fake_score_loss(y_fake, x_g, torch.tensor([2.0, 0.1])).backward()
    torch.testing.assert_close(y_fake.grad, torch.tensor([[[2.0, 4.0]], [[-0.3, -0.4]]]))
