"""metrics.jsonl: what each iteration did, one JSON object a line, in step with the checkpoints."""

import errno
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..words import log
from .atomic import replacing
from .plain import is_count, is_number, parse

Row = dict[str, Any]

LONGEST = 10_000  # bytes of a line
LARGEST = 1e39  # a little more than float32 has
TEXTS = ("warning", "message")  # all other values are numbers, or None for one that was not finite


class MetricsLog:
    """Rows with an "iteration" each, appended as they come. A line that is no such row, as a torn one, is passed over.

    No run needs its metrics to go on, so that nothing that is found in the file is an error.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: BinaryIO | None = None

    def append(self, row: Row) -> None:
        """Write one row through to the system. Raises OSError when the disk is full."""
        line = json.dumps({key: _plain(value) for key, value in row.items()}).encode() + b"\n"
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # Unbuffered: a row that could not be written must not come back when the file is closed.
                self._file = self.path.open("ab", buffering=0)
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OSError(
                f"Free some space and queue again: {self.path.name} could not be written in {self.path.parent} "
                f"({error.strerror or error})."
            ) from error

    def rows(self) -> Iterator[Row]:
        """What can be read of the file, in its order; nothing where there is none."""
        yield from (row for row in self._lines() if row is not None)

    def rewind(self, iteration: int) -> None:
        """Drop what came after `iteration`, which a continued run does once more, and whatever is no row."""
        self.close()
        if self.path.exists() and not self.path.is_file():
            self.path.rename(self.path.with_name(f"{self.path.name}.broken"))
            log.warning("%s was no file, and has got .broken behind its name", self.path.name)
        if not self.path.exists():
            return
        odd = 0
        with replacing(self.path) as temporary, temporary.open("wb") as kept:
            for row in self._lines():
                odd += row is None
                if row is not None and row["iteration"] <= iteration:
                    kept.write(json.dumps(row).encode() + b"\n")
        if odd:
            log.warning("%d of the lines of %s could not be read as metrics, and are left out", odd, self.path.name)

    def close(self) -> None:
        """Until the next `append`."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _lines(self) -> Iterator[Row | None]:
        if self.path.is_file():
            with self.path.open("rb") as file:
                # By pieces, for what is no text may be one line of any length.
                yield from map(_row, iter(lambda: file.readline(LONGEST), b""))


def _row(line: bytes) -> Row | None:
    try:
        row = parse(line, LONGEST)
    except ValueError:  # torn, or zeros after a power failure
        return None
    is_row = line.endswith(b"\n") and isinstance(row, dict) and is_count(row.get("iteration"))
    return row if is_row and all(_is_metric(*each) for each in row.items()) else None


def _is_metric(name: str, value: object) -> bool:
    if name in TEXTS:
        return isinstance(value, str)
    return value is None or (is_number(value) and -LARGEST < value < LARGEST)  # which NaN is not


def _plain(value: Any) -> Any:
    """JSON has no NaN, and most readers refuse Python's."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
