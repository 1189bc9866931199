"""The runs that the browser may look at: those in output/sid_runs, by their names, and nothing beside them."""

import os
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

import folder_paths

from ...sid_core.files.run_description import NAME
from ...sid_core.files.run_view import RunView, is_run, standing
from ..host.folder_names import is_folder_name
from ..host.under_way import state_here
from ..training.curves import TITLES

FOLDER = "sid_runs"
SPEED = {"images_per_second": "images a second"}
MOST_LISTED = 200
MOST_VIEWS = 16  # that are kept, as reading a long run from its beginning takes a moment

_views: OrderedDict[str, RunView] = OrderedDict()
_lock = Lock()  # requests come in several threads


def run_folder(name: str) -> Path | None:
    """output/sid_runs/NAME; None for what is no name of a run, or no run's folder."""
    folder = _root() / name if is_folder_name(name) else None
    return folder if folder is not None and is_run(folder) else None


def listed() -> list[dict[str, Any]]:
    """The runs there are, the one that was saved last first."""
    root = _root()
    names = filter(is_folder_name, os.listdir(root) if root.is_dir() else [])
    found = [(os.lstat(root / name / NAME).st_mtime, name) for name in names if is_run(root / name)]
    return [{"run": name} | standing(root / name) for _, name in sorted(found, reverse=True)[:MOST_LISTED]]


def seen(folder: Path, cursor: str | None) -> dict[str, Any]:
    """See RunView.since; with the titles of the curves, and whether this ComfyUI trains it."""
    with _lock:
        view = _view(folder)
        found = view.since(cursor)
    titles = {"titles": TITLES | SPEED} if found["whole"] else {}
    return {"run": folder.name, "folder": f"{FOLDER}/{folder.name}", "here": state_here(folder.name)} | found | titles


def preview(folder: Path, which: str) -> Path | None:
    """See RunView.preview."""
    return RunView(folder, ()).preview(which)


def _view(folder: Path) -> RunView:
    key = str(folder)
    view = _views.pop(key, None) or RunView(folder, TITLES | SPEED)
    _views[key] = view
    while len(_views) > MOST_VIEWS:
        _views.popitem(last=False)
    return view


def _root() -> Path:
    return Path(folder_paths.get_output_directory()) / FOLDER
