"""The DMD2-style baseline: its inputs, its two time scales, its GAN, and what it comes to on Gaussians."""

import math
from dataclasses import replace

import pytest
import torch
from oracle_gaussians import DEVIATION, MEANS, PROCESS, AffineStudent, GaussianPictures, LearntGaussian, teacher
from oracles import ToyNetwork, toy_predictor, toy_prompts
from torch import nn

from sid_pack.sid_core.method.guidance import Guidance
from sid_pack.sid_core.method.sampling import few_step, step_times
from sid_pack.sid_core.training.distill import Predictors
from sid_pack.sid_core.training.run import NotFiniteError, Run
from sid_pack.sid_core.training.settings import Settings

CPU = torch.device("cpu")
SETTINGS = Settings(
    Guidance(1, 1, 1, "dmd2"),
    steps=1,
    t_init=999,
    batch=128,
    student_learning_rate=0.04,
    fake_learning_rate=0.08,
    fake_updates=5,
    ema_half_life_images=2000,
    learning_rate_decay_iterations=400,
)


class Gaussians:
    """A student and a fake score of Gaussians, and the baseline that trains them."""

    def __init__(self, settings: Settings = SETTINGS, judge=None):
        from dmd2 import dmd2

        student, fake = AffineStudent(), LearntGaussian()
        parts = nn.ModuleDict({"score": fake, "head": judge.head}) if judge else fake
        self.run = Run(student, parts, settings)
        self.predict = Predictors(teacher, fake, student)
        self.iterations = dmd2(self.run, self.predict, toy_prompts(), (1, 1, 1), PROCESS, CPU, judge)

    def train(self, iterations: int) -> list[tuple[float, float]]:
        return [next(self.iterations) for _ in range(iterations)]


@pytest.mark.parametrize("step", [0, 1, 3])
def test_the_simulated_input_is_what_the_sampler_gives_the_network(step):
    from sid_pack.sid_core.training.batch import noisy_input

    predict, cond = toy_predictor(ToyNetwork(), PROCESS), toy_prompts().batch(torch.tensor([0, 1, 2, 1]))
    times = step_times(4, process=PROCESS, t_init=999)
    noises = list(torch.randn(4, 4, 2, 1, 1, generator=torch.Generator().manual_seed(0)))
    seen = []

    def student(x_t, t, cond=cond):
        seen.append((x_t, t))
        return predict(x_t, t, cond)

    later = iter(noises[1:])
    few_step(student, noises[0], times, PROCESS, next_noise=lambda: next(later))
    expected = seen[step]
    x_t, t = noisy_input(predict, times[: step + 1], cond, PROCESS, noises[: step + 1])
    torch.testing.assert_close((x_t, t), (expected[0].detach(), expected[1]))
    assert not x_t.requires_grad


def test_the_fake_score_has_its_updates_for_each_of_the_student_s():
    toy = Gaussians()
    toy.train(3)
    steps = [
        {int(state["step"]) for state in optimizer.state.values()}
        for optimizer in (toy.run.student_optimizer, toy.run.fake_optimizer)
    ]
    assert steps == [{3}, {15}]
    assert (toy.run.iteration, toy.run.images) == (3, 3 * SETTINGS.batch)


def test_a_one_step_student_comes_to_the_teacher_s_gaussians():
    toy = Gaussians()
    toy.train(400)
    with toy.run.averaged_weights():
        means, gain = toy.run.student.means.tolist(), abs(toy.run.student.gain.item())
    assert means == pytest.approx(MEANS.tolist(), abs=0.15)
    assert gain == pytest.approx(DEVIATION, abs=0.1)
    assert toy.run.fake.means.tolist() == pytest.approx(MEANS.tolist(), abs=0.15)


def test_a_run_that_diverges_keeps_its_last_weights():
    from dmd2 import updated

    toy = Gaussians()
    toy.train(1)
    before = [weight.clone() for weight in toy.run.student.parameters()]
    with pytest.raises(NotFiniteError, match="the student's loss is no longer finite"):
        updated(toy.run, toy.run.student, toy.run.student.gain * math.nan)
    assert all(map(torch.equal, before, toy.run.student.parameters()))


def test_gradients_are_clipped_to_their_norm():
    from dmd2 import updated

    toy = Gaussians(replace(SETTINGS, gradient_norm=0.5))
    updated(toy.run, toy.run.student, 30 * toy.run.student.means[0] + 40 * toy.run.student.gain)
    assert toy.run.student.means.grad.tolist() == pytest.approx([0.3, 0, 0])
    assert toy.run.student.gain.grad.item() == pytest.approx(0.4)


def test_the_same_seed_trains_the_same_student():
    first, second, other = Gaussians(), Gaussians(), Gaussians(replace(SETTINGS, seed=1))
    assert first.train(3) == second.train(3) != other.train(3)


def test_the_classifier_s_losses_at_chance_and_by_sign():
    from gan_head import classifier_loss, student_gan_loss

    nothing = torch.zeros(4, requires_grad=True)
    assert classifier_loss(nothing, nothing).item() == pytest.approx(2 * math.log(2))
    assert student_gan_loss(nothing).item() == pytest.approx(math.log(2))
    real, generated = (torch.zeros(4, requires_grad=True) for _ in range(2))
    for_real, for_generated = torch.autograd.grad(classifier_loss(real, generated), (real, generated))
    assert (for_real == -0.125).all()  # descent raises a real picture's logit, and lowers a generated one's
    assert (for_generated == 0.125).all()
    assert (torch.autograd.grad(student_gan_loss(nothing), nothing)[0] == -0.125).all()


def test_features_are_the_layer_s_and_the_rest_is_left_out():
    from gan_head import features_of

    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    called = []
    network[2].register_forward_hook(lambda *_: called.append(True))
    x = torch.randn(5, 2)
    found = features_of(network[1], lambda: network(x))
    torch.testing.assert_close(found, network[1](network[0](x)))
    assert not called
    network(x)
    assert called  # the hook is gone


class Moments(nn.Module):
    """A judge's eye for Gaussians: the noised picture, its square, and the prompt's word by both."""

    def forward(self, x_t, t, cond):
        return torch.cat([x_t.flatten(1), x_t.flatten(1) ** 2, cond["word"], cond["word"] * x_t.flatten(1)], 1)


def test_with_the_gan_alone_the_student_goes_to_the_real_pictures(monkeypatch):
    """The teacher knows no pictures here: both scores are the same, and only the GAN is left."""
    import dmd2
    from dmd2 import Judge

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 1)
            nn.init.zeros_(self.layer.weight)

        def forward(self, features):
            return self.layer(features)[:, 0]

    eye, pictures = Moments(), GaussianPictures()
    judge = Judge(eye, Head(), pictures)
    toy = Gaussians(SETTINGS, judge)
    score = toy.run.fake["score"]

    def fake(x_t, t, cond):
        eye(x_t, t, cond)
        return score(x_t, t, cond)

    for name in ("STUDENT_GAN_WEIGHT", "CLASSIFIER_WEIGHT"):
        monkeypatch.setattr(dmd2, name, 1.0)
    predict = Predictors(lambda x_t, t, cond, uncond: fake(x_t, t, cond), fake, toy.run.student)
    iterations = dmd2.dmd2(toy.run, predict, toy_prompts(), (1, 1, 1), PROCESS, CPU, judge)
    for _ in range(100):
        next(iterations)
    assert toy.run.student.means.tolist() == pytest.approx(MEANS.tolist(), abs=0.35)
