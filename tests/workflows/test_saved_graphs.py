"""Graphs that were saved before: whatever the nodes look like today, their values land on the inputs they were of."""

import json
from pathlib import Path
from typing import Any

import pytest
from workflows.node_kinds import KINDS, drawn_as

FOLDER = Path(__file__).parents[1] / "data" / "saved_graphs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
SAVE = "() => window.app.graph.serialize()"


def saved(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A workflow of November 2026 as the editor opened it, and what it queued for it then."""
    parts = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return parts["workflow"], parts["api"]


def known_then(queued: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    """Of what is queued now, the inputs that there were."""
    return {
        key: {"class_type": node["class_type"], "inputs": {k: node["inputs"].get(k) for k in then[key]["inputs"]}}
        for key, node in queued.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_saved_graph_queues_what_it_did(editor, name, kind):
    workflow, then = saved(name)
    with drawn_as(editor, kind):
        editor.open(workflow)
        assert known_then(editor.api_graph(), then) == then


@pytest.mark.parametrize("name", ["demo_distil", "sdxl_cleanstyle"])
def test_saving_a_graph_again_keeps_the_places_of_its_values(editor, name):
    workflow, _ = saved(name)
    editor.open(workflow)
    again = {node["id"]: node for node in editor.page.evaluate(SAVE)["nodes"]}
    for node in workflow["nodes"]:
        if node["type"].startswith(("SiD", "CleanStyle")):
            values = again[node["id"]].get("widgets_values", [])
            assert values[: len(node["widgets_values"])] == node["widgets_values"], node["type"]


def test_a_copy_of_a_node_has_its_values(editor):
    workflow, then = saved("demo_distil")
    editor.open(workflow)
    copied = editor.page.evaluate(
        """() => {
          const node = window.app.graph._nodes.find((node) => node.type === "SiDDistill")
          const copy = node.clone()
          return Object.fromEntries(copy.widgets.map(({ name, value }) => [name, value]))
        }"""
    )
    (distill,) = (node["inputs"] for node in then.values() if node["class_type"] == "SiDDistill")
    widgets = {name: value for name, value in distill.items() if not isinstance(value, list)}
    assert {name: copied[name] for name in widgets} == widgets
