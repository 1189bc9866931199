"""Who judges leakage, on made-up features; and what is drawn for it, by the shipped model and the pack's own nodes."""

from dataclasses import fields, replace

import pytest
import torch

SUBJECTS, SEEN, PAIRS = 400, 48, 5


@pytest.fixture(scope="module")
def measure():
    """Of a picture of each subject in each style: features that know the subject, but of every third none."""
    from features import Features
    from leakage_measure import Measure
    from pictures import HELD_OUT_PAIR, STYLES, TRAINING, Pictures

    from sid_pack.sid_core.evaluation.linear import fit_probe

    generator = torch.Generator().manual_seed(0)
    styles, subjects = (x.flatten() for x in torch.meshgrid(torch.arange(9), torch.arange(SUBJECTS), indexing="ij"))
    count = len(subjects)
    held_out = torch.full((count,), TRAINING)
    held_out[torch.randperm(count, generator=generator)[:300]] = HELD_OUT_PAIR
    images = torch.zeros(count, 1, 1, 3, dtype=torch.uint8)
    pictures = Pictures(images, subjects, styles, held_out, [f"thing {i}" for i in range(SUBJECTS)])
    known = torch.randn(SUBJECTS, SEEN, generator=generator)[subjects]
    noise = torch.randn(count, SEEN, generator=generator)
    unknowable = torch.arange(count) % 3 == 0
    strokes = torch.nn.functional.one_hot(styles, len(STYLES)).float() + 0.1 * noise[:, :9]
    features = Features(torch.where(unknowable[:, None], noise, known + 0.1 * noise), strokes)
    return Measure(pictures, features, fit_probe(strokes, styles, 1e-2))


def test_style_pictures_are_named_ones_that_the_judge_does_not_know_and_held_out_ones_come_first(measure):
    from pictures import HELD_OUT_PAIR

    found = measure.candidates()
    assert measure.aside[found].all()
    assert (found % 3 != 0).double().mean() > 0.95  # what shows nothing is named by chance alone
    assert len(found) > 0.6 * measure.aside.sum()
    held_out = measure.pictures.held_out[found] == HELD_OUT_PAIR
    assert held_out.sum() > 100 and (~held_out).sum() > 100
    assert torch.equal(held_out, held_out.sort(descending=True, stable=True).values)
    assert not torch.equal(found[held_out], found[held_out].sort().values)
    assert torch.equal(found, measure.candidates())


def test_the_judges_are_asked_of_pictures_that_they_do_not_know(measure):
    found = measure.accuracy()
    assert 0.6 < found["R@1"] < found["R@10"] < 0.75  # two thirds can be known
    assert 0.1 < found["another, random subject named before its own"] < 0.25
    assert found["style named"] > 0.9


@pytest.fixture(scope="module")
def leakage(comfyui):
    """Five pairs, whose style pictures are of one colour each."""
    from drawing import Artist
    from leakage import Leakage
    from leakage_protocol import Pairs
    from pictures import TRAINING, Pictures

    colours = torch.randint(256, (PAIRS, 1, 1, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(PAIRS)
    captions = ["cat", "rocket", "lemon", "guitar", "umbrella"]
    pictures = Pictures(
        colours.expand(PAIRS, 64, 64, 3).contiguous(), numbers, numbers, torch.full((PAIRS,), TRAINING), captions
    )
    pairs = Pairs(numbers.roll(1), numbers, numbers, numbers)
    return Leakage(MeasuresNothing(pictures), pairs, Artist(captions, PAIRS))


class MeasuresNothing:
    """Drawing asks the measure for the pictures alone."""

    def __init__(self, pictures):
        self.pictures = pictures

    def __call__(self, images):
        return None


def trial(**changed):
    from drawing import Setting
    from leakage_trials import Trial, svd

    quick = Setting(2, "dpmpp_2m", "karras", 2.0, name="quick")
    return replace(Trial(quick, 1.0, "CS-SVD", svd(1.0, center=1.0)), **changed)


def drawn(leakage, **changed):
    return leakage.draw(trial(**changed), 0, torch.arange(PAIRS))


def test_each_picture_has_its_own_style_picture_whatever_batch_it_is_in(leakage):
    together = drawn(leakage)
    leakage.artist.batch = 2
    apart = drawn(leakage)
    leakage.artist.batch = PAIRS
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-3)
    tokens = leakage.tokens
    leakage.tokens = replace(tokens, cond=tokens.cond.roll(1, 0))
    exchanged = drawn(leakage)
    leakage.tokens = tokens
    assert ((exchanged - together).abs().amax((1, 2, 3)) > 1e-3).all()


def test_every_part_of_a_trial_changes_the_pictures(leakage):
    ways = {
        "cleaned": {},
        "plain": {"clean": None},
        "cleaned in the middle": {"cleaned_in": "middle"},
        "put into the middle": {"clean": None, "put_in": "middle"},
        "half as much": {"clean": None, "weight": 0.5},
        "nothing": {"weight": 0.0},
    }
    images = {name: drawn(leakage, **changed) for name, changed in ways.items()}
    for name, one in images.items():
        for other, another in images.items():
            assert name == other or (one - another).abs().max() > 1e-4, (name, other)


def test_no_weight_is_the_model_as_it_is(leakage):
    without = leakage.artist.draw(trial().draw, leakage.pairs.prompts, 0).images
    assert torch.equal(drawn(leakage, weight=0.0), without)


def test_a_second_run_measures_what_the_first_had_no_time_for(tmp_path):
    from leakage import measure_all
    from leakage_protocol import Scores
    from leakage_results import Results
    from leakage_trials import all_trials

    asked = []

    class Counts:
        def scores_of(self, trial, seeds):
            asked.append(trial)
            return Scores(*[torch.zeros(3).double()] * len(fields(Scores)))

    trials = all_trials()[:6]
    measure_all(Counts(), Results(tmp_path / "r.json"), trials[1:3], range(3), 1)
    measure_all(Counts(), Results(tmp_path / "r.json"), trials, range(3), 0)
    assert asked == trials[1:3]
    measure_all(Counts(), Results(tmp_path / "r.json"), trials, range(3), 1)
    assert asked == [*trials[1:3], trials[0], *trials[3:]]
