"""Saying how long something takes, before it begins and while it lasts."""

import threading
import time
from collections.abc import Callable
from types import TracebackType

NEWS_S = 8.0


def in_words(seconds: float) -> str:
    """'about 40 s', 'about 4 min'."""
    if seconds < 90:
        return f"about {max(5, round(seconds / 5) * 5)} s"
    return f"about {seconds / 60:.0f} min"


class Ticker:
    """`with Ticker(say, what, expected_s):` says every few seconds that it still goes on, and how long it may take."""

    def __init__(self, say: Callable[[str], None], what: str, expected_s: float | None = None) -> None:
        self._say, self._what, self._expected_s = say, what, expected_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> None:
        self._began = time.monotonic()
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _tick(self) -> None:
        while not self._done.wait(NEWS_S):
            took = time.monotonic() - self._began
            self._say(f"  {self._what}: {took:.0f} s so far{self._left(took)}")

    def _left(self, took: float) -> str:
        if self._expected_s is None:
            return ""
        left = self._expected_s - took
        return f", {in_words(left)} left" if left > 0 else ", longer than expected"
