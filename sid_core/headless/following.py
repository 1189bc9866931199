"""Following many processes by their reports: what is said of them, when they are to end, and how it all ended."""

import time
from collections.abc import Callable
from pathlib import Path

from . import reports
from .client import INTERRUPTING
from .host import tail
from .interrupts import Interrupts
from .ranks import marked
from .reports import DIED, FAILED, RAN, STARTED, Report

# How long the others may go on once one has failed. What it failed of may be that another has died, which is seen
# within seconds; or they fail of the same.
FAILED_GRACE_S = 10.0
# How long they may save then, which those that wait for the failed one can't.
ASKED_GRACE_S = 5.0
# What processes without a launcher may take to end.
END_LIMIT_S = 90.0
LOOK_AGAIN_S = 0.1
# SiD Distill's error where another rank has told this one that it fails: it may be reported first, and says nothing.
CONSEQUENCE = "OtherRankError"


class Following:
    """What is known of the processes, by their reports in a folder. `say` is called with lines for the user.

    log: what the launcher has written, and Python where a process has ended in another way than it should.
    """

    def __init__(self, folder: Path, log: Path, count: int, restarts: int, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._log = log
        self._count = count
        self._restarts = restarts
        self._say = say
        self._reports: list[Report] = []
        self._attempt = 0
        self._asked = 0
        self._said_attempt = 0

    def look(self, interrupts: int) -> None:
        """Read what is new, say it, and ask the processes to end where that is due. interrupts: the user's."""
        self._read()
        died = self._of(DIED)
        if died and not self._asked and self._attempt < self._restarts:
            self._say_restart(_words(died), self._attempt + 1)
        elif self._attempt:
            self._say_restart(
                f"It could not say of what. The launcher's log ends so:\n{tail(self._log)}", self._attempt
            )
        if interrupts == 1 and not self._asked:
            self._say(INTERRUPTING)
        due = 0 if died else self._due()
        if due == 1 and not self._asked:
            self._say(f"ending the others, as one process has failed; they have {ASKED_GRACE_S:.0f} s to save")
        self._ask(max(interrupts, due))

    def await_end(self, interrupts: Interrupts) -> None:
        """Wait for processes whose launcher was killed, which has them end."""
        began = time.monotonic()
        while self._running() and time.monotonic() < began + END_LIMIT_S:
            self._ask(max(interrupts.count, 1))
            time.sleep(LOOK_AGAIN_S)

    def reason(self, code: int | None) -> str | None:
        """Why the run is no success, in the words of the rank that says it best; None where it is one.

        code: the launcher's exit code.
        """
        self._read()
        died, failed = self._of(DIED), self._of(FAILED)
        if died:
            times = f"{self._attempt + 1} times, at last so" if self._attempt else "as follows"
            return (
                "Mend what ended one of the processes and run it again, which goes on from the last checkpoint: "
                f"they ended {times}.\n{_words(died)}"
            )
        if failed:
            return _words(failed)
        if code == 0 and len(self._of(RAN)) == self._count:
            return None
        how = "was killed" if code is None or code < 0 else f"ended with code {code}"
        return (
            "Run it again to go on from the last checkpoint; if it ends so again, look into this log, of which this is "
            f"the end: torch's launcher {how}.\n{tail(self._log)}"
        )

    def _read(self) -> None:
        self._reports = reports.read_all(self._folder)
        self._attempt = max((report.attempt for report in self._reports), default=0)

    def _of(self, kind: str) -> list[Report]:
        """The reports of a kind in the newest attempt: what was before it has led to it."""
        return [report for report in self._reports if (report.kind, report.attempt) == (kind, self._attempt)]

    def _running(self) -> bool:
        self._read()
        ended = {report.rank for kind in reports.ENDS for report in self._of(kind)}
        return bool({report.rank for report in self._of(STARTED)} - ended)

    def _say_restart(self, why: str, attempt: int) -> None:
        """Say once that an attempt begins."""
        if attempt <= self._said_attempt:
            return
        self._said_attempt = attempt
        self._say(
            f"starting all processes again, to go on from the last checkpoint: attempt {attempt + 1} of "
            f"{self._restarts + 1}, as one process has ended.\n{why}"
        )

    def _due(self) -> int:
        """How often the processes are to be asked to end, as one has failed of what would be the same next time."""
        failed = self._of(FAILED)
        if not failed:
            return 0
        since = time.time() - failed[0].at
        return int(since > FAILED_GRACE_S) + int(since > FAILED_GRACE_S + ASKED_GRACE_S)

    def _ask(self, times: int) -> None:
        if times <= self._asked:
            return
        self._asked = times
        reports.ask_to_end(self._folder, times)


def _words(found: list[Report]) -> str:
    """What the first of them says, as the first rank's own words where it says the same."""
    first = min(found, key=lambda report: (CONSEQUENCE in report.message, report.at, report.rank))
    same = min((report for report in found if report.message == first.message), key=lambda report: report.rank)
    return marked(same.rank, same.message)
