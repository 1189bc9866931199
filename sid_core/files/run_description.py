"""run.json: what a run is and how far it has come, for people to read. No run needs it to go on."""

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .atomic import replacing
from .checkpoint import Changes
from .plain import is_count, parse

NAME = "run.json"
LONGEST = 10_000_000  # characters
CHANGE = {"iteration", "setting", "then", "now"}


def _is_history(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) and each.keys() == CHANGE for each in value)


def _is_schedule(value: object) -> bool:
    return isinstance(value, dict) and all(map(is_count, value.values()))


# What is read of the file again, and how it has to be.
READ: dict[str, Callable[[object], bool]] = {
    "started": lambda value: isinstance(value, str) and len(value) < 100,
    "started_over": lambda value: isinstance(value, bool),
    "ended_early": lambda value: isinstance(value, bool),
    "settings": lambda value: isinstance(value, dict),
    "identity": lambda value: isinstance(value, dict),
    "schedule": _is_schedule,
    "iteration": is_count,
    "changes": _is_history,
}


def read_description(folder: Path) -> tuple[dict[str, Any], str | None]:
    """What run.json says, without what can't be used of it; and what that is, to be told."""
    path = folder / NAME
    if not path.exists():
        return {}, None
    try:
        if not path.is_file() or path.stat().st_size > LONGEST:
            raise ValueError("it is no file of a few thousand characters")
        found = parse(path.read_bytes(), LONGEST)
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        return {}, f"{NAME} is not used: {error!s:.200}"
    odd = [name for name, is_usable in READ.items() if name in found and not is_usable(found[name])]
    said = f"{', '.join(odd)} of {NAME} can't be used, and are passed over" if odd else None
    return {name: value for name, value in found.items() if name not in odd}, said


def write_description(folder: Path, description: dict[str, Any], counters: dict[str, Any]) -> None:
    """counters: at least iteration and images."""
    path = folder / NAME
    progress = {"updated": now(), "iteration": counters["iteration"], "images": counters["images"]}
    if path.exists() and not path.is_file():
        path.rename(path.with_name(f"{NAME}.broken"))
    with replacing(path) as temporary:
        text = json.dumps(description | progress, indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8", errors="replace")  # half characters of another


def extended(before: dict[str, Any], description: dict[str, Any], changes: Changes, iteration: int) -> dict[str, Any]:
    """A description of a run that goes on: with when it began, and all that was ever changed in it."""
    history = before.get("changes", []) + [
        {"iteration": iteration, "setting": name, "then": then, "now": value}
        for name, (then, value) in sorted(changes.items())
    ]
    return {"started": before.get("started", now()), **description, "changes": history}


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
