"""Progress on a console: one line that changes on a terminal, now and then a new line in a log."""

import shutil
import time
from types import TracebackType
from typing import TextIO

from .client import Progress

BAR_WIDTH = 24
TERMINAL_INTERVAL_S = 0.1
LOG_INTERVAL_S = 5.0


class Console:
    """Writes to a text stream. A node's last state is always written, states in between not too often."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._interval_s = TERMINAL_INTERVAL_S if self._is_terminal else LOG_INTERVAL_S
        self._latest: Progress | None = None
        self._written: Progress | None = None
        self._written_at = 0.0

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._finish_node()

    def line(self, text: str) -> None:
        """Write a line of its own, below the progress so far."""
        self._finish_node()
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def show(self, progress: Progress) -> None:
        """Show a node's progress: another node's at once, the same one's when it is due."""
        is_new = self._latest is None or self._latest.node != progress.node
        if is_new:
            self._finish_node()
        self._latest = progress
        if is_new or time.monotonic() - self._written_at >= self._interval_s:
            self._write(progress)

    def _finish_node(self) -> None:
        if self._latest is None:
            return
        if self._latest != self._written:
            self._write(self._latest)
        if self._is_terminal:
            self._stream.write("\n")
            self._stream.flush()
        self._latest = self._written = None

    def _write(self, progress: Progress) -> None:
        text = describe(progress)
        if self._is_terminal:
            # Cut to the terminal's width, for a wrapped line could not be overwritten; spaces erase the text before.
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r{text[:width]:<{width}}")
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()
        self._written, self._written_at = progress, time.monotonic()


def describe(progress: Progress) -> str:
    """'node 3 (KSampler) [######------] 2/4  the node's text', on one line."""
    parts = [progress.node]
    if progress.maximum > 0:
        done = min(progress.value / progress.maximum, 1.0)
        bar = ("#" * round(done * BAR_WIDTH)).ljust(BAR_WIDTH, "-")
        parts.append(f"[{bar}] {progress.value:g}/{progress.maximum:g}")
    if progress.text:
        parts.append(" ".join(progress.text.split()))
    return " ".join(parts)
