"""Warnings: one for each illness, named with its setting, and none for a run that is well."""

import math
import random
from dataclasses import asdict, replace
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from sid_pack.sid_core.data.conditioning import Cond, PromptSet
from sid_pack.sid_core.method.guidance import Guidance
from sid_pack.sid_core.method.process import VP
from sid_pack.sid_core.training.distill import Bucket, Predictors, StepResult, distill
from sid_pack.sid_core.training.health import MESSAGES, Health
from sid_pack.sid_core.training.run import NotFiniteError, Run
from sid_pack.sid_core.training.settings import Settings

BATCH = 4
SD = VP.stable_diffusion()


def well(iterations: int, seed: int = 0) -> list[StepResult]:
    """As the demo model's runs are: each of four steps with its own level, noise, and slow changes for the better."""
    draw = random.Random(seed)
    results = []
    for i in range(iterations):
        step, ripe = draw.randint(1, 4), 1 - math.exp(-i / 50)
        results.append(
            StepResult(
                iteration=i + 1,
                images=BATCH * (i + 1),
                step=step,
                student_loss=draw.gauss(0.03, 0.08) * (1 - 0.7 * ripe),
                fake_loss=draw.lognormvariate(-2.1, 0.5),
                skipped=int(draw.random() < 0.01),
                spread=(0.45 + 0.1 * step) * (1 + 0.4 * ripe) * draw.lognormvariate(0, 0.1),
                magnitude=(0.6 + 0.1 * step) * (1 + 0.3 * ripe) * draw.lognormvariate(0, 0.1),
            )
        )
    return results


def kinds(results: list[StepResult], health: Health | None = None) -> list[tuple[int, str]]:
    """(iteration, kind) of all warnings."""
    health = health or Health(BATCH)
    return [(result.iteration, warning.kind) for result in results for warning in health.update(result)]


@pytest.mark.parametrize("seed", range(20))
def test_a_run_that_is_well_gets_no_warning(seed):
    assert kinds(well(600, seed)) == []


def test_a_run_that_begins_with_a_blur_is_well():
    """As where a caption has many right answers: their mean, in one step, and then one of them."""
    results = well(600)
    assert kinds([replace(results[0], magnitude=0.4), *results[1:]]) == []
    glaring = changed(results, 200, magnitude=2.5)
    ((_, named),) = kinds([replace(results[0], magnitude=0.4), *glaring[1:]])
    assert named == "saturation"


def changed(results: list[StepResult], begin: int, **factors: float) -> list[StepResult]:
    """From iteration `begin` on, these numbers are multiplied, or replaced where they are whole."""
    return [
        r
        if r.iteration < begin
        else replace(r, **{k: v if isinstance(v, int) else getattr(r, k) * v for k, v in factors.items()})
        for r in results
    ]


@pytest.mark.parametrize(
    ("kind", "factors", "settings"),
    [
        ("nan", {"skipped": 1}, ["student_learning_rate", "fake_learning_rate", "guidance_scale"]),
        ("collapse", {"spread": 0.25}, ["student_learning_rate", "guidance_scale", "batch_size"]),
        ("saturation", {"magnitude": 4.0}, ["student_learning_rate", "guidance_scale", "alpha"]),
        ("fake_score_lost", {"fake_loss": 15.0}, ["fake_learning_rate", "student_learning_rate"]),
        ("fake_score_behind", {"student_loss": 400.0}, ["fake_learning_rate", "student_learning_rate"]),
    ],
)
def test_each_illness_is_named_once_soon_after_it_began(kind, factors, settings):
    ill = changed(well(400), 200, **factors)
    ((iteration, named),) = kinds(ill)
    assert named == kind and 200 < iteration <= 230
    health = Health(BATCH)
    (warning,) = [warning for result in ill for warning in health.update(result)]
    assert all(setting in warning.message for setting in settings)
    assert "{" not in warning.message


def test_guidance_that_parts_teacher_and_fake_score_from_the_beginning_is_no_illness():
    """As Anti-CFG's: the student's loss may be thirty times the fake score's in every iteration."""
    parted = [replace(r, student_loss=-3.0 * r.fake_loss / 0.1) for r in well(600)]
    assert kinds(parted) == []


def test_a_student_without_a_signal_is_named_only_once_it_had_its_time():
    """Teacher and fake score begin equal: a loss of nothing is no illness in the first iterations."""
    slow = [replace(r, student_loss=1e-6) for r in well(600)]
    assert kinds(slow) == [(500, "no_signal")]
    assert kinds(slow[:450]) == []


def test_a_discriminator_that_has_won_for_a_whole_window_is_named_with_what_to_lower():
    judged = [replace(r, discriminator_loss=0.6, adversarial_loss=0.9) for r in well(100)]
    assert kinds(judged) == []
    won = [r if r.iteration < 50 else replace(r, discriminator_loss=0.01, adversarial_loss=5.0) for r in judged]
    ((iteration, named),) = kinds(won)
    assert named == "discriminator_won" and 50 < iteration < 50 + 30
    health = Health(BATCH)
    (warning,) = [warning for result in won for warning in health.update(result)]
    assert "Lower discriminator_weight" in warning.message and "fake_learning_rate" in warning.message
    # Some iterations have no such loss, as where their size has no images: it is judged by the others.
    for every in (20, 2):
        few = [replace(r, discriminator_loss=None) if r.iteration % every == 0 else r for r in won]
        ((_, named),) = kinds(few)
        assert named == "discriminator_won"


def test_a_run_with_images_goes_on_from_its_metrics():
    """Rows lack what an iteration did not have."""
    won = [replace(r, discriminator_loss=0.01, adversarial_loss=5.0) for r in well(40)]
    won[:10] = [replace(r, adversarial_loss=None) for r in won[:10]]
    health = Health(BATCH)
    health.recall(
        [{name: value for name, value in asdict(r).items() if value is not None} for r in won[:29]], warnings=True
    )
    assert kinds(won[29:], health) == [(30, "discriminator_won")]


def test_seeds_that_no_longer_matter_are_told_of_once():
    health = Health(BATCH)
    looks = [[warning.kind for warning in health.look(spread)] for spread in (0.4, 0.5, 0.041, 0.039, 0.01)]
    assert looks == [[], [], [], ["seeds"], []]
    told, settings_changed = Health(BATCH), Health(BATCH)
    rows = [
        {"iteration": 0, "seed_spread": 0.4},
        {"iteration": 9, "seed_spread": 0.01},
        {"iteration": 9, "warning": "seeds"},
    ]
    told.recall(rows, warnings=True)
    settings_changed.recall(rows, warnings=False)
    assert told.look(0.039) == [] and settings_changed.look(0.041) == []
    (warning,) = settings_changed.look(0.039)
    assert "10%" in warning.message and "fake_learning_rate" in warning.message
    assert Health(BATCH).look(0.0) == []  # a batch of nothing but zeros has no beginning to be judged by


def test_every_kind_has_been_seen_in_a_test():
    seen = {"seeds", "nan", "collapse", "saturation", "fake_score_lost", "fake_score_behind", "no_signal"}
    assert seen | {"discriminator_won"} == MESSAGES.keys()


def test_a_single_bad_iteration_is_no_illness():
    one = [
        r if r.iteration != 100 else replace(r, magnitude=10.0, skipped=3, spread=0.01, fake_loss=5) for r in well(200)
    ]
    assert kinds(one) == []


def test_a_batch_of_one_has_no_spread_to_lose():
    assert kinds([replace(r, spread=0.0) for r in well(100)]) == []


def test_a_run_that_goes_on_is_judged_by_its_own_beginning_and_not_told_twice():
    ill = changed(well(400), 200, spread=0.25)
    rows = [asdict(r) for r in ill[:300]] + [
        {"iteration": 225, "warning": "collapse", "message": "…"},
        {"iteration": 3},
    ]
    told, settings_changed = Health(BATCH), Health(BATCH)
    told.recall(rows, warnings=True)
    settings_changed.recall(rows, warnings=False)
    assert kinds(ill[300:], told) == []
    assert kinds(ill[300:], settings_changed) == [(301, "collapse")]
    assert kinds(ill[300:]) == []  # without its beginning it would look well


class Denoiser(nn.Module):
    """The exact clean prediction for data N(mean, 1) whose gain and shift can be learnt."""

    def __init__(self):
        super().__init__()
        self.shift, self.log_std = nn.Parameter(torch.full((8,), 0.3)), nn.Parameter(torch.zeros(8))

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        alpha, sigma = (c[:, None].float() for c in SD.coefficients(t))
        variance = torch.exp(2 * self.log_std)
        return self.shift + alpha * variance / (alpha**2 * variance + sigma**2) * (x_t - alpha * self.shift)


def real_warnings(rate: float) -> set[str]:
    """Of a run whose three roles begin equal, as in practice."""
    settings = Settings(
        Guidance.lsg(1.0), steps=2, batch=16, student_learning_rate=rate, fake_learning_rate=rate, caption_dropout=0.0
    )
    teacher, fake, student = Denoiser().requires_grad_(False), Denoiser(), Denoiser()
    predict = Predictors(lambda x_t, t, cond, uncond: teacher(x_t, t, cond), fake, student)
    prompts = PromptSet.of(["any"], [{"word": torch.ones(1, 1)}], {"word": torch.zeros(1, 1)})
    health, seen = Health(settings.batch), set()
    results = distill(Run(student, fake, settings), predict, [Bucket((8,), prompts)], SD, torch.device("cpu"))
    try:
        for result in islice(results, 150):
            seen |= {warning.kind for warning in health.update(result)}
    except NotFiniteError:
        seen.add("diverged")
    return seen


def test_real_runs_are_warned_of_by_their_learning_rate_alone():
    assert real_warnings(1e-3) == set()
    assert {"saturation", "fake_score_lost"} <= real_warnings(3.0)
