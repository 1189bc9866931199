"""The workflows in ComfyUI's own editor, in a browser."""

from typing import Any

import pytest
from workflows.shipped import NAMES, api_graph, ui_workflow

SHOWN_PICTURES = """([count, width]) => {
  const images = window.app.graph._nodes.find((node) => node.type === "SaveImage").imgs ?? []
  return images.length === count && images.every((image) => image.complete && image.naturalWidth === width)
}"""


def without_meta(graph: dict[str, Any]) -> dict[str, Any]:
    return {key: {k: v for k, v in node.items() if k != "_meta"} for key, node in graph.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_editor_makes_the_api_graph_of_the_workflow(name, editor):
    editor.open(ui_workflow(name))
    assert without_meta(editor.api_graph()) == without_meta(api_graph(name))
    assert editor.errors == []


@pytest.mark.parametrize("name", NAMES)
def test_the_editor_knows_each_node_and_none_overlaps_another(name, editor):
    editor.open(ui_workflow(name))
    assert editor.page.evaluate("() => window.app.graph._nodes.filter((n) => n.has_errors).map((n) => n.type)") == []
    boxes = editor.page.evaluate(
        "() => window.app.graph._nodes.map((node) => [node.title, ...node.pos, ...node.size, node.computeSize()[1]])"
    )
    title_bar = 30
    for i, (title, left, top, width, height, least) in enumerate(boxes):
        assert height >= least, f"{title} is cut off"
        for other, x, y, w, h, _ in boxes[:i]:
            apart = left + width <= x or x + w <= left or top + height <= y - title_bar or y + h <= top - title_bar
            assert apart, f"{title} overlaps {other}"


def test_run_in_the_browser_shows_the_pictures(editor, tmp_path):
    editor.open(ui_workflow("demo_sample_student"))
    editor.page.get_by_test_id("queue-button").click()
    editor.page.wait_for_function(SHOWN_PICTURES, arg=[8, 256])
    editor.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    editor.page.wait_for_timeout(1000)  # the view moves there smoothly
    editor.page.screenshot(path=tmp_path / "demo_sample_student.png")
    assert editor.errors == []
