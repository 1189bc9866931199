"""Folders of the output folder that a user names on a node."""

import re
from pathlib import Path

import folder_paths

RESERVED = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)  # on Windows


def is_folder_name(name: str) -> bool:
    """Whether it is a plain folder name on every system."""
    return bool(re.fullmatch(r"[\w\-][\w\- ]{0,99}(?<! )", name)) and not RESERVED.fullmatch(name)


def named_folder(parent: str, widget: str, name: str, example: str) -> Path:
    """output/PARENT/NAME. Raises ValueError for a name that is no plain folder name on every system.

    widget: where it is typed; example: of a name. Both are for the message.
    """
    if not is_folder_name(name):
        raise ValueError(
            f"Set {widget} to letters, digits, spaces, '-' and '_', up to 100 of them, such as {example}; it is "
            f"{name!r:.60}."
        )
    return Path(folder_paths.get_output_directory()) / parent / name
