"""What the processes of `run --processes` and the one that started them tell each other: small files in one folder.

Each process leaves a report when it starts and one when it ends. The other way there is one word: to end, said once,
as Ctrl-C is for "interrupt and save", or twice, for "now".
"""

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

STARTED = "started"
# How a process ends. DIED: its ComfyUI was lost, and another start may go better; FAILED: it would be the same again.
RAN, FAILED, DIED, INTERRUPTED = "ran", "failed", "died", "interrupted"
ENDS = (RAN, FAILED, DIED, INTERRUPTED)
ASKED = "asked to end"


@dataclass(frozen=True)
class Report:
    """How it stands with one rank in one attempt, and since when (seconds since 1970)."""

    rank: int
    attempt: int
    kind: str
    message: str = ""
    at: float = 0.0


def leave(folder: Path, report: Report) -> None:
    """Write a report. Nobody is left to read it where the folder has gone."""
    report = Report(**(asdict(report) | {"at": time.time()}))
    _write(folder / f"{report.attempt}-{report.rank}-{report.kind}.json", json.dumps(asdict(report)))


def read_all(folder: Path) -> list[Report]:
    """All reports, the oldest first."""
    found = []
    for file in folder.glob("*.json"):
        with contextlib.suppress(FileNotFoundError):  # the folder is being removed
            found.append(Report(**json.loads(file.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda report: (report.at, report.rank))


def ask_to_end(folder: Path, times: int) -> None:
    """Ask all processes to end, also those that will start later."""
    _write(folder / ASKED, str(times))


def asked_to_end(folder: Path) -> int:
    """How often that was asked. A folder that is gone asks as well: what made it has ended."""
    try:
        return int((folder / ASKED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return 0 if folder.is_dir() else 1


def _write(file: Path, text: str) -> None:
    """Whole or not at all."""
    with contextlib.suppress(FileNotFoundError):
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(file)
