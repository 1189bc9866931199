"""Text files of other people's: found in folders, opened and read within bounds, and called by names, not by paths."""

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

LINE_BYTES = 4 << 20
MOST_FILES = 1_000_000
MOST_ENTRIES = 5_000_000
# What systems and programs leave beside the files of a user; names that begin with a dot are such too.
LEFT_BESIDE = {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found"}


@dataclass(frozen=True)
class TextFile:
    """A file, and what messages call it."""

    path: Path
    name: str


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFT_BESIDE


def files_under(folder: Path, suffixes: Collection[str], visit: Callable[[Path], None]) -> list[TextFile]:
    """The files in a folder and the folders in it that end in one of `suffixes` (lower case), sorted by path.

    Links are followed, each folder is looked into once, what is hidden is left out, and so is what is no regular file.
    visit: called with each folder and file before it is used; it may raise. Raises OSError for what can't be looked
    into, links that lead nowhere included, and ValueError for more than can be meant.
    """
    found: list[TextFile] = []
    entries, left, known = 0, [folder], set()
    while left:
        place = left.pop()
        visit(place)
        with reading(_name(place, folder)):
            state = place.stat()
            if (state.st_dev, state.st_ino) in known:
                continue
            known.add((state.st_dev, state.st_ino))
            with os.scandir(place) as inside:
                listed = [entry for entry in inside if not is_hidden(entry.name)]
        entries += len(listed)
        for entry in listed:
            path = Path(entry.path)
            if os.path.isdir(path):
                left.append(path)
            elif path.suffix.lower() in suffixes:
                visit(path)
                if os.path.isfile(path):
                    found.append(TextFile(path, _name(path, folder)))
                elif entry.is_symlink() and not path.exists():
                    raise FileNotFoundError(f"Mend or remove {_name(path, folder)}: it is a link that leads nowhere.")
        if len(found) > MOST_FILES or entries > MOST_ENTRIES:
            raise ValueError(f"Name a smaller folder: there are more than {len(found):,} files to read in this one.")
    return sorted(found, key=lambda file: file.path)


def _name(path: Path, folder: Path) -> str:
    """Such as prompts/more/b.txt, for a folder named prompts."""
    return (Path(folder.name) / path.relative_to(folder)).as_posix()


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """What the system says about a file or folder, in words that name it."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"Put {name} back, or name another: it is not there any more.") from error
    except OSError as error:
        if error.errno is None:  # said in words already
            raise
        raise OSError(f"Make {name} readable for ComfyUI: {error.strerror}.") from error


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. Raises OSError for what is none: a pipe would keep its reader waiting for ever."""
    _require_regular(path.stat())
    flags = getattr(os, "O_NONBLOCK", 0)  # it may have become a pipe in between
    file = open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags))  # noqa: SIM115
    try:
        _require_regular(os.fstat(file.fileno()))
    except OSError:
        file.close()
        raise
    return file


def _require_regular(state: os.stat_result) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise OSError("Name a file or a folder: a pipe, a device or a socket is none.")


def text_lines(file: TextFile) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file, with or without a byte order mark, ends included, and their numbers from 1."""
    with reading(file.name), open_regular(file.path) as content:
        number = 0
        while line := content.readline(LINE_BYTES + 1):
            number += 1
            if len(line) > LINE_BYTES:
                raise ValueError(f"Break line {number} of {file.name} up: it is longer than {LINE_BYTES >> 20} MB.")
            yield number, _decoded(line, f"line {number} of {file.name}", first=number == 1)


def whole_text(file: TextFile, most: int) -> str:
    """All of a UTF-8 file of at most `most` bytes, with or without a byte order mark."""
    with reading(file.name), open_regular(file.path) as content:
        data = content.read(most + 1)
    if len(data) > most:
        raise ValueError(f"Divide {file.name} into smaller files: it has more than {most >> 20} MB.")
    return _decoded(data, file.name, first=True)


def _decoded(data: bytes, place: str, first: bool) -> str:
    try:
        text = data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"Save the file as 'UTF-8' in a text editor: {place} is not UTF-8 text.") from None
    if "\0" in text:
        raise ValueError(f"Give a text file: {place} has zero bytes in it.")
    return text
