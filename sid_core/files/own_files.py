"""Reading what a run has written, and nothing else that somebody has put in its place: no link, pipe or device."""

import os
import stat
from pathlib import Path
from typing import BinaryIO


def is_own_file(path: Path) -> bool:
    """Whether it is a file itself, and no link to one."""
    return _is_kind(path, stat.S_ISREG)


def is_own_folder(path: Path) -> bool:
    """Whether it is a folder itself, and no link to one."""
    return _is_kind(path, stat.S_ISDIR)


def open_own(path: Path) -> BinaryIO:
    """The file, to be read. Raises FileNotFoundError where there is none or something else has its name."""
    if not is_own_file(path):
        raise FileNotFoundError(f"there is no file {path.name}")
    return path.open("rb")


def _is_kind(path: Path, test) -> bool:
    try:
        return test(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False
