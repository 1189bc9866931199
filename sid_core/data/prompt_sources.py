"""Prompts out of files as people keep them, one at a time: text, JSON Lines, CSV, and folders of these."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

SUFFIXES = (".txt", ".jsonl", ".csv")


def source_files(place: Path) -> list[Path]:
    """The file itself, or all prompt files in a folder and the folders in it, sorted by path.

    Raises FileNotFoundError for a folder without any.
    """
    if not place.is_dir():
        return [place]
    files = sorted(file for file in place.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise FileNotFoundError(f"the folder {place} has no prompt files; expected some that end in .txt, .jsonl, .csv")
    return files


def read_prompts(file: Path, column: str) -> Iterator[str]:
    """The prompts of a file: of the named column where it ends in .jsonl or .csv, else one a line.

    Raises ValueError that names the file, the line and what to do.
    """
    readers = {".jsonl": _json_lines, ".csv": _csv}
    reader = readers.get(file.suffix.lower())
    lines = _lines(file)
    return reader(file, lines, column) if reader else text_prompts(lines)


def text_prompts(lines: Iterable[str]) -> Iterator[str]:
    """One prompt a line; blank lines and lines that begin with # are skipped."""
    for line in lines:
        for part in line.splitlines():
            prompt = part.strip()
            if prompt and not prompt.startswith("#"):
                yield prompt


def _lines(file: Path) -> Iterator[str]:
    """The lines of a UTF-8 file with or without a byte order mark, ends included."""
    with file.open("rb") as content:
        for number, line in enumerate(content, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{file} is not UTF-8 text ({error.reason} at byte {error.start} of line {number}). Save it as "
                    "'UTF-8' in a text editor."
                ) from error
            if "\0" in text:
                raise ValueError(f"{file} is not a text file (line {number} has zero bytes); expected UTF-8 text.")
            yield text


def _json_lines(file: Path, lines: Iterable[str], column: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"line {number} of {file}"
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{where} is not JSON ({error}); expected one object a line") from error
        if not isinstance(entry, dict):
            raise ValueError(f'{where} is {line.strip()[:60]}; expected an object such as {{"{column}": "red apple"}}')
        if column not in entry:
            raise ValueError(f"{where} has no {column!r}{_columns(entry)}")
        yield from _prompt(entry[column], where, column)


def _csv(file: Path, lines: Iterable[str], column: str) -> Iterator[str]:
    table = csv.DictReader(lines)
    try:
        if table.fieldnames is not None and column not in table.fieldnames:
            raise ValueError(f"{file} has no column {column!r}{_columns(table.fieldnames)}")
        for row in table:
            yield from _prompt(row[column], f"line {table.line_num} of {file}", column)
    except csv.Error as error:
        raise ValueError(f"{file} is not CSV after line {table.line_num} ({error})") from error


def _prompt(value: object, where: str, column: str) -> Iterator[str]:
    """A cell's prompt, if there is one in it: missing captions are common in data sets."""
    if value is None:
        return
    if not isinstance(value, str):
        raise ValueError(f"{column!r} in {where} is {value!r:.60}; expected a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{column!r} in {where} has half a character in it ({error.reason}): {value!r:.60}") from error
    if prompt := value.strip():
        yield prompt


def _columns(names: Iterable[str]) -> str:
    return f"; there are {', '.join(map(repr, names)) or 'none'}. Name one of them in 'column'."
