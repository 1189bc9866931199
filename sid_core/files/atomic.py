"""Files that are either the old one or the new one, whatever happens while they are written."""

import contextlib
import os
import platform
import re
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

DAY = 86_400.0  # seconds
TEMPORARY = re.compile(r"\.([0-9a-f]{8})-(\d+)\.tmp$")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which takes the place of `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_machine()}-{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors leaves a file readable by its owner alone
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def remove_abandoned(folder: Path) -> None:
    """Delete what `replacing` left in a folder when its process was killed. Only for folders nobody else writes in."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink()


def remove_dead(folder: Path) -> None:
    """Delete what `replacing` left in a folder where others may be writing, on this machine or on another.

    That is what a process of this machine has begun that has ended since, and what nobody has written to for a day.
    """
    for temporary in folder.glob(".*.tmp"):
        # Another one may be tidying up as well.
        with contextlib.suppress(OSError):
            changed = temporary.stat().st_mtime
            named = TEMPORARY.search(temporary.name)
            is_ended = named and named[1] == _machine() and _has_ended(int(named[2]), changed)
            if is_ended or changed < time.time() - DAY:
                temporary.unlink()


def _machine() -> str:
    """This machine or container, among those that may share a folder."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _has_ended(process: int, written: float) -> bool:
    """Whether the process that wrote then is no more, also where another one has its number now."""
    import psutil  # comes with ComfyUI, in which alone files are shared

    try:
        return psutil.Process(process).create_time() > written + 1
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
