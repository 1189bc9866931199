"""A language's words for what the nodes say, by the English: so a text that was changed is one without a translation.

dev/locales/<language>.json has "names" (of nodes, inputs and outputs), "texts" (descriptions and tooltips) and
"categories" (those of the menu that ComfyUI has no word for).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
LANGUAGES = ("zh", "ja")
Definitions = dict[str, dict[str, Any]]  # of ComfyUI's GET /object_info


@dataclass(frozen=True)
class Catalogue:
    names: dict[str, str]
    texts: dict[str, str]
    categories: dict[str, str]

    @classmethod
    def of(cls, language: str) -> "Catalogue":
        return cls(**json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8")))

    def faults(self, definitions: Definitions) -> list[str]:
        """What is not translated, and what is a translation of nothing; empty where all is well."""
        names, texts = set(english_names(definitions)), set(english_texts(definitions))
        faults = []
        for kind, english, own in (("name", names, self.names), ("text", texts, self.texts)):
            faults += [f"no {kind} for {words!r}" for words in sorted(english - own.keys())]
            faults += [f"a {kind} for {words!r}, which no node says" for words in sorted(own.keys() - english)]
        return faults


def label_of(name: str, spec: list) -> str:
    """What an input is called on the node."""
    return spec[1].get("display_name") or name


def inputs_of(definition: dict) -> dict[str, list]:
    return definition["input"].get("required", {}) | definition["input"].get("optional", {})


def english_names(definitions: Definitions) -> Iterator[str]:
    for node in definitions.values():
        yield node["display_name"]
        yield from (label_of(name, spec) for name, spec in inputs_of(node).items())
        yield from node["output_name"]


def english_texts(definitions: Definitions) -> Iterator[str]:
    for node in definitions.values():
        yield node["description"]
        yield from (spec[1]["tooltip"] for spec in inputs_of(node).values())
        yield from filter(None, node["output_tooltips"])
