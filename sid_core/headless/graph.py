"""API-format graphs: reading one from a file, and what a user calls its nodes."""

import json
from pathlib import Path
from typing import Any

from . import HeadlessError

Graph = dict[str, dict[str, Any]]


def read_graph(path: Path) -> Graph:
    """Read {"node id": {"class_type", "inputs", "_meta"}}, also as it is posted: {"prompt": {…}}.

    Anything else is refused with what to do instead. A byte order mark is fine, in UTF-8 as in UTF-16.
    """
    try:
        graph = json.loads(path.read_bytes())
    except OSError as error:
        raise HeadlessError(f"Give a file that can be read: {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise HeadlessError(f"Export {path.name} again by 'Export (API)': it is not JSON ({error}).") from error
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        raise HeadlessError(f"Export {path.name} by 'Export (API)': it is a workflow as the editor saves it.")
    if isinstance(graph, dict) and isinstance(graph.get("prompt"), dict) and "class_type" not in graph["prompt"]:
        graph = graph["prompt"]
    if not isinstance(graph, dict) or not graph:
        raise HeadlessError(f"Export {path.name} again by 'Export (API)': it holds no nodes.")
    for node_id, entry in graph.items():
        lacking = _lacking(entry)
        if lacking:
            raise HeadlessError(f"Export {path.name} again by 'Export (API)': its entry {node_id!r} has no {lacking}.")
    return graph


def _lacking(entry: object) -> str | None:
    """What an entry needs in order to be a node, and does not have."""
    if not isinstance(entry, dict) or not isinstance(entry.get("class_type"), str):
        return "class_type"
    return None if isinstance(entry.get("inputs"), dict) else "inputs"


def title(graph: Graph, node_id: str) -> str:
    """What a user calls the node: 'node 3 (KSampler)', with its own title where it has one."""
    node = graph.get(node_id)
    # A node that expands into a subgraph runs nodes which the file does not hold.
    return f"node {node_id} ({given_title(node) or node['class_type']})" if node else f"node {node_id}"


def given_title(node: dict[str, Any]) -> str | None:
    """The title that a node has of its own."""
    meta = node.get("_meta")
    given = meta.get("title") if isinstance(meta, dict) else None
    return given if isinstance(given, str) else None


def is_link(value: object) -> bool:
    """Whether an input's value is a link, ["node id", slot]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int
