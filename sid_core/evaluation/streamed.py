"""The distances of `distances` and `neighbours` between sets of any size: rows are read in parts, and each has an
interval.

Two sets are cut into as many parts in the same order, and a part is left out of both: where both have pictures of the
same prompts, these leave together.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .distances import check_two_sets, distance_of_gaussians
from .feature_rows import FeatureRows
from .jackknife import Estimate, Spans, jackknife, mean_estimate, part_spans
from .neighbours import euclidean

Check = Callable[[], None]
FEW = 512  # rows whose differences from as many others are in memory at once


def _unchecked() -> None:
    """Nobody cancels."""


@dataclass(frozen=True)
class FeatureSet:
    """Features in the order of their prompts, `in_group` rows of each. check: called all the while; it may raise."""

    rows: FeatureRows
    in_group: int = 1
    check: Check = _unchecked

    def __len__(self) -> int:
        return len(self.rows)

    def groups(self) -> int:
        return -(-len(self) // self.in_group)

    def spans(self, parts: int) -> Spans:
        return part_spans(len(self), self.in_group, parts)

    @cached_property
    def moments(self) -> "Moments":
        return moments_of(self, (0, len(self)))


def common_parts(a: FeatureSet, b: FeatureSet, most: int) -> int:
    """How many parts both sets can be cut into."""
    return min(most, a.groups(), b.groups())


def kernel_distance(a: FeatureSet, b: FeatureSet, parts: int = 10) -> Estimate:
    """`distances.kernel_distance` of two sets, from the kernel's sums over pairs of parts."""
    _require_two(a, b)
    parts = common_parts(a, b, parts)
    sums = [_kernel_sums(x, y, parts) for x, y in ((a, a), (b, b), (a, b))]
    sizes = [torch.tensor([last - first for first, last in x.spans(parts)]) for x in (a, b)]

    def distance(kept: Tensor) -> float:
        within_a, within_b, between = (float(each[kept][:, kept].sum()) for each in sums)
        n, m = (int(size[kept].sum()) for size in sizes)
        return within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * between / (n * m)

    enough = all(int(size.sum() - size.max()) >= 2 for size in sizes)
    left_out = [distance(kept) for kept in _each_left_out(parts)] if enough else []
    return jackknife(distance(torch.arange(parts)), left_out)


def _kernel_sums(a: FeatureSet, b: FeatureSet, parts: int) -> Tensor:
    """Sums of the cubic kernel over all pairs of a row of part g and one of part h, (G, G); no row with itself."""
    sums = torch.zeros(parts, parts, dtype=torch.float64)
    same = a.rows is b.rows
    for g, (first, last) in enumerate(a.spans(parts)):
        for place, x in a.rows.chunks(first, last):
            for h, (other_first, other_last) in enumerate(b.spans(parts)):
                if same and h < g:
                    continue
                for other_place, y in b.rows.chunks(other_first, other_last):
                    a.check()
                    kernel = (x @ y.T / a.rows.width + 1) ** 3
                    if same and other_place == place:
                        kernel.fill_diagonal_(0)
                    sums[g, h] += kernel.sum()
    return sums + sums.T - sums.diag().diag() if same else sums


def _each_left_out(parts: int) -> Iterable[Tensor]:
    return (torch.tensor([h for h in range(parts) if h != g]) for g in range(parts)) if parts > 1 else ()


@dataclass(frozen=True)
class Moments:
    """Of N features: their mean (D,), and the sum of (x - mean)(x - mean)ᵀ (D, D)."""

    count: int
    mean: Tensor
    scatter: Tensor

    def merged(self, other: "Moments") -> "Moments":
        """Of both together (Chan, Golub and LeVeque 1983, eq. 2.1)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(apart, apart) * (self.count * other.count / count)
        return Moments(count, self.mean + apart * (other.count / count), scatter)

    def without(self, other: "Moments") -> "Moments":
        """Of the rest, where `other` is of some of them; at least one is left."""
        count = self.count - other.count
        mean = (self.mean * self.count - other.mean * other.count) / count
        apart = other.mean - mean
        return Moments(
            count, mean, self.scatter - other.scatter - torch.outer(apart, apart) * (count * other.count / self.count)
        )

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Mean and a root R of the unbiased covariance, C = RᵀR, (D, D)."""
        values, vectors = torch.linalg.eigh(self.scatter / (self.count - 1))
        return self.mean, values.clamp(min=0).sqrt()[:, None] * vectors.T


def moments_of(features: FeatureSet, span: tuple[int, int]) -> Moments:
    """Of the rows of a span, which has one at least."""
    found = None
    for _, x in features.rows.chunks(*span):
        features.check()
        mean = x.mean(0)
        part = Moments(len(x), mean, (x - mean).T @ (x - mean))
        found = part if found is None else found.merged(part)
    return found


def frechet_distance(a: FeatureSet, b: FeatureSet, parts: int = 10) -> Estimate:
    """`distances.frechet_distance` of two sets, from their moments."""
    _require_two(a, b)
    parts = common_parts(a, b, parts)
    left_out = []
    cut = list(zip(a.spans(parts), b.spans(parts), strict=True))
    if all(len(x) - last + first >= 2 for spans in cut for x, (first, last) in zip((a, b), spans, strict=True)):
        for spans in cut:
            rest = (x.moments.without(moments_of(x, span)) for x, span in zip((a, b), spans, strict=True))
            left_out.append(_between(*rest))
            a.check()
    return jackknife(_between(a.moments, b.moments), left_out)


def _between(a: Moments, b: Moments) -> float:
    return distance_of_gaussians(*a.gaussian(), *b.gaussian())


def precision_and_recall(samples: FeatureSet, real: FeatureSet, k: int = 3, parts: int = 10) -> tuple[Estimate, ...]:
    """`neighbours.precision_and_recall` of two sets; the intervals are for the other set and the radii as they are."""
    check_two_sets(samples.rows.read(0, k + 1), real.rows.read(0, k + 1), fewest=k + 1)
    radii_samples, radii_real = _radii(samples, k), _radii(real, k)
    among_real = torch.zeros(len(samples), dtype=torch.bool)
    among_samples = torch.zeros(len(real), dtype=torch.bool)
    for i, x in samples.rows.chunks(most=FEW):
        for j, y in real.rows.chunks(most=FEW):
            samples.check()
            apart = euclidean(x, y)
            among_real[i : i + len(x)] |= (apart <= radii_real[j : j + len(y)]).any(1)
            among_samples[j : j + len(y)] |= (apart <= radii_samples[i : i + len(x), None]).any(0)
    return mean_estimate(among_real, samples.spans(parts)), mean_estimate(among_samples, real.spans(parts))


def _radii(features: FeatureSet, k: int) -> Tensor:
    """Distance of each row to its k-th nearest other one → (N,)."""
    radii = []
    for i, x in features.rows.chunks(most=FEW):
        nearest = x.new_empty(len(x), 0)
        for j, y in features.rows.chunks(most=FEW):
            features.check()
            apart = euclidean(x, y)
            if i == j:
                apart.fill_diagonal_(torch.inf)
            nearest = torch.cat([nearest, apart], 1)
            nearest = nearest.topk(min(k, nearest.shape[1]), dim=1, largest=False).values
        radii.append(nearest.amax(1))
    return torch.cat(radii)


def variety(features: FeatureSet, parts: int = 10) -> Estimate:
    """Mean Euclidean distance between two pictures of one prompt, over prompts with two pictures or more.

    Raises ValueError where no prompt has two.
    """
    size = features.in_group
    if min(size, len(features)) < 2:
        raise ValueError("needs two pictures of a prompt")
    means = []
    for _, x in features.rows.chunks(most=max(1, FEW // size) * size):
        features.check()
        means += [torch.pdist(group).mean() for group in x.split(size) if len(group) > 1]
    found = torch.stack(means)
    return mean_estimate(found, part_spans(len(found), 1, parts))


def _require_two(a: FeatureSet, b: FeatureSet) -> None:
    check_two_sets(a.rows.read(0, 2), b.rows.read(0, 2))
