"""How sure a number is that was computed from samples: the delete-a-group jackknife."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PARTS = 10
# Student's t at 97.5 %, by degrees of freedom (Fisher and Yates 1938, table III).
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
Spans = list[tuple[int, int]]


@dataclass(frozen=True)
class Estimate:
    """A number from samples, and half of its 95 % confidence interval; None where there is too little to tell."""

    value: float
    margin: float | None = None


def part_spans(samples: int, in_group: int, most: int = PARTS) -> Spans:
    """`samples` rows, of which each `in_group` belong together, in up to `most` parts of whole groups → (first, last).

    last is the first row after the part. The parts differ by a group at most.
    """
    groups = -(-samples // in_group)
    parts = max(1, min(most, groups))
    edges = [min(part * groups // parts * in_group, samples) for part in range(parts + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def jackknife(value: float, left_out: Sequence[float]) -> Estimate:
    """`value`, with the interval that it has by the values without one part each (Shao and Tu 1995, §2.3).

    margin = t_{G-1} · ((G - 1) / G · Σ_g (θ_g - mean θ)²)^½,   θ_g: computed without part g of G
    """
    parts = len(left_out)
    if parts < 2:
        return Estimate(value)
    thetas = torch.tensor(left_out, dtype=torch.float64)
    variance = (parts - 1) / parts * (thetas - thetas.mean()).square().sum()
    return Estimate(value, T_975[min(parts - 1, max(T_975))] * float(variance.sqrt()))


def mean_estimate(values: Tensor, spans: Spans) -> Estimate:
    """The mean of (N,), jackknifed over these parts of it."""
    values = values.double()
    total = values.sum()
    left_out = [float((total - values[first:last].sum()) / (len(values) - last + first)) for first, last in spans] * (
        len(spans) > 1
    )
    return jackknife(float(total / len(values)), left_out)
