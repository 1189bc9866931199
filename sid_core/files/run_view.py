"""What can be seen of a run from outside, while it trains or long after: nothing in its folder is changed."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .metric_curves import MetricCurves, thinned
from .own_files import is_own_file, is_own_folder
from .replaced import METRICS, PREVIEWS, TEACHER_PREVIEW, preview_name
from .run_description import NAME, read_description
from .run_folder import ENDED_EARLY, LOCK
from .run_lock import is_locked

PREVIEW = re.compile(r"preview_(\d{7,19})\.png", re.ASCII)
CURSOR = re.compile(r"([0-9a-f]{8})\.(\d{1,19})\.(\d{1,2})", re.ASCII)
TEACHER = "teacher"


class RunView:
    """One run's folder, of which no link is followed. names: the metrics that are of interest."""

    def __init__(self, folder: Path, names: Iterable[str]):
        self.folder = folder
        self.curves = MetricCurves(folder / METRICS, names)
        self._listed: tuple[int, list[int]] | None = None  # when the folder had changed last, and the previews in it

    def since(self, cursor: str | None) -> dict[str, Any]:
        """How the run stands, and of its curves, warnings and previews what is new since `cursor`.

        cursor: that of an earlier answer. "whole" tells that all there is comes with it: at first, and where the points
        have become others. "more" tells to ask again at once, as not all of a long run is read yet.
        """
        more = self.curves.read_on()
        curves, known = self.curves, CURSOR.fullmatch(cursor or "")
        at, warned = (int(known[2]), int(known[3])) if known else (0, 0)
        whole = known is None or known[1] != curves.generation or curves.is_wider_than_at(at)
        if whole:
            at = warned = 0
        return standing(self.folder) | {
            "whole": whole,
            "more": more,
            "cursor": f"{curves.generation}.{curves.iteration}.{len(curves.warnings)}",
            "trained": curves.iteration,
            "width": curves.width,
            "curves": curves.points(at),
            "warnings": curves.warnings[warned:],
            "previews": thinned([iteration for iteration in self._previews() if iteration >= at]),
            "teacher": self.preview(TEACHER) is not None,
        }

    def preview(self, which: str) -> Path | None:
        """The picture of an iteration or of the teacher; None where there is none."""
        folder = self.folder / PREVIEWS
        name = TEACHER_PREVIEW if which == TEACHER else preview_name(int(which))
        return folder / name if is_own_folder(folder) and is_own_file(folder / name) else None

    def _previews(self) -> list[int]:
        """The iterations that there are pictures of, the earliest first."""
        folder = self.folder / PREVIEWS
        if not is_own_folder(folder):
            return []
        changed = os.stat(folder).st_mtime_ns
        if self._listed is None or self._listed[0] != changed:
            names = (match for match in map(PREVIEW.fullmatch, os.listdir(folder)) if match)
            self._listed = changed, sorted(int(match[1]) for match in names)
        return self._listed[1]


def is_run(folder: Path) -> bool:
    """Whether a run has been there."""
    return is_own_folder(folder) and is_own_file(folder / NAME)


def standing(folder: Path) -> dict[str, Any]:
    """Whether a run trains, in this process or another, and how much of it is saved."""
    said, _ = read_description(folder)
    return {
        "running": is_own_file(folder / LOCK) and is_locked(folder / LOCK),
        "saved": said.get("iteration", 0),
        "iterations": said.get("schedule", {}).get("iterations", 0),
        "ended_early": bool(said.get(ENDED_EARLY)),
        "started": said.get("started", ""),
    }
