"""The adversarial term in the iteration: what it costs, where its gradients go, and what is as it is without it."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from judged_toy import SD, WORDS, Judged
from oracles import ToyDistillation, Watch, break_prompt, small
from torch import Tensor

from sid_pack.sid_core.files.checkpoint import Checkpoint
from sid_pack.sid_core.method.guidance import Guidance
from sid_pack.sid_core.method.process import Flow
from sid_pack.sid_core.training.distill import Bucket, distill
from sid_pack.sid_core.training.run_state import OtherRunError, checkpoint_of, restore
from sid_pack.sid_core.training.settings import Settings

LSG, ONE, ZERO, ANTI = Guidance.lsg(2.0), Guidance.lsg(1.0), Guidance.zero_cfg(), Guidance.anti_cfg(-1.0)
STRATEGIES = pytest.mark.parametrize("guidance", [LSG, ONE, ZERO, ANTI], ids=["lsg", "one", "zero", "anti"])
ON = {"adversarial_weight": 0.1, "adversarial_warm_up": 0}


def settings(guidance: Guidance = LSG, **changes) -> Settings:
    return small(Settings(guidance, steps=3), **(ON | changes))


# Off.


def equal(one: ToyDistillation, other: ToyDistillation) -> bool:
    states = [
        *zip(one.weights(), other.weights(), strict=True),
        *zip(one.run.ema.average, other.run.ema.average, strict=True),
    ]
    return all(torch.equal(a, b) for a, b in states)


@STRATEGIES
def test_a_weight_of_zero_is_bit_for_bit_a_run_without_images_and_costs_nothing(guidance):
    off, plain = Judged(settings(guidance, adversarial_weight=0.0)), Judged(settings(guidance), pictures=False)
    assert off.train(6) == plain.train(6)
    assert equal(off, plain)
    assert [(name, trained) for name, trained, _ in off.calls] == [(name, trained) for name, trained, _ in plain.calls]
    assert not off.pictures.asked and {name for name, *_ in off.calls} == {"fake"}


def test_what_is_drawn_besides_real_pictures_is_what_a_run_without_draws():
    """Also by several updates of the fake score, each of which sees other pictures."""
    on, plain = (Judged(settings(fake_updates=2, batch=5), pictures=pictures) for pictures in (True, False))
    watches = [Watch(toy) for toy in (on, plain)]
    on.train(1), plain.train(1)
    ours, theirs = ([x_t for x_t, _ in watch.student_outputs] for watch in watches)
    assert len(ours) > 1 and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    rows = torch.stack(on.pictures.asked)
    assert rows.shape == (2, 5) and not torch.equal(*rows) and int(rows.max()) < 9


# What it costs.


@pytest.mark.parametrize(
    ("guidance", "training", "student"),
    [
        (LSG, {"both": 1, "fake": 1, "judge": 1}, {"both": 1, "fake": 1}),
        (ONE, {"both": 1, "judge": 1}, {"both": 1}),
        (ZERO, {"fake": 1, "judge": 2}, {"fake": 1, "judge": 1}),
        (ANTI, {"both": 1, "fake": 1, "judge": 1}, {"both": 1, "fake": 1}),
    ],
    ids=["lsg", "one", "zero", "anti"],
)
def test_one_forward_serves_the_score_and_the_discriminator(guidance, training, student):
    toy = Judged(settings(guidance, caption_dropout=0.0))
    toy.predict = replace(toy.predict, at_once=lambda: False)
    toy.train(1)
    assert toy.counts() == (training, student)


@STRATEGIES
def test_the_discriminator_always_has_the_captions(guidance):
    """Even where all are dropped for the fake score."""
    toy = Judged(settings(guidance, caption_dropout=1.0))
    toy.predict = replace(toy.predict, at_once=lambda: False)
    toy.train(3)
    judged = [(name, words) for name, _, words in toy.calls if name != "fake"]
    assert judged and all(words.any(1).all() for _, words in judged)
    assert all(not words.any() for name, _, words in toy.calls if name == "fake")


# Where gradients go.


def by_itself(role: str, **changes) -> Judged:
    """One step in which the adversarial share is all that counts."""
    heavy = {"student": {"adversarial_weight": 1e9}, "discriminator": {"discriminator_weight": 1e9}}[role]
    rates = {"student_learning_rate": 1e-3, "fake_learning_rate": 1e-3}
    rates["fake_learning_rate" if role == "student" else "student_learning_rate"] = 0.0
    return Judged(settings(steps=1, batch=256, seed=2, caption_dropout=0.0, **(rates | heavy | changes)))


@torch.no_grad()
def mean_logits(toy: Judged) -> tuple[float, float]:
    """Of real pictures, and of the student's as it is now, at times and noises of the test's own."""
    draw = torch.Generator().manual_seed(11)
    words = WORDS.repeat(200, 1)
    t = torch.randint(20, 980, (600,), generator=draw)
    start, noise = (torch.randn(600, 2, 1, 1, generator=draw) for _ in range(2))
    first = torch.full((600,), 625)
    alpha, sigma = (c.float()[:, None, None, None] for c in SD.coefficients(first))
    drawn = toy.predict.student(sigma * start, first, {"word": words})
    real = toy.pictures.latents[torch.arange(600) % 9]
    noised = [SD.diffuse(x, noise, t).float() for x in (real, drawn)]
    return tuple(float(toy.logits(x_t, t, {"word": words}).mean()) for x_t in noised)


def test_a_step_of_the_student_raises_what_the_discriminator_says_of_its_pictures():
    toy = by_itself("student")
    before = mean_logits(toy)
    toy.train(1)
    after = mean_logits(toy)
    assert after[0] == before[0]
    assert after[1] > before[1] + 1e-4


def test_a_step_of_the_discriminator_parts_real_from_generated():
    toy = by_itself("discriminator")
    real, generated = mean_logits(toy)
    toy.train(1)
    later = mean_logits(toy)
    assert later[0] - later[1] > real - generated + 1e-4


def test_the_students_update_leaves_the_fake_score_and_the_teacher_alone():
    toy = Judged(settings(fake_learning_rate=0.0))
    before = [weight.clone() for weight in (*toy.teacher.parameters(), *toy.run.fake.parameters())]
    toy.train(3)
    for weight, old in zip((*toy.teacher.parameters(), *toy.run.fake.parameters()), before, strict=True):
        assert torch.equal(weight, old)
    assert all(weight.grad is None for weight in toy.teacher.parameters())
    assert all(weight.requires_grad for weight in toy.run.fake.parameters())


def test_what_is_told_is_the_cross_entropy_without_weights():
    """A discriminator of zeros knows nothing: log 2, of both roles, whatever the weights."""
    toy = Judged(settings(fake_learning_rate=0.0, discriminator_weight=7.0, adversarial_weight=3.0))
    with torch.no_grad():
        for weight in toy.run.fake.parameters():
            weight.zero_()
    result = toy.train(1)[0]
    assert result.discriminator_loss == pytest.approx(math.log(2), rel=1e-6)
    assert result.adversarial_loss == pytest.approx(math.log(2), rel=1e-6)


# Warm-up.


def test_in_the_warm_up_the_discriminator_learns_alone():
    toy = Judged(settings(batch=4, adversarial_warm_up=8, caption_dropout=0.0))
    results = toy.train(4)
    assert all(result.discriminator_loss is not None for result in results)
    assert [result.adversarial_loss is None for result in results] == [True, True, False, False]
    # The student's first step is the one it takes without images, given the same fake score.
    weights = {"fake_learning_rate": 0.0, "batch": 4, "caption_dropout": 0.0}
    warm, plain = Judged(settings(adversarial_warm_up=4, **weights)), Judged(settings(**weights), pictures=False)
    warm.train(1), plain.train(1)
    assert equal(warm, plain)
    warm.train(1), plain.train(1)
    assert not equal(warm, plain)


# As everything else of a run is.


@pytest.fixture
def in_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("broken", [False, True], ids=["whole", "broken"])
@pytest.mark.parametrize("guidance", [ONE, ZERO, ANTI], ids=["one", "zero", "anti"])
def test_micro_batches_learn_what_the_whole_batch_does(guidance, broken):
    asked = settings(guidance, batch=5, caption_dropout=0.3, gradient_norm=0.5)
    whole, split = (Judged(asked, dtype=torch.float64) for _ in range(2))
    if broken:
        break_prompt(whole, word=1)
        break_prompt(split, word=1)
    in_parts = distill(split.run, split.predict, split.buckets, SD, torch.device("cpu"), micro_batch=2)
    skipped = 0
    for _, expected, result in zip(range(4), whole.iterations(), in_parts, strict=False):
        assert asdict(result) == pytest.approx(asdict(expected), rel=1e-9)
        skipped += result.skipped
    assert bool(skipped) == broken
    torch.testing.assert_close(split.weights(), whole.weights(), rtol=1e-9, atol=1e-12)


def test_real_pictures_that_are_not_finite_are_left_out():
    toy = Judged(settings())
    toy.pictures.latents[::2] = math.nan
    results = toy.train(4)
    assert all(math.isfinite(result.discriminator_loss) for result in results)
    assert all(weight.isfinite().all() for weight in toy.weights())


def test_a_sample_whose_logits_are_not_finite_is_left_out_of_the_students_loss():
    toy = Judged(settings(caption_dropout=0.0, fake_learning_rate=0.0))
    both, seen = toy.predict.fake_with_logits, []

    def broken(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        clean, logits = both(x_t, t, cond)
        if toy.run.fake.w.requires_grad:
            return clean, logits
        bad = cond["word"][:, 1].bool()
        seen.append(int(bad.sum()))
        said = logits.clone()
        said[bad] = logits[bad] * math.nan  # so that what goes back through them is NaN too
        return clean, said

    toy.predict = replace(toy.predict, fake_with_logits=broken)
    results = toy.train(5)
    assert [result.skipped for result in results] == seen and sum(seen) > 0
    assert all(weight.isfinite().all() for weight in toy.weights())


@pytest.mark.parametrize("process", [SD, Flow()], ids=["vp", "flow"])
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(tmp_path, process):
    """Saved within an iteration: between two updates of the fake score, and between the last one and the student's."""
    asked = settings(fake_updates=2, adversarial_warm_up=16)
    unbroken = Judged(asked, process)
    expected = unbroken.train(5)
    results, goes_on = [], Judged(asked, process)
    for stop, role, updates in ((1, "student", 1), (3, "teacher", 2)):
        broken = goes_on
        results += broken.train(stop - len(results))
        broken.predict = replace(broken.predict, **{role: stopped_at(broken, updates, getattr(broken.predict, role))})
        with pytest.raises(KeyboardInterrupt):
            broken.train(1)
        assert broken.run.fake_updated == updates
        path = tmp_path / f"{stop}.safetensors"
        checkpoint_of(broken.run, {}).write(path)
        goes_on = Judged(asked, process)
        restore(goes_on.run, Checkpoint.read(path), {})
    results += goes_on.train(5 - len(results))
    assert results == expected
    assert equal(goes_on, unbroken)


def stopped_at(toy: Judged, updates: int, predict):
    """Cancelled once the fake score has had so many updates in the iteration under way."""

    def stopping(*given):
        if toy.run.fake_updated == updates:
            raise KeyboardInterrupt
        return predict(*given)

    return stopping


def test_a_run_of_before_goes_on_without_images_and_refuses_new_ones():
    """Its checkpoint knows neither the settings, which it had at their defaults, nor images, which it did not have."""
    old = ToyDistillation(SD, small(Settings(LSG, steps=2)))
    old.train(1)
    saved = checkpoint_of(old.run, {"base": "toy"})
    for name in ("adversarial_weight", "discriminator_weight", "adversarial_warm_up"):
        del saved.settings[name]
    assert "discriminator_loss" not in saved.counters
    fresh = ToyDistillation(SD, small(Settings(LSG, steps=2)))
    assert restore(fresh.run, saved, {"base": "toy", "images": None, "student": None}) == {}
    with pytest.raises(OtherRunError, match="images: None then, abc now"):
        restore(fresh.run, saved, {"base": "toy", "images": "abc"})
    with pytest.raises(OtherRunError, match="student: None then, abc now"):
        restore(fresh.run, saved, {"base": "toy", "student": "abc"})
    other = ToyDistillation(SD, small(Settings(LSG, steps=2, adversarial_weight=0.5)))
    with pytest.raises(OtherRunError, match=r"adversarial_weight: 0\.001 then, 0\.5 now"):
        restore(other.run, saved, {"base": "toy"})


def test_sizes_without_images_have_no_adversarial_term():
    toy = Judged(settings(batch=2))
    toy.buckets = [*toy.buckets, Bucket((2, 1, 1), toy.prompts)]
    told = [result.discriminator_loss is None for result in toy.train(30)]
    assert 5 < sum(told) < 25
