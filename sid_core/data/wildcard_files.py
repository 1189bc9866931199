"""What __name__ stands for: the lines of name.txt, and the lists in YAML and JSON files, read within bounds."""

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from .text_files import TextFile, files_under, reading, text_lines, whole_text

TREES = (".yaml", ".yml", ".json")
SUFFIXES = (".txt", *TREES)
TREE_BYTES = 4 << 20
MOST_VALUES = 200_000  # of a YAML or JSON file: read, they take a hundred times the room that they take on the disk
LINES_BYTES = 64 << 20
HEAVIEST = 1000.0
WEIGHT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)::((?:(?!::).)+)", re.DOTALL)
REFERS, MANY = "an * that refers to another value", f"more than {MOST_VALUES:,} values"
NOTHING = ("", "~", "null", "Null", "NULL")


class Line(NamedTuple):
    """One of the texts that a wildcard stands for: how often it is drawn compared with others, where it is written."""

    text: str
    weight: float
    place: str


class Leaf(NamedTuple):
    """A value of a YAML or JSON file that is no list and no mapping. text: None where it says that there is none."""

    text: str | None
    place: str


class Branch(NamedTuple):
    """A mapping in such a file."""

    pairs: list[tuple[str, object]]
    place: str


Source = Callable[[], list[Line]]


def wildcards_in(folder: Path, visit: Callable[[Path], None], check: Callable[[], None]) -> dict[str, Source]:
    """What reads each of the names that there are: a text file's is its path without the ending, such as things/fruit.

    Text files are read when they are called for, the others at once, as the names are in them. visit: see
    `files_under`. check: called for each value of a YAML file; it may raise. Raises ValueError naming file and line.
    """
    sources: dict[str, Source] = {}
    files: dict[str, str] = {}
    for file in files_under(folder, SUFFIXES, visit):
        for name, source in _names(file, folder, check):
            if name in sources:
                raise ValueError(f"Rename {file.name} or {files[name]}, or what is in them: both have {name!r:.80}.")
            sources[name], files[name] = source, file.name
    return sources


def _names(file: TextFile, folder: Path, check: Callable[[], None]) -> Iterator[tuple[str, Source]]:
    path = file.path.relative_to(folder)
    if file.path.suffix.lower() not in TREES:
        yield path.with_suffix("").as_posix(), lambda: _text_lines(file)
        return
    text = whole_text(file, TREE_BYTES)
    is_json = file.path.suffix.lower() == ".json"
    tree = _json(file, text) if is_json else _yaml(file, text, check)
    if isinstance(tree, list):
        lines = _entries(tree)
        yield path.with_suffix("").as_posix(), lambda: lines
    elif isinstance(tree, Branch):
        for name, lines in _lists(tree, path.parent.as_posix().removeprefix(".")):
            yield name, lambda lines=lines: lines
    elif tree is not None and tree.text is not None:
        raise ValueError(f"Make {file.name} a list of texts, or lists with names: it is a single value.")


def _text_lines(file: TextFile) -> list[Line]:
    with reading(file.name):
        if file.path.stat().st_size > LINES_BYTES:
            raise ValueError(f"Divide {file.name} into smaller files: it has more than {LINES_BYTES >> 20} MB.")
    stripped = ((number, line.strip()) for number, line in text_lines(file))
    return [
        Line(text, 1.0, f"line {number} of {file.name}")
        for number, text in stripped
        if text and not text.startswith("#")
    ]


def _lists(branch: Branch, above: str) -> Iterator[tuple[str, list[Line]]]:
    """The lists under a mapping, by their names joined with those of the mappings that they are in."""
    for key, value in branch.pairs:
        name = f"{above}/{key}".lstrip("/")
        if isinstance(value, Branch):
            yield from _lists(value, name)
        else:
            yield name, _entries(value if isinstance(value, list) else [value])


def _entries(values: list) -> list[Line]:
    return [line for line in map(_entry, values) if line.text]


def _entry(value: object) -> Line:
    if isinstance(value, Leaf):
        weighted = WEIGHT.fullmatch(value.text or "")
        text, weight = (weighted[2], weighted[1]) if weighted else (value.text, "1")
        return Line((text or "").strip(), _weight(weight, value.place), value.place)
    if isinstance(value, Branch):
        parts = {key: part.text for key, part in value.pairs if isinstance(part, Leaf)}
        text = parts.get("text") or parts.get("content")
        if len(parts) == len(value.pairs) and text and parts.keys() <= {"text", "content", "weight"}:
            return Line(text.strip(), _weight(parts.get("weight") or "1", value.place), value.place)
        raise ValueError(f"Make {value.place} a text, or a mapping with text and weight alone.")
    raise ValueError(f"Write the list in {value[0].place if value else 'a wildcard file'} without lists in it.")


def _weight(text: str, place: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight <= HEAVIEST:
        raise ValueError(f"Set the weight in {place} to a number from 0 to {HEAVIEST:,.0f}.")
    return weight


def _json(file: TextFile, text: str) -> object:
    place = file.name

    def leaf(value: object) -> object:
        if not isinstance(value, list):
            return _leaf(value, place)
        if len(value) > MOST_VALUES:
            raise ValueError
        return [leaf(part) for part in value]

    def branch(pairs: list[tuple[str, object]]) -> Branch:
        if len(dict(pairs)) < len(pairs):
            raise ValueError
        return Branch([(key, leaf(value)) for key, value in pairs], place)

    try:
        return leaf(json.loads(text, object_pairs_hook=branch, parse_int=str, parse_float=str, parse_constant=str))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} of {place} ({error.msg})"
    except (ValueError, RecursionError):
        where = f"{place}: it has true or false in it, two values of one name, or nests or lists too much"
    raise ValueError(f"Mend the JSON in {where}.")


def _leaf(value: object, place: str) -> object:
    if isinstance(value, Branch):
        return value
    if isinstance(value, bool):
        raise ValueError
    return Leaf(value, place)


class _Loader(yaml.BaseLoader):
    """Every value as the text that is written, and none of them twice: of references a few lines make gigabytes."""

    def __init__(self, text: str, check: Callable[[], None]):
        super().__init__(text)
        self.check, self.values = check, 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        self.check()
        self.values += 1
        if self.values > MOST_VALUES:
            raise yaml.MarkedYAMLError(problem=MANY, problem_mark=self.peek_event().start_mark)
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=REFERS, problem_mark=mark)
        return super().compose_node(parent, index)


def _yaml(file: TextFile, text: str, check: Callable[[], None]) -> object:
    loader = None
    try:
        loader = _Loader(text, check)
        node = loader.get_single_node()
        return node and _grown(node, file.name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1} of {file.name}" if mark else file.name
        reason = f" ({error.problem})" if error.problem in (REFERS, MANY) else ""
    except (yaml.YAMLError, RecursionError, ValueError):
        where, reason = file.name, ""
    finally:
        if loader:
            loader.dispose()
    raise ValueError(f"Mend the YAML in {where}{reason}.")


def _grown(node: yaml.Node, file: str) -> object:
    place = f"line {node.start_mark.line + 1} of {file}"
    if isinstance(node, yaml.SequenceNode):
        return [_grown(part, file) for part in node.value]
    if isinstance(node, yaml.ScalarNode):
        is_nothing = node.style is None and node.value in NOTHING
        return Leaf(None if is_nothing else node.value, place)
    keys = [key.value for key, _ in node.value]
    if not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value) or len(set(keys)) < len(keys):
        raise yaml.MarkedYAMLError(problem="a key that is a list, or there twice", problem_mark=node.start_mark)
    return Branch([(key.value, _grown(value, file)) for key, value in node.value], place)
