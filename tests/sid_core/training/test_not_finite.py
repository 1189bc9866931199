"""Numbers that are not finite: left out of what is learnt, and told of."""

import math
from dataclasses import replace

import pytest
import torch
from oracles import ToyDistillation, Watch, break_prompt, small
from torch import Tensor

from sid_pack.sid_core.method.guidance import Guidance
from sid_pack.sid_core.method.process import VP
from sid_pack.sid_core.training.run import NotFiniteError
from sid_pack.sid_core.training.settings import Settings

LSG, ZERO = Guidance.lsg(2.0), Guidance.zero_cfg()
SD = VP.stable_diffusion()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_sample_that_is_not_finite_is_left_out_and_counted(value):
    toy = ToyDistillation(SD, small(Settings(LSG)))
    break_prompt(toy, word=1, value=value)
    watch = Watch(toy)
    for _, result in zip(range(10), toy.iterations(), strict=False):
        rows = next(rows for role, _, rows in watch.calls if role == "student")
        assert result.skipped == int((rows[:, 1] == 1).sum())
        assert not any((rows[:, 1] == 1).any() for role, _, rows in watch.calls if role != "student")
        assert math.isfinite(result.student_loss)
        assert math.isfinite(result.fake_loss)
        watch.calls.clear()
    assert all(weight.isfinite().all() for weight in toy.weights())
    assert any(
        not torch.equal(a, b)
        for a, b in zip(toy.weights(), ToyDistillation(SD, toy.run.settings).weights(), strict=True)
    )


def test_nan_within_the_student_never_reaches_its_weights():
    toy = ToyDistillation(SD, small(Settings(LSG)))
    student = toy.predict.student
    toy.predict = replace(
        toy.predict,
        student=lambda x_t, t, cond: student(
            torch.where(cond["word"][:, 1].bool()[:, None, None, None], math.nan, x_t), t, cond
        ),
    )
    assert sum(result.skipped for result in toy.train(5)) > 0
    assert all(weight.isfinite().all() for weight in toy.weights())


def test_a_sample_whose_teacher_gives_nan_is_left_out_of_the_students_loss_alone():
    toy = ToyDistillation(SD, small(Settings(LSG)))
    teacher = toy.predict.teacher
    seen = []

    def broken(x_t: Tensor, t: Tensor, cond: dict[str, Tensor], uncond: dict[str, Tensor]) -> Tensor:
        bad = cond["word"][:, 1].bool()
        seen.append(int(bad.sum()))
        # The network itself meets the NaN, as one that overflows does, so that its gradient is NaN too.
        return teacher(x_t * torch.where(bad, math.nan, 1.0)[:, None, None, None], t, cond, uncond)

    toy.predict = replace(toy.predict, teacher=broken)
    results = toy.train(5)
    assert [result.skipped for result in results] == seen
    assert sum(seen) > 0
    assert all(math.isfinite(result.student_loss) for result in results)
    assert all(weight.isfinite().all() for weight in toy.weights())
    start, unbroken = ToyDistillation(SD, toy.run.settings), ToyDistillation(SD, toy.run.settings)
    unbroken.train(5)
    moved = [
        [not torch.equal(a, b) for a, b in zip(run.weights()[:4], start.weights()[:4], strict=True)]
        for run in (toy, unbroken)
    ]
    assert moved[0] == moved[1]
    assert any(moved[0])


def test_a_batch_without_a_finite_sample_raises_and_changes_nothing():
    toy = ToyDistillation(SD, small(Settings(LSG)))
    toy.train(2)
    before = toy.weights()
    break_prompt(toy, word=0, everywhere=True)
    with pytest.raises(NotFiniteError, match="^Lower the learning rates.*in iteration 3 .*last good weights are kept"):
        toy.train(1)
    assert all(torch.equal(a, b) for a, b in zip(toy.weights(), before, strict=True))
    assert toy.run.iteration == 2


@pytest.mark.parametrize("role", ["fake", "teacher"])
def test_a_loss_that_is_nan_raises_and_its_weights_stay(role):
    toy = ToyDistillation(SD, small(Settings(LSG)))
    toy.train(2)
    before = toy.weights()
    toy.predict = replace(toy.predict, **{role: lambda x_t, *_: x_t * math.nan})
    with pytest.raises(NotFiniteError, match="fake score" if role == "fake" else "student's loss"):
        toy.train(1)
    student, fake = toy.weights()[:4], toy.weights()[4:]
    assert all(torch.equal(a, b) for a, b in zip(student, before[:4], strict=True))
    assert all(weight.isfinite().all() for weight in fake)
    if role == "fake":
        assert all(torch.equal(a, b) for a, b in zip(fake, before[4:], strict=True))
    assert all(weight.requires_grad for weight in toy.run.fake.parameters())
