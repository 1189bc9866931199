"""CleanStyle's spectra against the authors' code, against float64 SVDs, and in closed form."""

import math

import pytest
import torch
from oracles import parity, relative_error
from torch import Tensor

from sid_pack.sid_core.method.cleanstyle import Purifier, Spectrum, extrapolate, suppression, suppression_steps

ENTRIES, TENSORS = parity("cleanstyle")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_svd(picture: Tensor, rescale) -> Tensor:
    """One picture (N, D) with its singular values put through `rescale(values, index)`, by a float64 SVD."""
    u, values, vt = torch.linalg.svd(picture.double(), full_matrices=False)
    return (u * rescale(values, torch.arange(len(values)))) @ vt


def tail(top_k: int, alpha: float, beta: float = 1.0):
    return lambda values, i: torch.where(i < top_k, values, beta * values * torch.exp(-alpha * values))


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["output"] for entry in ENTRIES])
def test_parity_with_the_authors_code(entry):
    spectrum = Spectrum.of(TENSORS[entry["input"]])
    if entry.get("kind") == "style_negative":
        actual = spectrum.negative(entry["alpha"], entry["beta"])
    else:
        schedule = {name: entry[name] for name in ("alpha", "gamma", "center")}
        actual = spectrum.purified(entry["top_k"], suppression(entry["progress"], **schedule), entry["beta"])
    assert relative_error(actual, TENSORS[entry["output"]]) <= 1e-4


def test_the_parity_vectors_hold_both_halves():
    assert {entry.get("kind", "purified") for entry in ENTRIES} == {"purified", "style_negative"}


@pytest.mark.parametrize("batch", [1, 4])
def test_every_number_of_tokens_also_above_the_number_of_features(batch):
    for n in range(1, 258):
        tokens = 3 * randn(batch, n, 96, seed=n)
        spectrum = Spectrum.of(tokens)
        k = min(2, n)
        expected = torch.stack([by_svd(picture, tail(k, 0.05, 0.9)) for picture in tokens])
        assert relative_error(spectrum.purified(k, 0.05, 0.9).double(), expected) <= 1e-5, n
        expected = torch.stack([by_svd(picture, tail(0, 0.02)) for picture in tokens])
        assert relative_error(spectrum.negative(0.02).double(), expected) <= 1e-5, n
        expected = torch.stack([torch.linalg.svdvals(picture.double()) for picture in tokens])
        assert relative_error(spectrum.singular_values.double(), expected) <= 1e-5, n


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [(4, 640), (16, 1280), (257, 64)])
def test_a_batch_is_its_pictures_one_by_one(batch, shape):
    scales = torch.arange(1.0, batch + 1)[:, None, None]
    tokens = randn(batch, *shape) * scales
    alpha = torch.linspace(0.01, 0.1, batch)
    spectrum = Spectrum.of(tokens)
    for one, together in (
        (lambda s, a: s.purified(1, a), spectrum.purified(1, alpha)),
        (lambda s, a: s.negative(a), spectrum.negative(alpha)),
        (lambda s, a: s.purified(1, 50 * a, relative=True), spectrum.purified(1, 50 * alpha, relative=True)),
        (lambda s, a: s.negative(hard=True), spectrum.negative(hard=True)),
    ):
        alone = torch.cat([one(Spectrum.of(tokens[i : i + 1]), float(alpha[i])) for i in range(batch)])
        assert relative_error(together, alone) <= 1e-6


def test_a_large_head_does_not_drown_the_tail():
    """Tokens that share a mean much larger than what tells them apart: a float32 SVD is four percent off."""
    tokens = randn(2, 16, 1280) * 0.01 + 30 * randn(1, 1, 1280, seed=1)
    expected = torch.stack([by_svd(picture, lambda values, i: values * (i > 0)) for picture in tokens])
    assert relative_error(Spectrum.of(tokens).negative(hard=True).double(), expected) <= 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_tokens_dtype_comes_out_and_float32_is_inside(dtype):
    tokens = (4 * randn(2, 16, 320)).to(dtype)
    spectrum = Spectrum.of(tokens)
    inside = Spectrum.of(tokens.float())
    assert spectrum.singular_values.dtype == torch.float32
    for actual, expected in (
        (spectrum.purified(1, 0.05), inside.purified(1, 0.05)),
        (spectrum.negative(), inside.negative()),
    ):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual, expected.to(dtype), rtol=0, atol=0)


def test_half_precision_is_squared_without_overflow():
    tokens = torch.full((1, 4, 64), 6e4, dtype=torch.float16)
    torch.testing.assert_close(Spectrum.of(tokens).purified(1, 0.01), tokens, rtol=1e-3, atol=0)


DIAGONAL = [20.0, 5.0, 0.5]


def diagonal(values: list[float], features: int = 6) -> Tensor:
    """Tokens (1, N, features) whose singular values are just these."""
    return torch.eye(len(values), features).mul(torch.tensor(values)[:, None])[None]


def test_diagonal_tokens_in_closed_form():
    spectrum = Spectrum.of(diagonal(DIAGONAL))
    assert spectrum.singular_values[0].tolist() == pytest.approx(DIAGONAL, rel=1e-6)
    suppressed = [0.9 * value * math.exp(-0.1 * value) for value in DIAGONAL]
    torch.testing.assert_close(spectrum.purified(1, 0.1, 0.9), diagonal([20.0, *suppressed[1:]]))
    torch.testing.assert_close(spectrum.purified(2, 0.1, 0.9), diagonal([20.0, 5.0, suppressed[2]]))
    torch.testing.assert_close(spectrum.purified(0, 0.1, 0.9), diagonal(suppressed))
    torch.testing.assert_close(spectrum.negative(0.1, 0.9), diagonal(suppressed))
    torch.testing.assert_close(spectrum.negative(0.1, 0.9, hard=True), diagonal([0.0, 4.5, 0.45]))
    torch.testing.assert_close(spectrum.negative(hard=True, top_k=2), diagonal([0.0, 0.0, 0.5]))


def test_relative_is_the_same_for_tokens_of_any_scale():
    expected = [value * math.exp(-2 * value / 20) for value in DIAGONAL]
    for scale in (1.0, 1e-3, 100.0):
        spectrum = Spectrum.of(diagonal(DIAGONAL) * scale)
        actual = spectrum.purified(1, 2.0, relative=True) / scale
        torch.testing.assert_close(actual, diagonal([20.0, *expected[1:]]))
        torch.testing.assert_close(spectrum.negative(2.0, relative=True) / scale, diagonal(expected))


def test_the_share_of_energy_that_is_kept():
    spectrum = Spectrum.of(torch.cat([diagonal([3.0, 4.0]), diagonal([3.0, 0.0])]))
    purified = spectrum.kept(spectrum.purify_gains(1, 0.1))
    assert purified[0] == pytest.approx((16 + 9 * math.exp(-0.6)) / 25, rel=1e-6)
    assert purified[1] == 1
    torch.testing.assert_close(spectrum.kept(spectrum.negative_gains(hard=True)), torch.tensor([9 / 25, 0.0]))
    assert Spectrum.of(torch.zeros(1, 4, 8)).kept(torch.zeros(1, 4)).tolist() == [1.0]


def test_tokens_that_are_all_one_token_have_no_tail():
    tokens = torch.outer(torch.tensor([1.0, -2.0, 3.0, 0.5]), randn(48))[None]
    spectrum = Spectrum.of(tokens)
    assert relative_error(spectrum.purified(1, 5.0), tokens) <= 1e-6
    assert spectrum.negative(hard=True).abs().max() <= 1e-6


def test_zero_tokens_stay_zero():
    tokens = torch.cat([torch.zeros(1, 4, 32), randn(1, 4, 32)])
    spectrum = Spectrum.of(tokens)
    for made in (
        spectrum.purified(1, 0.1),
        spectrum.purified(1, 0.1, relative=True),
        spectrum.negative(),
        spectrum.negative(hard=True),
    ):
        assert not made[0].any()
        assert made[1].isfinite().all()


def test_nothing_is_changed_where_alpha_is_zero_or_everything_is_kept():
    for tokens in (randn(2, 16, 640), randn(2, 40, 24)):
        spectrum = Spectrum.of(tokens)
        rank = min(tokens.shape[1:])
        assert relative_error(spectrum.purified(1, 0.0), tokens) <= 1e-6
        assert relative_error(spectrum.purified(rank, 5.0, 0.1), tokens) <= 1e-6


def test_purified_and_hard_negative_part_the_tokens_without_loss():
    tokens = randn(3, 16, 320)
    spectrum = Spectrum.of(tokens)
    head = spectrum.purified(3, 0.1, beta=0.0)
    assert relative_error(head + spectrum.negative(hard=True, top_k=3), tokens) <= 1e-6


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_tokens_are_named(bad):
    tokens = randn(3, 4, 32)
    tokens[1, 2, 3] = bad
    with pytest.raises(ValueError, match=r"picture 2 \(of 3\).*NaN or\s+infinite.*bfloat16"):
        Spectrum.of(tokens)


@pytest.mark.parametrize("shape", [(4, 32), (1, 0, 32), (1, 2, 4, 32)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="expected \\(pictures, tokens, features\\)"):
        Spectrum.of(torch.zeros(shape))


@pytest.mark.parametrize("k", [-1, 5, 257])
def test_k_beyond_the_spectrum_is_refused(k):
    spectrum = Spectrum.of(randn(1, 4, 32))
    for call in (spectrum.purified, lambda k: spectrum.negative(hard=True, top_k=k)):
        with pytest.raises(ValueError, match=f"k is {k}, but these style tokens have 4"):
            call(k)


@pytest.mark.parametrize(("progress", "share"), [(0, 0.998), (0.2, 0.88), (0.3, 0.5), (0.4, 0.12), (0.5, 0.02)])
def test_suppression_fades_in_the_first_third(progress, share):
    assert suppression(progress) / 0.01 == pytest.approx(share, abs=5e-3)


def test_suppression_takes_tensors_and_any_steepness():
    progress = torch.linspace(0, 1, 11, dtype=torch.float64)
    floats = [suppression(float(p), alpha=0.3, gamma=7.0, center=0.6) for p in progress]
    assert suppression(progress, alpha=0.3, gamma=7.0, center=0.6).tolist() == pytest.approx(floats, rel=1e-12)
    assert suppression(0.5, gamma=1e6) == pytest.approx(0)
    assert suppression(0.1, gamma=1e6) == pytest.approx(0.01)
    assert suppression(0.9, gamma=0.0) == pytest.approx(0.005)


@pytest.mark.parametrize(
    "schedule", [{}, {"gamma": 200.0}, {"gamma": 3.0, "center": 0.9, "alpha": 0.7}, {"center": 0.0}, {"gamma": 1e5}]
)
def test_the_staircase_follows_the_schedule(schedule):
    alpha = schedule.get("alpha", 0.01)
    steps = suppression_steps(**schedule)
    assert steps[0][0] == 0
    assert steps[-1][1] == 1
    assert all(a[1] == b[0] for a, b in zip(steps, steps[1:], strict=False))
    assert 5 <= len(steps) <= 20
    for start, end, level in steps:
        assert start < end
        inside = [suppression(start + (end - start) * (i + 0.5) / 1000, **schedule) for i in range(1000)]
        assert sum(inside) / 1000 == pytest.approx(level, abs=1e-4 * alpha)
        assert max(abs(at - level) for at in inside) <= 0.05 * alpha


@pytest.mark.parametrize("schedule", [{"gamma": 0.0}, {"alpha": 0.0}, {"center": 9.0, "gamma": 1000.0}])
def test_a_schedule_that_does_not_change_is_one_step(schedule):
    assert suppression_steps(**schedule) == [(0.0, 1.0, suppression(0.5, **schedule))]


def test_extrapolation_in_closed_form():
    positive, negative = torch.tensor([[1.0, 2.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [1.0, -9.0]])
    # Moved to (4, 2) and (1, 31): norms 6 and 32, of which 2.5 times the positive's are 7.5 and 5.
    moved = torch.tensor([[4.0, 2.0], [1 * 5 / 32, 31 * 5 / 32]])
    for blend in (1.0, 0.25, 0.0):
        actual = extrapolate(positive, negative, strength=3.0, limit=2.5, blend=blend)
        torch.testing.assert_close(actual, blend * moved + (1 - blend) * positive)


def test_extrapolation_of_zero_tokens_is_finite():
    positive, negative = torch.zeros(2, 3, 4), torch.stack([torch.zeros(3, 4), torch.ones(3, 4)])
    assert not extrapolate(positive, negative, strength=2.0, limit=2.5, blend=0.5).any()


def test_extrapolation_keeps_the_dtype_and_is_float32_inside():
    positive = torch.full((1, 4, 2048), 100.0, dtype=torch.float16)  # whose L1 norm float16 can't hold
    moved = extrapolate(positive, -positive, strength=1.0, limit=2.0, blend=1.0)
    torch.testing.assert_close(moved, 2 * positive, rtol=1e-3, atol=0)
    assert moved.dtype == torch.float16


def test_strength_zero_is_the_very_same_tensor():
    positive = randn(1, 2, 3)
    assert extrapolate(positive, randn(1, 2, 3, seed=1), strength=0.0, limit=2.5, blend=0.5) is positive


@pytest.mark.parametrize("shape", [(3, 4, 9), (2, 9, 4), (1, 1, 5), (2, 5, 5)], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"top_k": 0}, {"top_k": 1, "beta": 0.5}, {"relative": True}, {"beta": 0.0}], ids=str
)
def test_a_purifier_gives_what_purified_gives(shape, options):
    tokens = torch.randn(shape, generator=torch.manual_seed(4)) * 8
    spectrum = Spectrum.of(tokens.to(torch.bfloat16))
    purify = Purifier(spectrum, **options)
    for alpha in (0.0, 0.01, 0.2, 0.05):
        expected = spectrum.purified(alpha=alpha, **options)
        assert purify(alpha).dtype == expected.dtype == torch.bfloat16
        torch.testing.assert_close(purify(alpha), expected, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(
            Purifier(Spectrum.of(tokens), **options)(alpha), Spectrum.of(tokens).purified(alpha=alpha, **options)
        )


def test_a_purifier_refuses_more_than_there_are():
    with pytest.raises(ValueError, match="k is 5"):
        Purifier(Spectrum.of(torch.randn(1, 4, 9)), top_k=5)


def test_joined_spectra_are_those_of_one_batch():
    generator = torch.manual_seed(4)
    one, other = (torch.randn(2, 4, 9, generator=generator) for _ in range(2))
    joined = Spectrum.joined([Spectrum.of(one), Spectrum.of(other)])
    torch.testing.assert_close(joined.purified(), Spectrum.of(torch.cat([one, other])).purified())
