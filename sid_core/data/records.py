"""Records out of JSON, JSON Lines, CSV and TSV files, each with where it was written, as messages say it.

What can't be read is refused by the file's name and the line, and no message has anything of a file's content in it.
"""

import json
from collections.abc import Callable, Iterator

from .tables import rows
from .text_files import TextFile, text_lines, whole_text

TABLES = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
JSON_BYTES = 64 << 20  # a JSON file is read at once


class _RepeatedKeyError(ValueError):
    """An object has two values under one name."""


def json_lines(file: TextFile) -> Iterator[tuple[str, object]]:
    """(place, value) for each line that is not blank."""
    for number, line in text_lines(file):
        place = f"line {number} of {file.name}"
        if line.strip():
            yield place, _parsed(line, lambda error, place=place: f"{place}, character {error.colno}")


def json_list(file: TextFile) -> Iterator[tuple[str, object]]:
    """(place, value) for each entry of a file that is one list."""
    entries = _parsed(whole_text(file, JSON_BYTES), lambda error: f"line {error.lineno} of {file.name}")
    if not isinstance(entries, list):
        raise ValueError(f"Make {file.name} a list, of texts or of objects with one: it is another kind of JSON file.")
    yield from ((f"entry {number} of {file.name}", entry) for number, entry in enumerate(entries, 1))


def table(file: TextFile, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """(place, cells) for each row: the columns' names first, then rows of at most as many cells. Nothing: no rows."""
    read = rows(file, delimiter)
    _, head = next(read, (0, None))
    if head is None:
        return
    names = [name.strip() for name in head]
    yield f"line 1 of {file.name}", names
    for number, row in read:
        where = f"line {number} of {file.name}"
        if len(row) > len(names):
            raise ValueError(
                f"Put quotes around the cells of {where} that have a {'tab' if delimiter == chr(9) else 'comma'} in "
                f"them: it has {len(row)} cells, and there are {len(names)} columns."
            )
        yield where, row


def _parsed(text: str, place: Callable[[json.JSONDecodeError], str]) -> object:
    """JSON. place: of an error, in words. Nothing of the parser's own error is kept: it has the text in it."""
    try:
        return json.loads(text, object_pairs_hook=_once_each)
    except json.JSONDecodeError as error:
        where = f"{place(error)} ({error.msg})"
    except _RepeatedKeyError:
        where = f"{place(json.JSONDecodeError('', text, 0))} (an object has two values of one name)"
    except (ValueError, RecursionError):  # numbers of thousands of digits, lists within lists without end
        where = f"{place(json.JSONDecodeError('', text, 0))} (more than can be read)"
    raise ValueError(f"Mend the JSON in {where}.")


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        raise _RepeatedKeyError
    return entry
