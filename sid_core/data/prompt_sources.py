"""Prompts out of files as people keep them, one at a time: text, JSON, JSON Lines, CSV, TSV, and folders of these.

What can't be read is refused by the file's name and the line. No message has anything of a file's content in it, which
may be more than whoever has asked for it may see; the names of a table's columns are left to the caller.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .records import JSON_LINES, TABLES, json_lines, json_list, table
from .text_files import TextFile, files_under, text_lines

TEXT = (".txt", ".text", ".prompt", ".prompts", ".caption", ".captions")
SUFFIXES = (*TEXT, *JSON_LINES, ".json", *TABLES)


class Prompt(NamedTuple):
    """A prompt, and where it was written, as messages say it."""

    text: str
    place: str


def source_files(place: Path, visit: Callable[[Path], None]) -> list[TextFile]:
    """The file itself, or all prompt files in a folder and the folders in it, sorted by path (see `files_under`).

    Raises ValueError for a file of another kind, and FileNotFoundError for a folder without any.
    """
    ends = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    if not place.is_dir():
        if place.suffix and place.suffix.lower() not in SUFFIXES:
            raise ValueError(
                f"Name a list of prompts instead of {place.name}: a file that ends in {ends}. One prompt a line is "
                ".txt."
            )
        return [TextFile(place, place.name)]
    if files := files_under(place, SUFFIXES, visit):
        return files
    raise FileNotFoundError(f"Put prompt files into the folder {place.name}: there are none that end in {ends}.")


def read_prompts(file: TextFile, column: str, name_columns: bool = True) -> Iterator[Prompt]:
    """The prompts of a file: of the named column in a table or in JSON, else one a line.

    name_columns: whether a message may list the columns there are. Raises ValueError that names the file and the line
    and what to do, and OSError where the system does not let it be read.
    """
    columns = Column(column, name_columns)
    suffix = file.path.suffix.lower()
    if suffix in JSON_LINES:
        yield from _json_lines(file, columns)
    elif suffix == ".json":
        yield from _json_list(file, columns)
    elif suffix in TABLES:
        yield from _table(file, columns, TABLES[suffix])
    else:
        yield from text_prompts(text_lines(file), file.name)


def text_prompts(lines: Iterable[tuple[int, str]], name: str) -> Iterator[Prompt]:
    """One prompt a line; blank lines and lines that begin with # are skipped. name: whose lines they are."""
    for number, line in lines:
        for part in line.splitlines():
            prompt = part.strip()
            if prompt and not prompt.startswith("#"):
                yield _whole(prompt, f"line {number} of {name}")


def _whole(text: str, place: str) -> Prompt:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"Write {place} again: there is half a character in it.") from None
    return Prompt(text, place)


class Column(NamedTuple):
    """The column that prompts are in, and whether messages may say which others there are."""

    name: str
    name_others: bool

    def cell(self, value: object, place: str) -> Iterator[Prompt]:
        """A cell's prompt, if there is one in it: missing captions are common in data sets."""
        if value is None:
            return
        if not isinstance(value, str):
            raise ValueError(f"Make {self.name!r:.40} in {place} a text: it is a {type(value).__name__}.")
        if prompt := value.strip():
            yield _whole(prompt, place)

    def missing(self, place: str, others: Iterable[str]) -> ValueError:
        """That a place has no such column."""
        there = f"; there are {', '.join(f'{name!r:.40}' for name in others) or 'none'}" * self.name_others
        return ValueError(f"Name in column where the prompts are: {place} has no {self.name!r:.40}{there:.500}.")


def _json_lines(file: TextFile, column: Column) -> Iterator[Prompt]:
    for place, entry in json_lines(file):
        if not isinstance(entry, dict):
            raise ValueError(f'Make {place} an object such as {{"{column.name:.40}": "red apple"}}.')
        yield from _of_object(entry, place, column)


def _json_list(file: TextFile, column: Column) -> Iterator[Prompt]:
    for place, entry in json_list(file):
        if isinstance(entry, dict):
            yield from _of_object(entry, place, column)
        elif isinstance(entry, str):
            yield from column.cell(entry, place)
        else:
            raise ValueError(f'Make {place} a text, or an object such as {{"{column.name:.40}": "red apple"}}.')


def _of_object(entry: dict, place: str, column: Column) -> Iterator[Prompt]:
    if column.name not in entry:
        raise column.missing(place, entry)
    yield from column.cell(entry[column.name], place)


def _table(file: TextFile, column: Column, delimiter: str) -> Iterator[Prompt]:
    read = table(file, delimiter)
    first, names = next(read, ("", None))
    if names is None:
        return
    if names.count(column.name) != 1:
        if column.name in names:
            raise ValueError(f"Rename columns in {first}: several are called {column.name!r:.40}.")
        raise column.missing(first, names)
    place = names.index(column.name)
    for where, row in read:
        if len(row) <= place:
            raise ValueError(f"Complete {where}: it has {len(row)} of {len(names)} cells, and no {column.name!r:.40}.")
        yield from column.cell(row[place], where)
