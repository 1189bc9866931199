"""Timing several ways to do the same work against each other, on a machine that does other things as well."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """seconds: the median. ratio: the median of the ratios to the baseline in the same round, and their quartiles."""

    seconds: float
    ratio: float
    ratio_quartiles: tuple[float, float]


def alternate(
    contenders: dict[str, Callable[[], None]], rounds: int, *, warm_up: int = 2, synchronize: Callable[[], None]
) -> dict[str, Timing]:
    """Time each contender once a round, the order reversed every other round; the first one is the baseline.

    A ratio is of two times of one round, so what slows the machine for longer than that slows both. synchronize() waits
    until all work has been done.
    """
    if rounds < 2:
        raise ValueError(f"rounds is {rounds}; expected 2 or more, for the quartiles")
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for repetition in range(warm_up + rounds):
        for name in order if repetition % 2 else reversed(order):
            synchronize()
            began = time.perf_counter()
            contenders[name]()
            synchronize()
            seconds[name].append(time.perf_counter() - began)
    measured = {name: times[warm_up:] for name, times in seconds.items()}
    baseline = measured[order[0]]
    return {name: _timing(times, baseline) for name, times in measured.items()}


def _timing(times: list[float], baseline: list[float]) -> Timing:
    ratios = [mine / base for mine, base in zip(times, baseline, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Timing(statistics.median(times), middle, (low, high))
