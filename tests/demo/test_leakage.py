"""The leakage protocol on made-up features whose subject and style are known, and its curves against numpy's."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

STYLES, SUBJECTS, WIDTH = 4, 30, 64


@pytest.fixture
def unseen() -> Tensor:
    from styles import choose_unseen

    return choose_unseen(STYLES, SUBJECTS, 0.4)


@pytest.fixture
def embeddings() -> Tensor:
    return torch.randn(SUBJECTS, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def features() -> Tensor:
    """(S, N, D): a subject's direction, a stronger one of its style, and some noise."""
    generator = torch.Generator().manual_seed(2)
    subjects, styles = (
        torch.randn(SUBJECTS, WIDTH, generator=generator),
        torch.randn(STYLES, WIDTH, generator=generator),
    )
    noise = torch.randn(STYLES, SUBJECTS, WIDTH, generator=generator)
    return 20 * (subjects + 2 * styles[:, None] + 0.1 * noise)


def test_a_pair_has_an_unseen_style_image_of_another_subject(unseen, embeddings):
    from leakage_protocol import choose_pairs

    pool = torch.arange(0, SUBJECTS, 2)
    embeddings[4] = embeddings[6] * 1.1  # one subject under two names
    pairs = choose_pairs(unseen, pool, [1, 3], 4, embeddings)
    assert pairs.styles.tolist() == [1] * 4 + [3] * 4
    assert unseen[pairs.styles, pairs.shown].all()
    assert torch.isin(torch.cat([pairs.prompts, pairs.shown]), pool).all()
    named = torch.nn.functional.cosine_similarity(embeddings[pairs.prompts], embeddings[pairs.shown])
    assert named.max() < 0.5
    assert all(len(pairs.shown[pairs.styles == style].unique()) == 4 for style in (1, 3))
    again = choose_pairs(unseen, pool, [1, 3], 4, embeddings)
    assert torch.equal(pairs.prompts, again.prompts)


def test_two_names_of_one_subject_make_no_pair(unseen):
    from leakage_protocol import choose_pairs

    embeddings = torch.eye(SUBJECTS)
    embeddings[1:10] = embeddings[0]
    pairs = choose_pairs(unseen, torch.arange(12), [0, 1, 2, 3], 3, embeddings)
    assert not ((pairs.prompts < 10) & (pairs.shown < 10)).any()


def test_a_style_with_too_few_pictures_is_refused(unseen, embeddings):
    from leakage_protocol import choose_pairs

    with pytest.raises(ValueError, match="style 2 has 12 unseen pictures of these subjects, 13 are needed"):
        choose_pairs(unseen, torch.arange(SUBJECTS), [2], 13, embeddings)


def test_the_judge_knows_subjects_in_styles_it_has_not_seen_them_in(features, unseen, embeddings):
    from leakage_protocol import Judge

    judge = Judge(features, ~unseen, embeddings)
    styles, subjects = unseen.nonzero(as_tuple=True)
    pictures, others = features[styles, subjects], (subjects + 7) % SUBJECTS
    assert judge.finds(pictures, subjects, 1).double().mean() > 0.9
    assert judge.finds(pictures, others, 1).double().mean() < 0.1
    assert judge.nearer(pictures, subjects, others).double().mean() < 0.05
    assert judge.nearer(pictures, others, subjects).double().mean() > 0.95


def test_styles_are_known_by_what_their_pictures_share(features):
    """vectors made of a style's and a subject's part, on top of what all have in common"""
    from leakage_protocol import StyleSpace

    space = StyleSpace(features[:, :20] + 1000)
    likeness = space.likeness(features[:, 25] + 1000)
    assert torch.equal(likeness.argmax(1), torch.arange(STYLES))
    elsewhere = StyleSpace(features[:, :20]).likeness(features[:, 25])
    torch.testing.assert_close(likeness, elsewhere, rtol=0, atol=1e-4)
    same = space.between(features[:, 25] + 1000, features[:, 26] + 1000)
    other = space.between(features[:, 25] + 1000, features[:, 26].roll(1, 0) + 1000)
    assert same.min() > 0.5 > other.max()


def test_scores_take_each_pair_by_its_own_subjects_and_style(features, unseen, embeddings):
    """copies of the style images leak all, the wished-for pictures nothing, and both have the style"""
    from leakage_protocol import Judge, Measured, StyleSpace, choose_pairs, score

    judge, space = Judge(features, ~unseen, embeddings), StyleSpace(features)
    pairs = choose_pairs(unseen, torch.arange(SUBJECTS), [0, 2], 6, embeddings)
    copies, wished, unstyled = (
        Measured(x, x, x)
        for x in (
            features[pairs.styles, pairs.shown],
            features[pairs.styles, pairs.prompts],
            features[1, pairs.prompts],
        )
    )
    leaking = score(judge, space, pairs, copies, copies)
    good = score(judge, space, pairs, wished, copies)
    for name in ("leaks", "told", "finds_shown", "layout", "style_image"):
        assert leaking.mean(name) == pytest.approx(1)
    assert good.mean("leaks") == 0
    assert good.mean("finds_prompt") == 1 > good.mean("finds_shown")
    assert good.mean("told") < 0.5
    assert good.mean("style") > 0.5 > score(judge, space, pairs, unstyled, copies).mean("style")


def test_a_style_image_is_told_by_what_sets_it_apart_in_its_style():
    """a hint of it on top of another subject and of a strong common style is enough; another style's is not asked"""
    from leakage_protocol import among_a_style

    generator = torch.Generator().manual_seed(0)
    styles = torch.tensor([0] * 8 + [1] * 8)
    shown = torch.randn(16, 3, 8, 8, generator=generator)
    strangers = torch.randn(16, 3, 8, 8, generator=generator)
    common = 50 * torch.randn(2, 3, 8, 8, generator=generator)[styles]
    likeness, told = among_a_style(0.7 * shown + strangers + common, shown + 2 * common, styles)
    assert told.all()
    # cosine of a + b with a for independent a, b: |a| / sqrt(|a|² + |b|²)
    assert likeness.mean() == pytest.approx(0.7 / (0.7**2 + 1) ** 0.5, abs=0.05)
    likeness, told = among_a_style(strangers + common, shown + common, styles)
    assert told.double().mean() < 0.5
    assert abs(likeness.mean()) < 0.1
    _, told = among_a_style(shown.roll(1, 0), shown, styles)
    assert not told.any()


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


def made_up_scores(style: float, leaks: Tensor) -> "object":
    from leakage_protocol import Scores

    nothing = torch.zeros_like(leaks)
    measures = {field.name: nothing for field in fields(Scores)}
    return Scores(**measures | {"leaks": leaks, "style": torch.full_like(leaks, style)})


def test_what_only_does_less_is_no_better_at_equal_style():
    from leakage_protocol import at_equal_style

    generator = torch.Generator().manual_seed(0)
    chance = torch.rand(400, generator=generator).double()
    plain = [made_up_scores(style, (chance < style).double()) for style in (0.2, 0.6, 1.0)]
    at_half = made_up_scores(0.4, ((chance < 0.2).double() + (chance < 0.6).double()) / 2)
    assert at_equal_style(at_half, plain, "leaks").difference == pytest.approx(0, abs=1e-12)
    assert at_equal_style(at_half, plain, "leaks").error == pytest.approx(0, abs=1e-12)
    better = made_up_scores(0.6, (chance < 0.5).double())
    found = at_equal_style(better, plain, "leaks")
    expected = ((chance < 0.5).double() - (chance < 0.6).double()).numpy()
    assert found.difference == pytest.approx(expected.mean())
    assert found.error == pytest.approx(expected.std() / 400**0.5, rel=0.15)  # pairs are drawn for all settings at once


def test_a_style_that_no_weight_reaches_is_not_compared():
    from leakage_protocol import at_equal_style

    plain = [made_up_scores(style, torch.zeros(10).double()) for style in (0.2, 0.6)]
    found = at_equal_style(made_up_scores(0.7, torch.zeros(10).double()), plain, "leaks")
    assert np.isnan(found.difference) and np.isnan(found.error)


def test_several_drawings_of_a_pair_count_as_one_pair():
    from leakage_protocol import Scores

    zeros, ones = torch.zeros(3).double(), torch.ones(3).double()
    joined = Scores.joined([Scores(*[value] * len(fields(Scores))) for value in (zeros, ones)])
    assert joined.leaks.tolist() == [0.5] * 3
    assert joined.style.tolist() == [0.5] * 3
