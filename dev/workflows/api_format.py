"""The format that servers run."""

from typing import Any

from .definitions import Definitions, slot_of, values_of
from .sheet import Output, Sheet, Value


def api_graph(sheet: Sheet, definitions: Definitions) -> dict[str, Any]:
    """{node id: {"class_type", "inputs", "_meta"}}"""
    graph = {}
    for node in sheet.nodes:
        values = values_of(node, definitions)
        graph[str(node.id)] = {
            "class_type": node.kind,
            "inputs": {name: _value(value, definitions) for name, value in values.items()},
            "_meta": {"title": node.title or definitions[node.kind]["display_name"] or node.kind},
        }
    return graph


def _value(value: Value, definitions: Definitions) -> Any:
    return [str(value.node.id), slot_of(value, definitions)] if isinstance(value, Output) else value
