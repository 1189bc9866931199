"""The format that the editor opens (version 0.4): the graph with places and sizes, frames and the note."""

import uuid
from typing import Any

from .definitions import Definitions, inputs_of, slot_of, values_of
from .sheet import Column, Node, Output, Sheet

# The editor's measures, in its pixels. A node's position is that of its body; the title is above it.
TITLE, SLOT, WIDGET, MULTILINE, BODY_END = 30, 20, 24, 100, 16
NODE_GAP, COLUMN_GAP, GROUP_PADDING, GROUP_TITLE = 24, 52, 16, 44
NOTE_WIDTH = 340
# Nodes of the pack that say something below their widgets, and the lines that they take for it.
SAYS, SAID_LINE, SAID_EDGE = {"SiDPrompts": 1, "SiDScheduler": 1, "SiDGenerate": 1, "SiDSaveStudent": 3}, 14, 36
PACK = "sid-few-step"  # its name in pyproject.toml
OTHER_PACKS = {"IPAdapter": "comfyui_ipadapter_plus"}  # by what the names of their nodes begin with
NAMESPACE = uuid.UUID("5d1c0c3e-0f6f-4c8b-9a53-6f1f3a8e5b70")


def ui_workflow(sheet: Sheet, definitions: Definitions) -> dict[str, Any]:
    """The workflow as the editor would save it, the same for the same sheet."""
    links = _links(sheet, definitions)
    nodes, groups = [_note(sheet)], []
    left = NOTE_WIDTH + COLUMN_GAP
    for column in sheet.columns:
        top = 0
        for node in column.nodes:
            height = _height(node, definitions) + node.room
            nodes.append(_node(node, definitions, links, pos=[left, top], size=[column.width, height]))
            top += height + NODE_GAP + TITLE
        groups.append(_group(len(groups) + 1, column, left=left, bottom=top - NODE_GAP - TITLE))
        left += column.width + COLUMN_GAP
    return {
        "id": str(uuid.uuid5(NAMESPACE, sheet.name)),
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": groups,
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _links(sheet: Sheet, definitions: Definitions) -> list[list]:
    """[[id, source node, source slot, target node, target slot, type], …]"""
    links: list[list] = []
    for node in sheet.nodes:
        for slot, each in enumerate(inputs_of(node, definitions)):
            source = node.inputs.get(each.name)
            if isinstance(source, Output):
                ends = [source.node.id, slot_of(source, definitions), node.id, slot]
                links.append([len(links) + 1, *ends, each.type])
    return links


def _node(node: Node, definitions: Definitions, links: list[list], *, pos: list[int], size: list[int]) -> dict:
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
        "pos": pos,
        "size": size,
        "flags": {},
        "order": node.id,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        **({"title": node.title} if node.title else {}),
        "properties": {"cnr_id": _pack(node, definitions), "Node name for S&R": node.kind},
        "widgets_values": _widgets_values(node, definitions),
    }


def _pack(node: Node, definitions: Definitions) -> str:
    """The pack that a node is of, by its name in ComfyUI's registry: there a manager finds it where it is missing."""
    if not definitions[node.kind]["python_module"].startswith("custom_nodes."):
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


def _height(node: Node, definitions: Definitions) -> int:
    inputs = inputs_of(node, definitions)
    slots = max(sum(not each.is_widget for each in inputs), len(definitions[node.kind]["output"]))
    lines = sum((each.is_widget and not each.is_multiline) + each.has_control for each in inputs)
    boxes = sum(each.is_multiline for each in inputs)
    said = SAYS[node.kind] * SAID_LINE + SAID_EDGE if node.kind in SAYS else 0
    return slots * SLOT + lines * WIDGET + boxes * MULTILINE + said + BODY_END


def _note(sheet: Sheet) -> dict[str, Any]:
    return {
        "id": len(sheet.nodes) + 1,
        "type": "MarkdownNote",
        "pos": [0, 0],
        "size": [NOTE_WIDTH, sheet.note_height],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "Read me",
        "properties": {},
        "widgets_values": [sheet.note],
        "color": "#432",
        "bgcolor": "#653",
    }


def _group(number: int, column: Column, *, left: int, bottom: int) -> dict[str, Any]:
    top = -TITLE - GROUP_TITLE
    return {
        "id": number,
        "title": column.title,
        "bounding": [left - GROUP_PADDING, top, column.width + 2 * GROUP_PADDING, bottom - top + GROUP_PADDING],
        "color": "#3f789e",
        "font_size": 22,
        "flags": {},
    }
