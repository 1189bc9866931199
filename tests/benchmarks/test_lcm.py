"""The LCM-style baseline, on Gaussians whose probability flow is known."""

import pytest
import torch
from oracle_gaussians import DEVIATION, MEANS, PROCESS, GaussianPictures, TimedStudent, mean_of, solved, teacher
from oracles import toy_prompts

from sid_pack.sid_core.method.guidance import Guidance
from sid_pack.sid_core.method.sampling import few_step, step_times
from sid_pack.sid_core.training.distill import Predictors
from sid_pack.sid_core.training.run import Run
from sid_pack.sid_core.training.settings import Settings

# Few of either, as what is learnt at one time has to pass through all before.
ITERATIONS, SOLVER_STEPS = 200, 20
STRIDE = 1000 // SOLVER_STEPS


@pytest.fixture(scope="module")
def trained():
    import lcm

    settings = Settings(
        Guidance(1, 1, 1, "lcm"),
        steps=4,
        t_init=999,
        batch=256,
        student_learning_rate=0.05,
        ema_half_life_images=2000,
        learning_rate_decay_iterations=ITERATIONS,
    )
    student, average = TimedStudent(), TimedStudent()
    run = Run(student, average, settings)
    predict = Predictors(teacher, average, student)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lcm, "SOLVER_STEPS", SOLVER_STEPS)
        patch.setattr(lcm, "TARGET_DECAY", 0.5)
        iterations = lcm.lcm(run, predict, toy_prompts(), GaussianPictures(), PROCESS, torch.device("cpu"))
        for _ in range(ITERATIONS):
            next(iterations)
    return run


def test_the_student_is_where_the_solver_ends_from_any_time(trained):
    x = torch.linspace(-1.5, 1.5, 7).repeat(3).view(-1, 1, 1, 1)
    cond = toy_prompts().batch(torch.arange(3).repeat_interleave(7))
    with trained.averaged_weights(), torch.no_grad():
        for t in (199, 599, 999):
            at = torch.full((len(x),), t)
            expected = solved(x, t, mean_of(cond), DEVIATION, STRIDE)
            begun = (teacher(x, at, cond, cond) - expected).abs().max()
            assert (trained.student(x, at, cond) - expected).abs().max() < 0.15 * begun, t


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_its_samples_are_the_teacher_s_in_any_number_of_steps(trained, steps):
    torch.manual_seed(0)
    cond = toy_prompts().batch(torch.arange(3).repeat_interleave(2000))
    # The solver's times next to the schedule's, as it was trained at these alone.
    times = step_times(steps, process=PROCESS, t_init=999) // STRIDE * STRIDE + STRIDE - 1
    with torch.no_grad(), trained.averaged_weights():
        drawn = few_step(lambda x_t, t: trained.student(x_t, t, cond), torch.randn(6000, 1, 1, 1), times, PROCESS)
    drawn = drawn.view(3, 2000)
    assert drawn.mean(1).tolist() == pytest.approx(MEANS.tolist(), abs=0.1)
    # Each step is short of the spread as the solver is; the teacher's own first step has a spread of 0.02.
    assert drawn.std(1).tolist() == pytest.approx([DEVIATION] * 3, rel=0.25)


def test_the_target_follows_the_student_and_is_not_trained():
    from lcm import TARGET_DECAY, follow

    average, student = TimedStudent(), TimedStudent()
    with torch.no_grad():
        student.means += 1
    follow(average, student)
    assert (average.means - MEANS).tolist() == pytest.approx([1 - TARGET_DECAY] * 3)


def test_no_gradient_reaches_the_average(trained):
    assert all(weight.grad is None and not weight.requires_grad for weight in trained.fake.parameters())
    assert not trained.fake_optimizer.state
