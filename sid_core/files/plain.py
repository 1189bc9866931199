"""JSON out of files that anybody may have written or damaged: of bounded size and depth, or refused."""

import json
from pathlib import Path
from typing import Any

DEEPEST = 8  # lists and objects within each other; what is written here has three at most


def parse(text: str | bytes, longest: int) -> Any:
    """The value. longest: characters. Raises ValueError, saying why in a few words, for what is no such JSON."""
    if len(text) > longest:
        raise ValueError(f"it has {len(text):,} characters, and {longest:,} would be many")
    try:
        value = json.loads(text)
    except RecursionError:
        value = None
        nested = True
    else:
        nested = not _is_flat(value, DEEPEST)
    if nested:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    return value


def parse_file(file: Path, longest: int) -> Any:
    """The value of a whole file, of which no more than `longest` bytes are read. Raises OSError too."""
    with file.open("rb") as opened:
        return parse(opened.read(longest + 1), longest)


def is_whole(value: object, least: int, most: int) -> bool:
    """Whether it is an integer of that range, which True is not."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_count(value: object) -> bool:
    """Whether it is a number of iterations, pictures and the like that a run can have."""
    return is_whole(value, 0, 2**62)


def is_number(value: object) -> bool:
    """Whether it is a number, which True is not; NaN and the infinities are."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_flat(value: Any, depth: int) -> bool:
    if not isinstance(value, list | dict):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_is_flat(each, depth - 1) for each in inner)
