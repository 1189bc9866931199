"""The statistics of sets of any size, against second implementations and answers known by hand."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from sid_pack.sid_core.evaluation import distances, feature_rows, neighbours, streamed
from sid_pack.sid_core.evaluation.feature_rows import FeatureRows
from sid_pack.sid_core.evaluation.jackknife import jackknife, mean_estimate, part_spans
from sid_pack.sid_core.evaluation.streamed import FeatureSet

WIDTH = 7


def rows_of(features: torch.Tensor) -> FeatureRows:
    rows = FeatureRows(features.shape[1])
    for part in features.split(11):
        rows.append(part)
    return rows


def drawn(count: int, seed: int, in_group: int = 1, shift: float = 0.0) -> tuple[torch.Tensor, FeatureSet]:
    """Correlated features; → as they are, and as a set."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, WIDTH, generator=generator) @ torch.linspace(-1, 1, WIDTH**2).view(WIDTH, -1)
    features = (features + torch.randn(count, WIDTH, generator=generator) + shift).float()
    return features.double(), FeatureSet(rows_of(features), in_group)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Lest all of a test's rows fit into one."""
    monkeypatch.setattr(feature_rows, "CHUNK", 5)
    monkeypatch.setattr(streamed, "FEW", 6)


def kernel_by_pairs(a: np.ndarray, b: np.ndarray) -> float:
    """Bińkowski et al. 2018, term by term."""

    def k(x, y):
        return (float(np.dot(x, y)) / len(x) + 1) ** 3

    within = [np.mean([k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (a, b)]
    return within[0] + within[1] - 2 * np.mean([k(x, y) for x in a for y in b])


def frechet_by_root(a: np.ndarray, b: np.ndarray) -> float:
    """As it is printed, with scipy's root of the product."""
    cross = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    return float(np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * cross))


def test_kernel_distance_is_its_definition_and_so_is_each_part_left_out():
    (a, a_set), (b, b_set) = drawn(24, 1, in_group=2), drawn(31, 2, in_group=3, shift=0.3)
    estimate = streamed.kernel_distance(a_set, b_set, parts=4)
    assert estimate.value == pytest.approx(kernel_by_pairs(a.numpy(), b.numpy()), rel=1e-9)
    left_out = []
    for (i, j), (k, m) in zip(part_spans(24, 2, 4), part_spans(31, 3, 4), strict=True):
        left_out.append(kernel_by_pairs(np.delete(a.numpy(), slice(i, j), 0), np.delete(b.numpy(), slice(k, m), 0)))
    spread = math.sqrt(3 / 4 * sum((x - np.mean(left_out)) ** 2 for x in left_out))
    assert estimate.margin == pytest.approx(3.182 * spread, rel=1e-6)


def test_frechet_distance_is_its_definition_and_so_is_each_part_left_out():
    (a, a_set), (b, b_set) = drawn(60, 3), drawn(80, 4, shift=0.5)
    estimate = streamed.frechet_distance(a_set, b_set, parts=3)
    assert estimate.value == pytest.approx(frechet_by_root(a.numpy(), b.numpy()), rel=1e-6)
    left_out = []
    for (i, j), (k, m) in zip(part_spans(60, 1, 3), part_spans(80, 1, 3), strict=True):
        left_out.append(frechet_by_root(np.delete(a.numpy(), slice(i, j), 0), np.delete(b.numpy(), slice(k, m), 0)))
    spread = math.sqrt(2 / 3 * sum((x - np.mean(left_out)) ** 2 for x in left_out))
    assert estimate.margin == pytest.approx(4.303 * spread, rel=1e-4)


def test_fewer_samples_than_features_are_as_the_whole_sets_have_it():
    (a, a_set), (b, b_set) = drawn(4, 5), drawn(5, 6)
    expected = distances.frechet_distance(a, b)
    assert streamed.frechet_distance(a_set, b_set).value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("count", "other", "in_group"), [(2, 2, 1), (2, 2, 2), (2, 5, 1), (3, 2, 1), (3, 3, 2)])
def test_the_smallest_sets_have_a_distance_too(count, other, in_group):
    """And no interval where nothing can be left out."""
    (a, a_set), (b, b_set) = drawn(count, 5, in_group), drawn(other, 6, in_group)
    for name in ("kernel_distance", "frechet_distance"):
        estimate = getattr(streamed, name)(a_set, b_set)
        assert estimate.value == pytest.approx(getattr(distances, name)(a, b), rel=1e-6), name
        assert estimate.margin is None or min(count, other) > 2


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_the_whole_sets(k):
    (a, a_set), (b, b_set) = drawn(29, 7), drawn(40, 8, shift=0.7)
    found = streamed.precision_and_recall(a_set, b_set, k)
    assert tuple(each.value for each in found) == pytest.approx(neighbours.precision_and_recall(a, b, k))


def test_precision_and_recall_of_sets_whose_answer_is_known():
    """Real ones on a line at 0, 1, 2, 3; two samples among them, two far off. k = 1: all radii of the real are 1."""
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    real, samples = FeatureSet(rows_of(line)), FeatureSet(rows_of(torch.tensor([[0.5], [1.5], [90.0], [95.0]])))
    precision, recall = streamed.precision_and_recall(samples, real, k=1)
    # The samples' radii are 1, 1, 5, 5: 0, 1 and 2 are within 1 of 0.5 or 1.5, and 3 is not.
    assert (precision.value, recall.value) == (0.5, 0.75)


def test_a_set_equals_itself():
    features, a = drawn(30, 9)
    again = FeatureSet(rows_of(features.float()))
    assert streamed.frechet_distance(a, again).value == pytest.approx(0, abs=1e-6)
    assert [each.value for each in streamed.precision_and_recall(a, again)] == [1, 1]
    # Unbiased for sets drawn apart, so below 0 for one set twice: the pairs of a picture with itself count as near.
    assert streamed.kernel_distance(a, again).value < 0


def test_torchmetrics_agrees_on_the_same_features():
    fid = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics is not installed")
    kid = pytest.importorskip("torchmetrics.image.kid")
    (a, a_set), (b, b_set) = drawn(50, 10), drawn(50, 11, shift=0.4)

    class AsTheyCome(torch.nn.Module):
        """Features in the place of pictures."""

        num_features = WIDTH

        def forward(self, x):
            return x.view(len(x), -1)[:, :WIDTH]

    def measured(metric):
        for features, real in ((a, True), (b, False)):
            metric.update(features[:, :, None, None].expand(-1, -1, 1, 1), real=real)
        return metric.compute()

    metric = fid.FrechetInceptionDistance(AsTheyCome(), input_img_size=(WIDTH, 1, 1)).set_dtype(torch.float64)
    assert streamed.frechet_distance(a_set, b_set).value == pytest.approx(float(measured(metric)), rel=1e-6)
    metric = kid.KernelInceptionDistance(AsTheyCome(), subsets=1, subset_size=50, gamma=1 / WIDTH)
    assert streamed.kernel_distance(a_set, b_set).value == pytest.approx(float(measured(metric)[0]), rel=1e-6)


def test_variety_is_the_mean_distance_within_prompts():
    """Prompts of 3 pictures at 0, 0, 3 (distances 0, 3, 3), and of one pair at distance 4; a lone one has none."""
    rows = torch.tensor([[0.0, 0], [0, 0], [3, 0], [0, 0], [0, 4], [0, 2]])
    a = FeatureSet(rows_of(rows), in_group=3)
    assert streamed.variety(a).value == pytest.approx((2 + (4 + 2 + 2) / 3) / 2)
    alone = FeatureSet(rows_of(rows[:4]), in_group=3)
    assert streamed.variety(alone).value == pytest.approx(2)
    with pytest.raises(ValueError, match="two pictures"):
        streamed.variety(FeatureSet(rows_of(rows), in_group=1))


def test_parts_are_of_whole_groups_and_have_all_rows():
    for samples, in_group, most in ((23, 4, 10), (24, 4, 3), (5, 8, 10), (100, 1, 10)):
        spans = part_spans(samples, in_group, most)
        assert [first for first, _ in spans] == [0, *(last for _, last in spans[:-1])]
        assert spans[-1][1] == samples and all(first % in_group == 0 for first, _ in spans)
        assert len(spans) == min(most, -(-samples // in_group))


def test_the_interval_of_a_mean_is_student_s():
    values = torch.tensor([3.0, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    estimate = mean_estimate(values, part_spans(10, 1))
    assert estimate.value == pytest.approx(3.9)
    assert estimate.margin == pytest.approx(2.262 * float(values.std()) / math.sqrt(10), rel=1e-6)
    assert mean_estimate(values, [(0, 10)]).margin is None
    assert jackknife(1.0, []).margin is None


def test_the_interval_has_the_distance_about_as_often_as_it_says():
    """Of sets from one distribution the kernel distance is 0: in 95 of 100 such pairs, it is to be within."""
    hits = 0
    for i in range(60):
        a, b = (drawn(40, 100 + 2 * i + side)[1] for side in (0, 1))
        estimate = streamed.kernel_distance(a, b)
        hits += abs(estimate.value) <= estimate.margin
    assert 49 <= hits <= 60


def test_another_width_is_refused_and_what_is_not_finite_is_counted():
    rows = rows_of(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="width 4"):
        rows.append(torch.zeros(3, 5))
    rows.append(torch.tensor([[1, 2, 3, math.nan], [1, 2, 3, 4], [math.inf, 0, 0, 0]]))
    assert (len(rows), rows.not_finite) == (6, 2)
