"""The leakage protocol on made-up features whose subject and style are known, and its curves against numpy's."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

STYLES, SUBJECTS, WIDTH = 4, 30, 64


@pytest.fixture
def subjects() -> Tensor:
    """Of a picture of each subject in each style, (S * N,)."""
    return torch.arange(SUBJECTS).repeat(STYLES)


@pytest.fixture
def styles() -> Tensor:
    return torch.arange(STYLES).repeat_interleave(SUBJECTS)


@pytest.fixture
def embeddings() -> Tensor:
    return torch.randn(SUBJECTS, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def features(subjects, styles) -> Tensor:
    """(S * N, D): a subject's direction, a stronger one of its style, and some noise."""
    generator = torch.Generator().manual_seed(2)
    of_subjects, of_styles, noise = (
        torch.randn(count, WIDTH, generator=generator) for count in (SUBJECTS, STYLES, STYLES * SUBJECTS)
    )
    return 20 * (of_subjects[subjects] + 2 * of_styles[styles] + 0.1 * noise)


@pytest.fixture
def judges(features, subjects, styles):
    """That know the first three styles."""
    from leakage_protocol import Judges

    from sid_pack.sid_core.evaluation.linear import fit_probe

    known = styles < 3
    return Judges(features[known], subjects[known], fit_probe(features, styles, 1e-3))


def test_what_is_set_aside_was_held_out_and_where_that_is_too_little_trained_with():
    from leakage_protocol import set_aside
    from pictures import HELD_OUT_PAIR, HELD_OUT_SUBJECT, TRAINING

    styles = torch.tensor([0] * 50 + [1] * 50)
    held_out = torch.full((100,), TRAINING)
    held_out[:20], held_out[50:55], held_out[90:] = HELD_OUT_PAIR, HELD_OUT_PAIR, HELD_OUT_SUBJECT
    aside = set_aside(styles, held_out, fewest=12)
    assert aside[held_out == HELD_OUT_PAIR].all()
    assert not aside[held_out == HELD_OUT_SUBJECT].any()
    assert [int(aside[styles == style].sum()) for style in (0, 1)] == [20, 12]
    assert torch.equal(aside, set_aside(styles, held_out, fewest=12))


def test_a_pair_has_a_style_picture_of_another_subject(subjects, styles, embeddings):
    from leakage_protocol import choose_pairs

    pool = torch.arange(0, SUBJECTS, 2)
    embeddings[4] = embeddings[6] * 1.1  # one subject under two names
    candidates = torch.randperm(len(subjects), generator=torch.Generator().manual_seed(3))
    pairs = choose_pairs(candidates, subjects, styles, pool, embeddings, 4)
    assert pairs.styles.tolist() == [style for style in range(STYLES) for _ in range(4)]
    assert torch.equal(subjects[pairs.pictures], pairs.shown) and torch.equal(styles[pairs.pictures], pairs.styles)
    assert torch.isin(torch.cat([pairs.prompts, pairs.shown]), pool).all()
    named = torch.nn.functional.cosine_similarity(embeddings[pairs.prompts], embeddings[pairs.shown])
    assert named.max() < 0.4
    for style in range(STYLES):
        preferred = candidates[(styles[candidates] == style) & torch.isin(subjects[candidates], pool)][:4]
        assert torch.equal(pairs.pictures[pairs.styles == style], preferred)
    again = choose_pairs(candidates, subjects, styles, pool, embeddings, 4)
    assert torch.equal(pairs.prompts, again.prompts)


def test_two_names_of_one_subject_make_no_pair(subjects, styles):
    from leakage_protocol import choose_pairs

    embeddings = torch.eye(SUBJECTS)
    embeddings[1:10] = embeddings[0]
    pairs = choose_pairs(torch.arange(len(subjects)), subjects, styles, torch.arange(12), embeddings, 12)
    assert not ((pairs.prompts < 10) & (pairs.shown < 10)).any()
    assert (pairs.prompts != pairs.shown).all()


def test_a_prompt_is_of_a_subject_that_its_style_has_too(subjects, styles, embeddings):
    from leakage_protocol import choose_pairs

    there = (styles > 0) | (subjects < 15)
    candidates = torch.arange(int(there.sum()))
    pairs = choose_pairs(candidates, subjects[there], styles[there], torch.arange(SUBJECTS), embeddings, 10)
    assert (pairs.prompts[pairs.styles == 0] < 15).all()
    assert (pairs.prompts[pairs.styles > 0] >= 15).any()


def test_a_style_with_too_few_pictures_is_refused(subjects, styles, embeddings):
    from leakage_protocol import choose_pairs

    candidates = ((styles != 2) | (subjects < 12)).nonzero()[:, 0]
    with pytest.raises(ValueError, match="style 2 has 12 pictures of these subjects, 13 are needed"):
        choose_pairs(candidates, subjects, styles, torch.arange(SUBJECTS), embeddings, 13)


def test_the_judge_knows_subjects_in_a_style_it_has_not_seen_them_in(features, subjects, styles, judges):
    unknown = styles == 3
    ranks = judges.subjects.ranks(features[unknown], subjects[unknown])
    others = judges.subjects.ranks(features[unknown], (subjects[unknown] + 7) % SUBJECTS)
    assert (ranks == 1).double().mean() > 0.8
    assert (others > ranks).double().mean() > 0.95


def test_scores_take_each_pair_by_its_own_subjects_and_style(features, subjects, styles, embeddings, judges):
    """copies of the style pictures leak all, the wished-for pictures nothing, and both have the style"""
    from leakage_protocol import Measured, choose_pairs

    pairs = choose_pairs(torch.arange(len(subjects)), subjects, styles, torch.arange(SUBJECTS), embeddings, 6)
    copies, wished, unstyled = (
        Measured(x, x, x)
        for x in (
            features[pairs.pictures],
            features[pairs.styles * SUBJECTS + pairs.prompts],
            features[(pairs.styles + 1) % STYLES * SUBJECTS + pairs.prompts],
        )
    )
    leaking = judges.score(pairs, copies, copies)
    for name in ("first", "named", "nearer", "layout", "style_named"):
        assert leaking.mean(name) == pytest.approx(1, abs=0.05)
    good = judges.score(pairs, wished, copies)
    assert good.mean("first") == good.mean("nearer") == 0
    assert good.mean("prompt") == 1 > good.mean("named")
    assert good.mean("layout") < 0.5
    assert good.mean("style") > 0.9 > 0.1 > judges.score(pairs, unstyled, copies).mean("style")


def test_layout_is_what_is_left_of_a_style_picture_on_top_of_what_its_style_has_in_common():
    from leakage_protocol import likeness_within

    generator = torch.Generator().manual_seed(0)
    styles = torch.tensor([0] * 8 + [1] * 8)
    shown = torch.randn(16, 3, 8, 8, generator=generator)
    strangers = torch.randn(16, 3, 8, 8, generator=generator)
    common = 50 * torch.randn(2, 3, 8, 8, generator=generator)[styles]
    likeness = likeness_within(0.7 * shown + strangers + common, shown + 2 * common, styles)
    # cosine of a + b with a for independent a, b: |a| / sqrt(|a|² + |b|²)
    assert likeness.mean() == pytest.approx(0.7 / (0.7**2 + 1) ** 0.5, abs=0.05)
    assert abs(likeness_within(strangers + common, shown + common, styles).mean()) < 0.1


def test_lines_between_points_are_numpys_and_there_are_none_outside():
    from leakage_protocol import interpolated

    generator = torch.Generator().manual_seed(0)
    xs, ys = torch.rand(50, 5, generator=generator).double(), torch.rand(50, 5, generator=generator).double()
    x = torch.rand(50, generator=generator).double()
    found = interpolated(x, xs, ys)
    for i in range(50):
        order = np.argsort(xs[i].numpy())
        expected = np.interp(x[i].item(), xs[i].numpy()[order], ys[i].numpy()[order], left=np.nan, right=np.nan)
        np.testing.assert_allclose(found[i].item(), expected)
    assert found.isnan().any() and found.isfinite().any()


def made_up_scores(style: float, first: Tensor) -> "object":
    from leakage_protocol import Scores

    nothing = torch.zeros_like(first)
    measures = {field.name: nothing for field in fields(Scores)}
    return Scores(**measures | {"first": first, "style": torch.full_like(first, style)})


def test_what_only_does_less_is_no_better_at_equal_style():
    from leakage_protocol import at_equal_style

    generator = torch.Generator().manual_seed(0)
    chance = torch.rand(400, generator=generator).double()
    plain = [made_up_scores(style, (chance < style).double()) for style in (0.2, 0.6, 1.0)]
    at_half = made_up_scores(0.4, ((chance < 0.2).double() + (chance < 0.6).double()) / 2)
    found = at_equal_style(at_half, plain, "first")
    assert found.plain == pytest.approx(at_half.mean("first"))
    assert found.difference == pytest.approx(0, abs=1e-12)
    assert found.error == pytest.approx(0, abs=1e-12)
    better = made_up_scores(0.6, (chance < 0.5).double())
    found = at_equal_style(better, plain, "first")
    expected = ((chance < 0.5).double() - (chance < 0.6).double()).numpy()
    assert found.difference == pytest.approx(expected.mean())
    assert found.error == pytest.approx(expected.std() / 400**0.5, rel=0.15)  # pairs are drawn for all settings at once


def test_a_style_that_no_weight_reaches_is_not_compared():
    from leakage_protocol import at_equal_style

    plain = [made_up_scores(style, torch.zeros(10).double()) for style in (0.2, 0.6)]
    found = at_equal_style(made_up_scores(0.7, torch.zeros(10).double()), plain, "first")
    assert all(np.isnan(value) for value in (found.plain, found.difference, found.error))


def test_several_drawings_of_a_pair_count_as_one_pair():
    from leakage_protocol import Scores

    zeros, ones = torch.zeros(3).double(), torch.ones(3).double()
    joined = Scores.joined([Scores(*[value] * len(fields(Scores))) for value in (zeros, ones)])
    assert joined.first.tolist() == [0.5] * 3
    assert joined.style.tolist() == [0.5] * 3
