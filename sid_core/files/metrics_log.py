"""metrics.jsonl: what each iteration did, one JSON object a line, in step with the checkpoints."""

import errno
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .atomic import replacing

Row = dict[str, Any]


class MetricsLog:
    """Rows with an "iteration" each, appended as they come. A line that a crash has torn is passed over."""

    def __init__(self, path: Path):
        self.path = path
        self._file: BinaryIO | None = None

    def append(self, row: Row) -> None:
        """Write one row through to the system. Raises OSError when the disk is full."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a row that could not be written must not come back when the file is closed.
            self._file = self.path.open("ab", buffering=0)
        line = json.dumps({key: _plain(value) for key, value in row.items()}).encode() + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OSError(f"could not write {self.path}: {error}. Free some space and queue again.") from error

    def rows(self) -> Iterator[Row]:
        """What can be read of the file, in its order; nothing where there is none."""
        if self.path.exists():
            with self.path.open("rb") as file:
                yield from filter(None, map(_row, file))

    def rewind(self, iteration: int) -> None:
        """Drop what came after `iteration`, which a continued run does once more, and any torn line."""
        self.close()
        if self.path.exists():
            with replacing(self.path) as temporary, temporary.open("wb") as kept:
                for row in self.rows():
                    if row["iteration"] <= iteration:
                        kept.write(json.dumps(row).encode() + b"\n")

    def close(self) -> None:
        """Until the next `append`."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:  # torn, or zeros after a power failure
        return None
    return row if line.endswith(b"\n") and isinstance(row, dict) and isinstance(row.get("iteration"), int) else None


def _plain(value: Any) -> Any:
    """JSON has no NaN, and most readers refuse Python's."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
