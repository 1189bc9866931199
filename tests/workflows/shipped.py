"""The workflow files that come with the pack, each by its API file's name; TITLES has what the browser calls them."""

import json
from pathlib import Path
from typing import Any

from sid_pack.dev.workflows.titles import TITLES

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
NAMES = sorted(TITLES, key=TITLES.get)


def ui_workflow(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{TITLES[name]}.json").read_text(encoding="utf-8"))


def api_graph(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
