"""Where subject and style sit, on tokens whose components are made to know the one or the other."""

import pytest
import torch

STYLES, SUBJECTS = 5, 12


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_variance_is_shared_out_as_it_was_put_in():
    """three independent parts, whose own means over rows and columns are taken off, so that the shares are exact"""
    from leakage_spectrum import shares

    style, subject, rest = randn(STYLES, 1, 7), randn(1, SUBJECTS, 7, seed=1), randn(STYLES, SUBJECTS, 7, seed=2)
    style, subject = style - style.mean(0), subject - subject.mean(1)
    rest = rest - rest.mean(0)
    rest = rest - rest.mean(1, keepdim=True)
    parts = [part / part.square().sum(2).mean().sqrt() for part in (style, subject, rest)]
    x = 3 * parts[0] + 2 * parts[1] + parts[2] + 100
    assert shares(x) == pytest.approx((9 / 14, 4 / 14))


def test_of_noise_the_shares_are_those_of_chance():
    from leakage_spectrum import shares

    found = torch.tensor([shares(randn(STYLES, SUBJECTS, 3, seed=seed)) for seed in range(200)]).mean(0)
    assert found.tolist() == pytest.approx([4 / 59, 11 / 59], abs=0.01)


def test_the_nearest_picture_tells_style_among_other_subjects_and_subject_among_other_styles():
    from leakage_spectrum import told

    style, subject = randn(STYLES, 1, 30), randn(1, SUBJECTS, 30, seed=1)
    noise = randn(STYLES, SUBJECTS, 30, seed=2)
    assert told(100 * style + subject + 0.1 * noise) == (1, 1)
    assert told(style + 100 * subject + 0.1 * noise) == (1, 1)
    style_told, subject_told = told(100 * style + noise)
    assert style_told == 1 and subject_told < 0.3
    style_told, subject_told = told(100 * subject + noise)
    assert subject_told == 1 and style_told < 0.5


def test_a_row_is_of_its_own_components():
    """style in the first, subject in the second and third, of three orthogonal directions"""
    from leakage_spectrum import row_of

    from sid_pack.sid_core.method.cleanstyle import Spectrum

    style, subject = torch.linalg.qr(randn(6, STYLES)).Q.T, torch.linalg.qr(randn(20, SUBJECTS)).Q.T
    tokens = torch.zeros(STYLES, SUBJECTS, 3, 26)
    tokens[:, :, 0, :6] = 10 * style[:, None]
    tokens[:, :, 1, 6:] = 2 * subject
    tokens[:, :, 2, 6:] = 1 * subject.roll(1, 0)
    spectrum = Spectrum.of(tokens.flatten(0, 1))
    shape = torch.Size((STYLES, SUBJECTS))
    which, sigma, energy, of_style, of_subject, *_ = row_of(spectrum, 0, 1, shape).split(" | ")
    assert (which, sigma, of_style, of_subject) == ("1", "10.00", "1.000", "0.000")
    assert float(energy) == pytest.approx(100 / 105, abs=1e-3)
    which, sigma, energy, of_style, of_subject, style_told, subject_told = row_of(spectrum, 1, 3, shape).split(" | ")
    assert (which, sigma, of_style, of_subject, subject_told) == ("2 to 3", "1.50", "0.000", "1.000", "1.000")


def test_the_grid_is_complete_and_the_same_every_time():
    from leakage_spectrum import grid_of
    from pictures import Pictures

    subjects, styles = torch.arange(20).repeat(3), torch.tensor([0, 4, 6]).repeat_interleave(20)
    there = (subjects != 3) | (styles != 4)
    count = int(there.sum())
    pictures = Pictures(
        torch.zeros(count, 1, 1, 3, dtype=torch.uint8), subjects[there], styles[there], torch.zeros(count), ["x"] * 20
    )
    grid = grid_of(pictures, ("shaded", "inked"), 8)
    assert grid.shape == (2, 8)
    assert torch.equal(pictures.subjects[grid[0]], pictures.subjects[grid[1]]) and 3 not in pictures.subjects[grid]
    assert pictures.styles[grid].tolist() == [[0] * 8, [4] * 8]
    assert len(grid_of(pictures, ("shaded", "inked"), 50)[0]) == 19
    assert torch.equal(grid, grid_of(pictures, ("shaded", "inked"), 8))
