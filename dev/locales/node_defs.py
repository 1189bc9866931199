"""locales/<language>/nodeDefs.json: what ComfyUI's editor shows of the nodes in that language."""

import re
from collections.abc import Callable
from typing import Any

from .catalogue import Catalogue, Definitions, inputs_of, label_of

# Older editors read these as syntax in every text, and newer ones in some, so there is no way to write them for both.
SYNTAX = re.compile(r"[{}|@]")


def english(definitions: Definitions) -> dict[str, Any]:
    """As the nodes say it, for editors that show an input's id where no language names it. What can't be written is
    left out: the editor then shows the node's own.
    """
    return _node_defs(definitions, str, lambda text, _: None if SYNTAX.search(text) else text)


def translated(definitions: Definitions, catalogue: Catalogue) -> dict[str, Any]:
    """A tooltip ends with the input's English name, by which messages and the guides call it."""

    def explained(text: str, label: str | None) -> str:
        own = catalogue.texts[text]
        return own if label is None or catalogue.names[label] == label else f"{own} [{label}]"

    return _node_defs(definitions, catalogue.names.__getitem__, explained)


def _node_defs(
    definitions: Definitions, name: Callable[[str], str], explained: Callable[[str, str | None], str | None]
) -> dict[str, Any]:
    return {node_id: _node(node, name, explained) for node_id, node in sorted(definitions.items())}


def _node(node: dict[str, Any], name: Callable, explained: Callable) -> dict[str, Any]:
    inputs = {}
    for input_id, spec in inputs_of(node).items():
        label = label_of(input_id, spec)
        inputs[input_id] = _present(name=name(label), tooltip=explained(spec[1]["tooltip"], label))
    outputs = {
        str(place): _present(name=name(label), tooltip=tooltip and explained(tooltip, None))
        for place, (label, tooltip) in enumerate(zip(node["output_name"], node["output_tooltips"], strict=True))
    }
    return _present(
        display_name=name(node["display_name"]),
        description=explained(node["description"], None),
        inputs=inputs,
        outputs=outputs,
    )


def _present(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value}
