"""The workflow files that come with the pack: each by what the template browser calls it, and by its API file's name."""

import json
from pathlib import Path
from typing import Any

from sid_pack.dev.workflows.titles import TITLES

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
NAMES = sorted(TITLES, key=TITLES.get)


def title_of(name: str) -> str:
    return TITLES[name]


def ui_workflow(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{TITLES[name]}.json").read_text(encoding="utf-8"))


def api_graph(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
