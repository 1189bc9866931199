"""Timing several ways to do the same work against each other, on a machine that does other things as well."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ratio:
    """The median over the rounds, and the quartiles."""

    low: float
    middle: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.4f} ({self.low:.4f} … {self.high:.4f})"


@dataclass(frozen=True)
class Timing:
    """seconds: the median of a run. to_own_core: of a run to the time inside the core during that very run.
    to_baseline: to the first contender's run of the same round."""

    seconds: float
    to_own_core: Ratio
    to_baseline: Ratio


def alternate(
    contenders: dict[str, Callable[[], None]],
    core: torch.nn.Module,
    rounds: int,
    *,
    synchronize: Callable[[], None],
    after_round: Callable[[int], None],
) -> dict[str, Timing]:
    """Time each contender once a round, the order reversed every other round, after one round that does not count.

    A ratio is of two times of one round, so what slows the machine for longer than that slows both; and the time inside
    `core`, the module that all of them run, is taken within each run, so that what slows it for a moment is in both.
    synchronize() waits until all work has been done.
    """
    if rounds < 2:
        raise ValueError(f"rounds is {rounds}; expected 2 or more, for the quartiles")
    whole: dict[str, list[float]] = {name: [] for name in contenders}
    inside: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for repetition in range(1 + rounds):
        for name in order if repetition % 2 else reversed(order):
            with _time_inside(core, synchronize) as forwards:
                synchronize()
                began = time.perf_counter()
                contenders[name]()
                synchronize()
                whole[name].append(time.perf_counter() - began)
            inside[name].append(sum(forwards))
        after_round(repetition)
    baseline = whole[order[0]][1:]
    return {name: _timing(whole[name][1:], inside[name][1:], baseline) for name in order}


@contextmanager
def _time_inside(core: torch.nn.Module, synchronize: Callable[[], None]) -> Iterator[list[float]]:
    """The seconds of each forward of core, added to the list as they are run."""
    forwards: list[float] = []
    began = 0.0

    def start(*_: object) -> None:
        nonlocal began
        synchronize()
        began = time.perf_counter()

    def stop(*_: object) -> None:
        synchronize()
        forwards.append(time.perf_counter() - began)

    hooks = core.register_forward_pre_hook(start), core.register_forward_hook(stop)
    try:
        yield forwards
    finally:
        for hook in hooks:
            hook.remove()


def _timing(whole: list[float], inside: list[float], baseline: list[float]) -> Timing:
    return Timing(statistics.median(whole), ratio(whole, inside), ratio(whole, baseline))


def ratio(numerators: list[float], denominators: list[float]) -> Ratio:
    """Of each pair; two or more of them."""
    ratios = [one / other for one, other in zip(numerators, denominators, strict=True)]
    return Ratio(*statistics.quantiles(ratios, n=4))
