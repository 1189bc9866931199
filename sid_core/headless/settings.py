"""`--set NODE.INPUT=VALUE`: which input it means, by the graph alone, and the value, by the type the server states."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import HeadlessError
from .graph import Graph, given_title, is_link, title

YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
# A file by the folder it lies in, which nodes take though it is not in their list.
ANNOTATED = re.compile(r".+ \[(input|output|temp)\]")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
SHOWN_CHOICES = 12
Definition = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """A setting whose node is known. Its input may not be in the file, as optional ones need not be.

    candidates: (node id, input name), the likeliest first. Titles and input names may hold dots.
    """

    target: str
    text: str
    candidates: tuple[tuple[str, str], ...]

    def classes(self, graph: Graph) -> set[str]:
        """The classes whose definitions `apply` needs."""
        return {graph[node_id]["class_type"] for node_id, _ in self.candidates}

    def apply(self, graph: Graph, definitions: dict[str, Definition]) -> None:
        """Set the input in place. definitions: of each class, as GET /object_info/CLASS has it."""
        for node_id, name in self.candidates:
            node = graph[node_id]
            spec = _inputs(definitions[node["class_type"]]).get(name)
            if spec is not None or name in node["inputs"]:
                node["inputs"][name] = self._value(spec, node["inputs"].get(name), graph)
                return
        node_id, name = self.candidates[0]
        node = graph[node_id]
        there = _cut(list(_inputs(definitions[node["class_type"]]) or node["inputs"]) or ["none"])
        raise HeadlessError(f"Name an input of {title(graph, node_id)} in --set {self.target}: it has {there}.")

    def _value(self, spec: Any, old: Any, graph: Graph) -> Any:
        """The text as a value of the input's type. spec: what the server says of it; old: what the file holds."""
        kind, options = _stated(spec)
        if _is_link_to(self.text, graph):
            raise HeadlessError(f"Change links in the editor or in the file: --set {self.target} can only set values.")
        if options is not None:
            return self._choice(options)
        # STRING last, as it takes everything. An input of another type, such as a colour, or one that comes and goes
        # with another's value, is of the kind that the file holds.
        parts = sorted(kind.split(","), key="STRING".__eq__)
        readers = [READERS[part] for part in parts if part in READERS] or _readers_like(old)
        if not readers:
            raise HeadlessError(
                f"Change it in the editor or in the file: --set {self.target} can't, as it takes {kind or 'a link'}."
            )
        reasons = []
        for read in readers:
            try:
                return read(self.text)
            except ValueError as error:
                reasons.append(str(error))
        raise HeadlessError(f"Give --set {self.target} {' or '.join(reasons)}: it is {self.text!r:.200}.")

    def _choice(self, options: list[Any]) -> Any:
        for option in options:
            if str(option) == self.text:
                return option
        if ANNOTATED.fullmatch(self.text):
            return self.text
        choices = _cut([repr(option) for option in options])
        raise HeadlessError(f"Give --set {self.target} one of {choices}: it is {self.text!r:.200}.")


def find_setting(graph: Graph, setting: str) -> Setting:
    """The setting 'NODE.INPUT=VALUE'; NODE is an id, a title or a class_type that only one node has."""
    target, equals, text = setting.partition("=")
    if not equals or "." not in target:
        raise HeadlessError(f"Write --set NODE.INPUT=VALUE: it is {setting!r}.")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise HeadlessError(f"Write the value of --set {target} in UTF-8: it can't be read as text.")
    parts = target.split(".")
    splits = [(".".join(parts[:i]), ".".join(parts[i:])) for i in range(1, len(parts))]
    named = [(node_id, name) for node, name in splits for node_id in _find(graph, node)]
    if not named:
        known = "\n  ".join(title(graph, node_id) for node_id in graph)
        raise HeadlessError(f"Name a node of the graph in --set {target}. It has:\n  {known}")
    exact = [(node_id, name) for node_id, name in named if name in graph[node_id]["inputs"]]
    found = exact or named
    # Names that differ by which dot was meant are told apart by the inputs that the classes have.
    if len({node_id for node_id, _ in found}) > 1 and (exact or len({name for _, name in found}) == 1):
        ids = ", ".join(node_id for node_id, _ in found)
        raise HeadlessError(f"Name the node in --set {target} by one of the ids {ids}: several answer to that name.")
    return Setting(target, text, tuple(found))


def _find(graph: Graph, name: str) -> list[str]:
    """Ids of the nodes called so: an id wins over titles, titles win over class types."""
    if name in graph:
        return [name]
    titled = [node_id for node_id, node in graph.items() if given_title(node) == name]
    return titled or [node_id for node_id, node in graph.items() if node["class_type"] == name]


def _inputs(definition: Definition) -> dict[str, Any]:
    """The inputs that a class has, required and optional, each [type, options]."""
    given = definition.get("input")
    kinds = [given.get(kind) for kind in ("required", "optional")] if isinstance(given, dict) else []
    return {name: spec for kind in kinds if isinstance(kind, dict) for name, spec in kind.items()}


def _is_link_to(text: str, graph: Graph) -> bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return is_link(value) and value[0] in graph


def _stated(spec: Any) -> tuple[str, list[Any] | None]:
    """The type of an input, and the options of a COMBO where they are known; "" for a spec of another form."""
    if not isinstance(spec, list | tuple) or not spec:
        return "", None
    if isinstance(spec[0], list):
        return "COMBO", spec[0]
    more = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
    if spec[0] == "COMBO":
        if more.get("multiselect"):
            return "COMBO", None
        # The options of some are asked for by the browser.
        return ("COMBO", more["options"]) if isinstance(more.get("options"), list) else ("STRING", None)
    return str(spec[0]), None


def _cut(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_CHOICES} more" if len(names) > SHOWN_CHOICES else ""
    return ", ".join(names[:SHOWN_CHOICES]) + more


def _boolean(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered not in YES + NO:
        raise ValueError("true or false")
    return lowered in YES


def _whole(text: str) -> int:
    # Python's own reading also takes 1_000, and no more than 4,300 digits; no input needs more than 20.
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", text.strip()):
        raise ValueError("a whole number, such as 7")
    return int(text)


def _number(text: str) -> float | int:
    if re.fullmatch(r"[+-]?[0-9]{1,20}", text.strip()):
        return int(text)
    number = float(text) if NUMBER.fullmatch(text.strip()) else math.nan
    if not math.isfinite(number):
        raise ValueError("a number, such as 0.5")
    return number


READERS: dict[str, Callable[[str], Any]] = {"BOOLEAN": _boolean, "INT": _whole, "FLOAT": _number, "STRING": str}


def _readers_like(old: Any) -> list[Callable[[str], Any]]:
    """How to read a value for an input that holds this one; none for a link and what is not a single value."""
    kinds = {bool: _boolean, int: _number, float: _number, str: str}
    return [kinds[type(old)]] if type(old) in kinds else []
