"""What a process is to torch's launcher besides running its graph: it ends in time, and says how it has ended."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import FAILED, INTERRUPTED, Died, HeadlessError, reports
from .console import Output
from .interrupts import Interrupts
from .ranks import Rank, marked

LOOK_AGAIN_S = 0.2
# How long a node may take to save once another rank has died. It mostly waits for that one in vain, and the launcher
# kills what is left 30 s after it has asked it to end: before that, its ComfyUI has to be gone (STOP_GRACE_S).
BEREFT_GRACE_S = 12.0


def as_rank(rank: Rank, errors: Output, interrupts: Interrupts, work: Callable[[], int]) -> int:
    """Do the work, and return the exit code that tells the launcher whether to start all ranks again.

    Started by `run --processes`, that is only where its ComfyUI has died: what it does not tell the launcher it leaves
    in a report. By the user's own torchrun, each failure is one.
    """
    with _watching(rank, interrupts):
        _report(rank, reports.STARTED)
        try:
            code = work()
        except HeadlessError as error:
            return _failed(rank, errors, error)
        except KeyboardInterrupt:
            _report(rank, reports.INTERRUPTED)
            if rank.folder:
                return 0
            if rank.is_first:
                errors.write("interrupted")
            return INTERRUPTED
        _report(rank, reports.RAN)
        return code


def _failed(rank: Rank, errors: Output, error: HeadlessError) -> int:
    has_died = isinstance(error, Died)
    if rank.folder is None:
        errors.write(marked(rank.number, f"error: {error}"))
        _tell_launcher(str(error))
        return FAILED
    _report(rank, reports.DIED if has_died else reports.FAILED, str(error))
    return FAILED if has_died else 0


def _tell_launcher(reason: str) -> None:
    """Leave the reason where the launcher looks for it, which shows it last of all, as what it calls a traceback."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        told = {"message": {"message": reason, "extraInfo": {"timestamp": str(int(time.time()))}}}
        Path(file).write_text(json.dumps(told), encoding="utf-8")


def _report(rank: Rank, kind: str, message: str = "") -> None:
    if rank.folder:
        reports.leave(rank.folder, reports.Report(rank.number, rank.attempt, kind, message))


@contextlib.contextmanager
def _watching(rank: Rank, interrupts: Interrupts) -> Iterator[None]:
    """Count as interrupts what no signal tells of: the launcher's death, and what `run --processes` asks for."""
    over = threading.Event()
    launcher = os.getppid()

    def watch() -> None:
        bereft_since = None
        while not over.wait(LOOK_AGAIN_S):
            if os.getppid() != launcher:
                interrupts.at_least(1)
            if rank.folder:
                interrupts.at_least(reports.asked_to_end(rank.folder))
                if interrupts.count and bereft_since is None and _another_died(rank):
                    bereft_since = time.monotonic()
            if bereft_since is not None and time.monotonic() > bereft_since + BEREFT_GRACE_S:
                interrupts.at_least(2)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def _another_died(rank: Rank) -> bool:
    assert rank.folder is not None
    known = reports.read_all(rank.folder)
    return any((report.kind, report.attempt) == (reports.DIED, rank.attempt) for report in known)
