"""The curves by which the editor draws a link, from its start over its reroutes to its end: cubic Béziers."""

import math
from collections.abc import Iterator, Sequence

Point = tuple[float, float]
REACH, MOST_REACH = 0.25, 80.0  # of the distance: how far a curve goes on straight; and at most so at a reroute
SAMPLES = 24


def points_on(start: Point, stops: Sequence[Point], end: Point) -> Iterator[Point]:
    """Points along the whole link. It leaves to the right and arrives from the left."""
    way = [start, *stops, end]
    turns = [_angle(*way[i : i + 3]) for i in range(len(stops))]
    for i, (a, b) in enumerate(zip(way, way[1:], strict=False)):
        length = math.dist(a, b)
        leaving = (REACH * length, 0.0) if i == 0 else _toward(turns[i - 1], min(MOST_REACH, REACH * length))
        arriving = (REACH * length, 0.0) if i == len(stops) else _toward(turns[i], min(MOST_REACH, REACH * length))
        first = (a[0] + leaving[0], a[1] + leaving[1])
        second = (b[0] - arriving[0], b[1] - arriving[1])
        for step in range(SAMPLES + 1):
            yield _bezier(a, first, second, b, step / SAMPLES)


def _angle(before: Point, stop: Point, after: Point) -> float:
    """The direction in which a link passes a reroute: between that from before and that to after."""
    come = math.atan2(stop[1] - before[1], stop[0] - before[0])
    go = math.atan2(after[1] - stop[1], after[0] - stop[0])
    half = (come - go) / 2
    if abs(half) > math.pi / 2:
        half += math.pi
    return come - half


def _toward(angle: float, reach: float) -> Point:
    return reach * math.cos(angle), reach * math.sin(angle)


def _bezier(a: Point, b: Point, c: Point, d: Point, t: float) -> Point:
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    return sum(w * p[0] for w, p in zip(weights, (a, b, c, d), strict=True)), sum(
        w * p[1] for w, p in zip(weights, (a, b, c, d), strict=True)
    )
