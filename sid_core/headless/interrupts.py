"""Ctrl-C and its like, noted as they come and acted on where it is safe.

Raised wherever Python happens to be, as it does by default, KeyboardInterrupt leaves event loops half made and imports
half done, and its traceback is what a user sees.
"""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")
LOOK_AGAIN_S = 0.1
# A closed terminal and a termination too, so that a started ComfyUI may save.
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
# Where this process hangs in a write to a pipe that nobody reads, only an exception gets it out.
MOST_PATIENT = 2


class Interrupts:
    """Counts them. `check` and `run` raise KeyboardInterrupt where there are more than they know of."""

    def __init__(self) -> None:
        self.count = 0

    def at_least(self, count: int) -> None:
        """So many there have been by now, whatever told of them. For another thread."""
        self.count = max(self.count, count)

    def check(self, known: int = 0) -> None:
        if self.count > known:
            raise KeyboardInterrupt

    def run(self, work: Coroutine[Any, Any, Result], known: int = 0) -> Result:
        """Run a coroutine in an event loop of its own; it is cancelled by one more interrupt than are known."""
        return asyncio.run(self._watched(work, known))

    async def _watched(self, work: Coroutine[Any, Any, Result], known: int) -> Result:
        task = asyncio.ensure_future(work)
        while not task.done() and self.count <= known:
            await asyncio.wait({task}, timeout=LOOK_AGAIN_S)
        if task.done():
            return task.result()
        # Asked once, it may miss it: libraries catch cancellations that come just as they end something.
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=LOOK_AGAIN_S)
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def noted(self) -> Iterator["Interrupts"]:
        """Within it, interrupts are counted here. One that is ignored, as under nohup, stays so."""
        numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in numbers}
        try:
            for number, handler in before.items():
                if handler in (signal.SIG_DFL, signal.default_int_handler):
                    signal.signal(number, self._note)
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > MOST_PATIENT:
            raise KeyboardInterrupt
