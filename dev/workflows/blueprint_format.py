"""The file of a subgraph blueprint: a workflow of one node, and what is in it."""

import uuid
from collections.abc import Iterable
from typing import Any

from .blueprints import Blueprint
from .definitions import Definitions, inputs_of, slot_of
from .layout import COLUMN_GAP, layout
from .measures import SLOT, VUE_END, VUE_WIDGET
from .ui_format import NAMESPACE, links_of, ui_node

OUTSIDE_IN, OUTSIDE_OUT = -10, -20  # the ids by which the editor knows a subgraph's own ends
EDGE_WIDTH, WIDTH = 120, 300


def blueprint_file(made: Blueprint, definitions: Definitions) -> dict[str, Any]:
    """The same for the same blueprint. Plain ASCII, as older hosts read it in the system's encoding."""
    identity = str(uuid.uuid5(NAMESPACE, made.sheet.name))
    height = max(len(made.inputs), len(made.outputs)) * SLOT + len(made.widgets) * VUE_WIDGET + VUE_END
    subgraph = _subgraph(made, definitions, identity)
    plug = {"link": None}
    node = {
        "id": 1,
        "type": identity,
        "pos": [0, 0],
        "size": [WIDTH, height],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [{"name": each["name"], "type": each["type"], **plug} for each in subgraph["inputs"]],
        "outputs": [{"name": each["name"], "type": each["type"], "links": []} for each in subgraph["outputs"]],
        "properties": {"proxyWidgets": [[str(node.id), name] for node, name in made.widgets]},
        "widgets_values": [],
        "title": made.sheet.name,
    }
    return {
        "id": identity,
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [node],
        "links": [],
        "groups": [],
        "definitions": {"subgraphs": [subgraph]},
        "config": {},
        "extra": {"BlueprintDescription": made.description, "BlueprintSearchAliases": list(made.searched)},
        "version": 0.4,
    }


def _subgraph(made: Blueprint, definitions: Definitions, identity: str) -> dict[str, Any]:
    places = layout(made.sheet, definitions)
    links = links_of(made.sheet, definitions)
    inputs, outputs = [], []
    for index, (name, targets) in enumerate(made.inputs.items()):
        first = len(links) + 1
        for node, wanted in targets:
            slot, each = next((i, e) for i, e in enumerate(inputs_of(node, definitions)) if e.name == wanted)
            links.append([len(links) + 1, OUTSIDE_IN, index, node.id, slot, each.type])
        inputs.append(_end(made, "inputs", name, links[-1][5], range(first, len(links) + 1)))
    for index, (name, output) in enumerate(made.outputs.items()):
        slot = slot_of(output, definitions)
        kind = definitions[output.node.kind]["output"][slot]
        links.append([len(links) + 1, output.node.id, slot, OUTSIDE_OUT, index, kind])
        outputs.append(_end(made, "outputs", name, kind, [len(links)]))
    right = max(box.right for box in places.nodes.values())
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return {
        "id": identity,
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": len(made.sheet.nodes), "lastLinkId": len(links), "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": made.sheet.name,
        "description": made.description,
        "inputNode": _edge(OUTSIDE_IN, -COLUMN_GAP - EDGE_WIDTH, len(inputs)),
        "outputNode": _edge(OUTSIDE_OUT, right + COLUMN_GAP, len(outputs)),
        "inputs": inputs,
        "outputs": outputs,
        "widgets": [],
        "nodes": [
            ui_node(node, definitions, links, places.nodes[node.id], made.sheet.models) for node in made.sheet.nodes
        ],
        "groups": [],
        "links": [dict(zip(names, link, strict=True)) for link in links],
        "extra": {},
    }


def _edge(key: int, left: int, count: int) -> dict[str, Any]:
    return {"id": key, "bounding": [left, 0, EDGE_WIDTH, (count + 2) * SLOT]}


def _end(made: Blueprint, side: str, name: str, kind: str, links: Iterable[int]) -> dict[str, Any]:
    identity = str(uuid.uuid5(NAMESPACE, f"{made.sheet.name}/{side}/{name}"))
    return {"id": identity, "name": name, "type": kind, "linkIds": list(links)}
