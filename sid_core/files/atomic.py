"""Files that are either the old one or the new one, whatever happens while they are written."""

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

TEMPORARY = re.compile(r"\.(?P<name>.+)\.\d+(-[0-9a-f]+)?\.tmp")  # name: of the file that it was to become


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
    """Delete what `replacing` left in a folder when its process was killed. Only for folders nobody else writes in.

    of: a regular expression for the names of the files that were to be written.
    """
    for entry in folder.glob(".*.tmp"):
        match = TEMPORARY.fullmatch(entry.name)
        if match and re.fullmatch(of, match["name"]) and entry.is_file() and not entry.is_symlink():
            entry.unlink()


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new file beside `path` that nobody else has, which is removed at the end if it is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
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
