"""A run's metrics as curves of few points, read on while the run writes them, for whoever looks on from outside."""

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .metrics_log import LARGEST, LONGEST
from .own_files import open_own
from .plain import is_count

MOST_POINTS = 512  # of a curve: as many as a panel can show
MOST_WARNINGS = 50
LONGEST_MESSAGE = 1000  # characters
BLOCK = 1 << 20  # bytes, some 3,500 iterations
BLOCKS_AT_ONCE = 4
NUMBERS = (int, float)  # which True is not


class MetricCurves:
    """The metrics `names` of a metrics.jsonl, each as the mean, least and greatest of so many iterations in a row.

    However long the run is, a curve has no more than MOST_POINTS. `width`: iterations a point; it doubles as the run
    grows, and all curves have the same. warnings: (iteration, message), the earliest. generation: another one each time
    the file is read from its beginning, as after a run was continued from an earlier checkpoint. Whatever in the file
    is no row of metrics is passed over.
    """

    def __init__(self, path: Path, names: Iterable[str]):
        self.path, self.names = path, tuple(names)
        self._begin()

    def _begin(self) -> None:
        self.generation = secrets.token_hex(4)
        self.iteration, self.width = 0, 1
        self.warnings: list[tuple[int, str]] = []
        self._file, self._offset = None, 0
        self._curves = {name: _Curve() for name in self.names}

    def read_on(self) -> bool:
        """Take in what the file has got since, from its beginning where it is another file by now; → whether there is
        more of it, as some MB take a while."""
        try:
            file = open_own(self.path)
        except OSError:  # none yet, or none any more
            self._begin()
            return False
        with file:
            status = os.fstat(file.fileno())
            if self._file != status.st_ino or status.st_size < self._offset:
                self._begin()
                self._file = status.st_ino
            for _ in range(BLOCKS_AT_ONCE):
                file.seek(self._offset)
                if not self._take_block(file.read(BLOCK)):
                    return False
        return True

    def is_wider_than_at(self, iteration: int) -> bool:
        """Whether the points that there were at that iteration have been put together since."""
        return self.width > width_of(iteration)

    def points(self, since: int = 0) -> dict[str, list[list[float]]]:
        """{name: [[first iteration, mean, least, greatest], …]}, from the point on that has iteration `since`."""
        found = {name: curve.points(since // self.width, self.width) for name, curve in self._curves.items()}
        return {name: points for name, points in found.items() if points}

    def _take_block(self, block: bytes) -> bool:
        """→ whether it had a whole line, behind which there may be more."""
        end = block.rfind(b"\n") + 1
        if not end and len(block) > LONGEST:  # no line of ours, which may never end
            end = len(block)
        self._offset += end
        rows = [row for row in _values(block[:end].split(b"\n")) if _is_row(row)]
        if rows:
            self._take(rows)
        return end > 0

    def _take(self, rows: list[dict[str, Any]]) -> None:
        self.iteration = max(self.iteration, *(row["iteration"] for row in rows))
        width = width_of(self.iteration)
        if width > self.width:
            self._curves = {name: curve.wider(width // self.width) for name, curve in self._curves.items()}
            self.width = width
        told = [(row["iteration"], row["message"][:LONGEST_MESSAGE]) for row in rows if _is_text(row.get("message"))]
        self.warnings += told[: MOST_WARNINGS - len(self.warnings)]
        index = np.array([row["iteration"] for row in rows]) // self.width
        for name, curve in self._curves.items():
            values = np.array([_number(row.get(name)) for row in rows])
            there = ~np.isnan(values)
            curve.add(index[there], values[there])


class _Curve:
    """Of so many points: how many values each has, their sum, the least and the greatest."""

    def __init__(self) -> None:
        self.count, self.total = np.zeros(MOST_POINTS, int), np.zeros(MOST_POINTS)
        self.low, self.high = np.full(MOST_POINTS, np.inf), np.full(MOST_POINTS, -np.inf)

    def add(self, index: np.ndarray, values: np.ndarray) -> None:
        self._merge(index, np.ones_like(index), values, values, values)

    def wider(self, factor: int) -> "_Curve":
        """The same with so many points as one."""
        there, curve = np.flatnonzero(self.count), _Curve()
        curve._merge(there // factor, *(each[there] for each in (self.count, self.total, self.low, self.high)))
        return curve

    def points(self, first: int, width: int) -> list[list[float]]:
        there = np.flatnonzero(self.count)
        return [
            [
                i * width,
                *(float(f"{value:.4g}") for value in (self.total[i] / self.count[i], self.low[i], self.high[i])),
            ]
            for i in there[there >= first].tolist()
        ]

    def _merge(self, index: np.ndarray, count: np.ndarray, total: np.ndarray, low: np.ndarray, high: np.ndarray):
        np.add.at(self.count, index, count)
        np.add.at(self.total, index, total)
        np.minimum.at(self.low, index, low)
        np.maximum.at(self.high, index, high)


def width_of(iteration: int) -> int:
    """How many iterations a point has once the run has so many: the least power of two that leaves few points."""
    return 1 << (iteration // MOST_POINTS).bit_length()


def thinned(values: list[int], most: int = MOST_POINTS) -> list[int]:
    """As many of them as may be, evenly, with the first and the last."""
    if len(values) <= most:
        return values
    return [values[i * (len(values) - 1) // (most - 1)] for i in range(most)]


def _values(lines: list[bytes]) -> list[Any]:
    """What is JSON of the lines. All at once, which is several times as fast, where each is."""
    try:
        return json.loads(b"[" + b",".join(filter(None, lines)) + b"]")
    except (ValueError, RecursionError):
        return [_value(line) for line in lines if len(line) <= LONGEST]


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # torn, or zeros after a power failure
        return None


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and is_count(value.get("iteration"))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> float:
    """NaN for what is none that a metric can have."""
    return value if type(value) in NUMBERS and -LARGEST < value < LARGEST else float("nan")
