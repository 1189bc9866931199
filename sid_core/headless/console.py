"""All that the headless client says: text out that no console can break, and progress on one line or in a log."""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from ..words import printable
from .answers import Progress

BAR_WIDTH = 24
TERMINAL_INTERVAL_S = 0.1
LOG_INTERVAL_S = 5.0


class Output:
    """A stream that takes any text and never fails. What its encoding lacks is replaced.

    A pipe whose reader has gone, a full disk or a closed terminal is no reason to end a run: the first failure is told
    to `failed`, and what comes after it is dropped.
    """

    def __init__(self, stream: TextIO | None, failed: Callable[[str], None] = lambda reason: None) -> None:
        self._stream = stream
        self._failed = failed
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self.is_terminal = stream is not None and not stream.closed and stream.isatty()

    def printable(self, text: str) -> str:
        """The text as this stream can show it, of as many lines as before."""
        return "\n".join(printable(line, self._encoding) for line in text.split("\n"))

    def write(self, text: str, before: str = "", after: str = "\n") -> None:
        """Write a text, and before and after it what moves the cursor."""
        if self._stream is None:
            return
        try:
            self._stream.write(f"{before}{self.printable(text)}{after}")
            self._stream.flush()
        except (OSError, ValueError) as error:  # ValueError: it was closed
            stream, self._stream = self._stream, None
            _lead_nowhere(stream)
            self._failed(str(error))


def _lead_nowhere(stream: TextIO) -> None:
    """Let the stream's buffer have a place to go, for Python writes what is left in it when it exits."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def open_outputs() -> tuple[Output, Output]:
    """Standard output and standard error, also where they are closed: their numbers are kept from other files."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # It takes the lowest free number, which is the missing one.
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
    errors = Output(sys.stderr)

    def say(reason: str) -> None:
        errors.write(f"Look for the results in the output folder: standard output can't be written ({reason}).")

    return Output(sys.stdout, say), errors


class Console:
    """Shows progress on an output. A node's last state is always written, states in between not too often."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._interval_s = TERMINAL_INTERVAL_S if output.is_terminal else LOG_INTERVAL_S
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
        self._output.write(text)

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
        if self._output.is_terminal:
            self._output.write("")
        self._latest = self._written = None

    def _write(self, progress: Progress) -> None:
        text = self._output.printable(describe(progress))
        if self._output.is_terminal:
            # Cut to the terminal's width, for a wrapped line could not be overwritten; spaces erase the text before.
            width = shutil.get_terminal_size().columns - 1
            self._output.write(f"{text[:width]:<{width}}", before="\r", after="")
        else:
            self._output.write(text)
        self._written, self._written_at = progress, time.monotonic()


def describe(progress: Progress) -> str:
    """'node 3 (KSampler) [######------] 2/4  the node's text', on one line."""
    parts = [progress.node]
    if progress.maximum > 0:
        done = min(max(progress.value / progress.maximum, 0.0), 1.0)
        bar = ("#" * round(done * BAR_WIDTH)).ljust(BAR_WIDTH, "-")
        parts.append(f"[{bar}] {progress.value:g}/{progress.maximum:g}")
    if progress.text:
        parts.append(" ".join(progress.text.split()))
    if progress.quiet_s:
        parts.append(f"({progress.quiet_s:.0f} s without news)")
    return " ".join(parts)
