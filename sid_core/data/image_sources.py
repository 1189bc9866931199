"""Where text-image pairs lie: folders of pictures with texts beside them, and tables of paths and captions."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .pictures import SUFFIXES, UnusablePictureError
from .records import JSON_LINES, TABLES, json_lines, json_list, table
from .text_files import TextFile, files_under, open_regular, whole_text

LISTS = (*JSON_LINES, ".json", *TABLES)
METADATA = "metadata"  # how Hugging Face's image folders call their list of captions
PATH_COLUMNS = ("file_name", "filename", "file", "image_path", "image_file", "image", "img_path", "path")
CAPTION_BYTES = 1 << 20
IMAGE_BYTES = 1 << 28
BESIDE, LISTED = "a .txt beside them", "a list"  # where captions come from
Visit = Callable[[Path], None]


class Entry(NamedTuple):
    """A picture that was found. caption: what is said of it outside of its own file, and origin: where; empty: nothing.

    problem: why it can't be used; empty: nothing is known.
    """

    file: TextFile
    caption: str = ""
    origin: str = ""
    problem: str = ""


class NotListedError(ValueError):
    """A list lacks the columns of pictures and captions. Its text is for users."""


def entries(place: Path, column: str, visit: Visit, name_columns: bool) -> Iterator[Entry]:
    """The pictures of a folder and the folders in it, or those that a list names.

    column: where a list has its captions. visit: called with each file and folder before it is used; it may raise.
    name_columns: whether a message may list the columns there are. Raises ValueError, FileNotFoundError and OSError
    that say what to do.
    """
    if place.is_dir():
        yield from _of_folder(place, column, visit)
    elif place.suffix.lower() in LISTS:
        visit(place)
        yield from _of_list(TextFile(place, place.name), column, visit, name_columns)
    else:
        raise ValueError(
            f"Name a folder of pictures instead of {place.name}, or a list of them: a file that ends in "
            f"{', '.join(LISTS[:-1])} or {LISTS[-1]}."
        )


def read_image(file: TextFile) -> bytes:
    """All of an image file. Raises UnusablePictureError, also for a file that has gone."""
    try:
        with open_regular(file.path) as content:
            data = content.read(IMAGE_BYTES + 1)
    except OSError as error:
        raise UnusablePictureError(f"it can't be read ({error.strerror or 'it is no file'})") from None
    if len(data) > IMAGE_BYTES:
        raise UnusablePictureError(f"its file has more than {IMAGE_BYTES >> 20} MB")
    return data


def _of_folder(folder: Path, column: str, visit: Visit) -> Iterator[Entry]:
    listed: dict[str, list[str]] = {}
    for file in files_under(folder, LISTS, visit):
        if file.path.stem.lower() == METADATA:
            try:
                found = list(_of_list(file, column, visit, name_columns=False))
            except NotListedError:
                continue  # it is of something else
            for entry in found:
                if entry.caption and not entry.problem:
                    listed.setdefault(os.path.realpath(entry.file.path), []).append(entry.caption)
    images = files_under(folder, SUFFIXES, visit)
    if not images:
        raise FileNotFoundError(
            f"Put pictures into the folder {folder.name}: there are none that end in {', '.join(SUFFIXES)}."
        )
    for file in images:
        entry = _with_text_beside(file, visit)
        captions = listed.get(os.path.realpath(file.path))
        if captions and not (entry.caption or entry.problem):
            yield from (Entry(file, caption, LISTED) for caption in captions)
        else:
            yield entry


def _with_text_beside(file: TextFile, visit: Visit) -> Entry:
    beside = file.path.with_suffix(".txt")
    if not os.path.exists(beside):
        return Entry(file)
    visit(beside)
    try:
        caption = whole_text(TextFile(beside, beside.name), CAPTION_BYTES).strip()
    except ValueError:
        return Entry(file, problem=f"its .txt is not UTF-8 text of up to {CAPTION_BYTES >> 20} MB")
    except OSError:
        return Entry(file, problem="its .txt can't be read")
    return Entry(file, caption, BESIDE if caption else "")


def _of_list(file: TextFile, column: str, visit: Visit, name_columns: bool) -> Iterator[Entry]:
    """They are called by their lines: a cell's text may be more than whoever has asked for it may see."""
    folder = file.path.parent
    for place, name, caption in _cells(file, column, name_columns):
        path = _within(folder, name) if isinstance(name, str) and name.strip() else None
        image = TextFile(path or folder, place)
        if path is None:
            yield Entry(image, problem="its path is missing, or leads out of the list's folder")
        elif not isinstance(caption, str | None):
            yield Entry(image, problem="its caption is no text")
        else:
            visit(path)
            missing = "" if os.path.isfile(path) else "it is not there"
            yield Entry(image, (caption or "").strip(), LISTED if (caption or "").strip() else "", missing)


def _within(folder: Path, name: str) -> Path | None:
    """The path of what a list names, if it lies in the list's folder, its links followed."""
    names = (name.strip(), name.strip().replace("\\", "/"))
    try:
        places = [Path(os.path.normpath(folder / given)) for given in names]
        # First by its letters alone: on Windows, to look at a path on another machine is to log in there.
        inside = [place for place in places if place.is_relative_to(folder)]
        place = next(filter(os.path.exists, inside), inside[0] if inside else None)
        real = os.path.realpath(folder)
        return place if place and Path(os.path.realpath(place)).is_relative_to(real) else None
    except ValueError:  # zero bytes and half characters
        return None


def _cells(file: TextFile, column: str, name_columns: bool) -> Iterator[tuple[str, object, object]]:
    """(place, path, caption) of each record."""
    suffix = file.path.suffix.lower()
    if suffix in TABLES:
        rows = table(file, TABLES[suffix])
        first, names = next(rows, (f"line 1 of {file.name}", []))
        paths = _path_column(names, first, name_columns)
        if names.count(column) != 1:
            raise _not_listed("column", f"{column!r:.40}", first, names, name_columns)
        for place, row in rows:
            record = dict(zip(names, row, strict=False))
            yield place, record.get(paths), record.get(column)
        return
    for place, record in json_lines(file) if suffix in JSON_LINES else json_list(file):
        if not isinstance(record, dict):
            raise ValueError(f'Make {place} an object such as {{"file_name": "a.png", "{column:.40}": "red apple"}}.')
        yield place, record[_path_column(record, place, name_columns)], record.get(column)


def _path_column(names: object, place: str, name_columns: bool) -> str:
    found = next((name for known in PATH_COLUMNS for name in names if name.lower() == known), None)
    if found is None:
        raise _not_listed("pictures", PATH_COLUMNS[0], place, names, name_columns)
    return found


def _not_listed(what: str, wanted: str, place: str, names: object, name_columns: bool) -> NotListedError:
    there = f"; there are {', '.join(f'{name!r:.40}' for name in names) or 'none'}" * name_columns
    if what == "column":
        return NotListedError(
            f"Name in column where the captions are: {place} has no {wanted}, or several{there:.500}."
        )
    return NotListedError(
        f"Call the column of the pictures' paths {wanted}: {place} has none of {', '.join(PATH_COLUMNS)}{there:.500}."
    )
