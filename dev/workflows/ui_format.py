"""The format that the editor opens (version 0.4): the graph with places and sizes, frames and the note."""

import uuid
from typing import Any

from .definitions import Definitions, inputs_of, own, slot_of, values_of
from .layout import Box, Layout, layout
from .routes import Stops, routes
from .sheet import Group, Model, Node, Output, Sheet

PACK = "sid-few-step"  # its name in pyproject.toml
OTHER_PACKS = {"IPAdapter": "comfyui_ipadapter_plus"}  # by what the names of their nodes begin with
NAMESPACE = uuid.UUID("5d1c0c3e-0f6f-4c8b-9a53-6f1f3a8e5b70")


def ui_workflow(sheet: Sheet, definitions: Definitions) -> dict[str, Any]:
    """The workflow as the editor would save it, the same for the same sheet."""
    links = links_of(sheet, definitions)
    places = layout(sheet, definitions)
    nodes = [_note(sheet, places)]
    nodes += [ui_node(node, definitions, links, places.nodes[node.id], sheet.models) for node in sheet.nodes]
    return {
        "id": str(uuid.uuid5(NAMESPACE, sheet.name)),
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [_group(number, group, box) for number, (group, box) in enumerate(places.groups, 1)],
        "config": {},
        "extra": _reroutes(routes(sheet, places, definitions, links), links),
        "version": 0.4,
    }


def links_of(sheet: Sheet, definitions: Definitions) -> list[list]:
    """[[id, source node, source slot, target node, target slot, type], …]"""
    links: list[list] = []
    for node in sheet.nodes:
        for slot, each in enumerate(inputs_of(node, definitions)):
            source = node.inputs.get(each.name)
            if isinstance(source, Output):
                ends = [source.node.id, slot_of(source, definitions), node.id, slot]
                links.append([len(links) + 1, *ends, each.type])
    return links


def _reroutes(stops: dict[int, Stops], links: list[list]) -> dict[str, list[dict[str, Any]]]:
    """Links of one output share the reroutes that they have in common from their start on."""
    outputs = {link: (source, slot) for link, source, slot, *_ in links}
    reroutes: dict[tuple, dict[str, Any]] = {}
    ends = []
    for link, places in stops.items():
        parent: dict[str, int] = {}
        for i, place in enumerate(places, 1):
            new = {"id": len(reroutes) + 1, **parent, "pos": list(place), "linkIds": []}
            reroute = reroutes.setdefault((outputs[link], places[:i]), new)
            reroute["linkIds"].append(link)
            parent = {"parentId": reroute["id"]}
        ends.append({"id": link, **parent})
    return {"reroutes": list(reroutes.values()), "linkExtensions": ends} if ends else {}


def ui_node(
    node: Node, definitions: Definitions, links: list[list], box: Box, models: tuple[Model, ...]
) -> dict[str, Any]:
    definition = definitions[node.kind]
    inputs = []
    for slot, each in enumerate(inputs_of(node, definitions)):
        link = next((link[0] for link in links if link[3:5] == [node.id, slot]), None)
        widget = {"widget": {"name": each.name}} if each.is_widget else {}
        inputs.append({"name": each.name, "type": each.type, **widget, "link": link})
    outputs = []
    for slot, (name, kind) in enumerate(zip(definition["output_name"], definition["output"], strict=True)):
        found = [link[0] for link in links if link[1:3] == [node.id, slot]]
        outputs.append({"name": name, "type": kind, "slot_index": slot, "links": found})
    return {
        "id": node.id,
        "type": node.kind,
        "pos": [box.left, box.top],
        "size": [box.width, box.height],
        "flags": {"collapsed": True} if node.folded else {},
        "order": node.id,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        **({"title": node.title} if node.title else {}),
        "properties": {
            "cnr_id": _pack(node, definitions),
            "Node name for S&R": node.kind,
            **_models(node, models),
        },
        "widgets_values": _widgets_values(node, definitions),
    }


def _pack(node: Node, definitions: Definitions) -> str:
    """The pack that a node is of, by its name in ComfyUI's registry: there a manager finds it where it is missing."""
    if not own(node, definitions):
        return "comfy-core"
    return next((pack for beginning, pack in OTHER_PACKS.items() if node.kind.startswith(beginning)), PACK)


def _widgets_values(node: Node, definitions: Definitions) -> list:
    """Positional; a seed's is followed by what happens to it after a run."""
    values = values_of(node, definitions)
    listed = []
    for each in inputs_of(node, definitions):
        if each.is_widget:
            listed.append(values[each.name])
        if each.has_control:
            listed.append(node.control)
    return listed


def _models(node: Node, models: tuple[Model, ...]) -> dict[str, list[dict[str, str]]]:
    """What the editor offers to download where a file that is chosen on the node is missing."""
    chosen = [model for model in models if model.name in node.inputs.values()]
    return {"models": [{"name": m.name, "url": m.url, "directory": m.directory} for m in chosen]} if chosen else {}


def _note(sheet: Sheet, places: Layout) -> dict[str, Any]:
    return {
        "id": len(sheet.nodes) + 1,
        "type": "MarkdownNote",
        "pos": [places.note.left, places.note.top],
        "size": [places.note.width, places.note.height],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "Read me",
        "properties": {},
        "widgets_values": [sheet.note],
        "color": "#223240",
        "bgcolor": "#1d2b36",
    }


def _group(number: int, group: Group, box: Box) -> dict[str, Any]:
    return {
        "id": number,
        "title": group.title,
        "bounding": [box.left, box.top, box.width, box.height],
        "color": "#3f789e",
        "font_size": 22,
        "flags": {},
    }
