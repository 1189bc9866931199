"""Files that are either the old one or the new one, whatever happens while they are written."""

import contextlib
import os
import platform
import re
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

DAY = 86_400.0  # seconds
# name: of the file that it was to become. Of the version before, the process alone.
TEMPORARY = re.compile(
    r"\.(?P<name>.+?)\.((?P<machine>[0-9a-f]{8})-)?(?P<process>\d+)(-[0-9a-f]{8})?\.tmp", re.ASCII | re.DOTALL
)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which takes the place of `path` when the block ends without an error."""
    with _temporary(path) as temporary:
        mode = temporary.stat().st_mode
        yield temporary
        _settle(temporary, mode)
        temporary.replace(path)


def write_new(folder: Path, names: Iterable[str], write: Callable[[Path], object]) -> Path:
    """Have `write` fill a temporary file, and give it the first of the names that is free then; → its path.

    Whoever else writes there at the same time gets another name.
    """
    with _temporary(folder / "new") as temporary:
        mode = temporary.stat().st_mode
        write(temporary)
        _settle(temporary, mode)
        for path in (folder / name for name in names):
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                temporary.replace(path)
                return path
    raise FileExistsError(f"no name is free in {folder}")


def remove_abandoned(folder: Path, of: str = ".+") -> None:
    """Delete what a killed process left half written in a folder. Only for folders nobody else writes in.

    of: a regular expression for the names of the files that were to be written.
    """
    for entry, match in _left(folder):
        if re.fullmatch(of, match["name"]):
            entry.unlink()


def remove_dead(folder: Path) -> None:
    """The same in a folder where others may be writing, on this machine or on another.

    What goes is what a process of this machine had begun that has ended, and what nobody has written to for a day.
    """
    for entry, match in _left(folder):
        with contextlib.suppress(OSError):  # another one may be tidying up as well
            changed = entry.stat().st_mtime
            is_ended = match["machine"] == _machine() and _has_ended(int(match["process"]), changed)
            if is_ended or changed < time.time() - DAY:
                entry.unlink()


def _left(folder: Path) -> Iterator[tuple[Path, re.Match]]:
    """The temporary files in a folder, by their names."""
    for entry in folder.glob(".*.tmp"):
        match = TEMPORARY.fullmatch(entry.name)
        if match and entry.is_file() and not entry.is_symlink():
            yield entry, match


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new file beside `path` that nobody else has, which is removed at the end if it is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _settle(written: Path, mode: int) -> None:
    """On the disk, and readable to those that the user lets read files: safetensors leaves it to its owner alone."""
    written.chmod(mode)
    with written.open("rb+") as file:
        os.fsync(file.fileno())


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
