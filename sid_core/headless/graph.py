"""API-format graphs: reading one from a file, and setting inputs by what a user calls a node."""

import json
from pathlib import Path
from typing import Any

from . import HeadlessError

Graph = dict[str, dict[str, Any]]


def read_graph(path: Path) -> Graph:
    """Read {"node id": {"class_type", "inputs", "_meta"}}; anything else is refused with what to do instead."""
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HeadlessError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise HeadlessError(f"{path} is not JSON: {error}") from error
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        raise HeadlessError(f"{path} is a workflow of the editor: save it by 'Export (API)' and run that file")
    if not isinstance(graph, dict) or not graph or not all(map(_is_node, graph.values())):
        raise HeadlessError(f"{path} is not a graph in API format: every entry needs a class_type and inputs")
    return graph


def _is_node(entry: object) -> bool:
    return (
        isinstance(entry, dict) and isinstance(entry.get("class_type"), str) and isinstance(entry.get("inputs"), dict)
    )


def title(graph: Graph, node_id: str) -> str:
    """What a user calls the node: 'node 3 (KSampler)', with its own title where it has one."""
    node = graph.get(node_id)
    # A node that expands into a subgraph runs nodes which the file does not hold.
    return f"node {node_id} ({_given_title(node) or node['class_type']})" if node else f"node {node_id}"


def _given_title(node: dict[str, Any]) -> str | None:
    return node.get("_meta", {}).get("title")


def apply_setting(graph: Graph, setting: str) -> None:
    """Apply 'NODE.INPUT=VALUE' in place; NODE is an id, a title or a class_type that only one node has."""
    target, equals, text = setting.partition("=")
    if not equals or "." not in target:
        raise HeadlessError(f"--set {setting!r}: expected NODE.INPUT=VALUE")
    node_id, name = _resolve(graph, target)
    graph[node_id]["inputs"][name] = parse_value(text)


def parse_value(text: str) -> Any:
    """VALUE as JSON, else the text itself."""
    try:
        # Without parse_constant, prompts such as "NaN" and "Infinity" would become numbers JSON cannot send.
        return json.loads(text, parse_constant=_not_json)
    except ValueError:
        return text


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _resolve(graph: Graph, target: str) -> tuple[str, str]:
    """(node id, input name) of 'NODE.INPUT'. Titles and input names may hold dots, so every dot is tried."""
    parts = target.split(".")
    splits = [(".".join(parts[:i]), ".".join(parts[i:])) for i in range(1, len(parts))]
    named = [(node_id, name) for node, name in splits for node_id in _find(graph, node)]
    if not named:
        known = "\n  ".join(title(graph, node_id) for node_id in graph)
        raise HeadlessError(f"--set {target}: the graph has no such node. It has:\n  {known}")
    exact = [(node_id, name) for node_id, name in named if name in graph[node_id]["inputs"]]
    if not exact:
        node_id, name = named[0]
        known = ", ".join(graph[node_id]["inputs"]) or "none"
        raise HeadlessError(f"--set {target}: {title(graph, node_id)} has no input {name!r}. It has: {known}")
    if len(exact) > 1:
        ids = ", ".join(node_id for node_id, _ in exact)
        raise HeadlessError(f"--set {target}: several nodes answer to that name; use one of the ids {ids}")
    return exact[0]


def _find(graph: Graph, name: str) -> list[str]:
    """Ids of the nodes called so: an id wins over titles, titles win over class types."""
    if name in graph:
        return [name]
    titled = [node_id for node_id, node in graph.items() if _given_title(node) == name]
    return titled or [node_id for node_id, node in graph.items() if node["class_type"] == name]
