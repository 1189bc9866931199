"""The workflows in ComfyUI's own editor, in a browser: as it draws nodes on its canvas, and in Nodes 2.0."""

import json
from typing import Any

import pytest
from workflows.shipped import FOLDER, NAMES, TITLES, api_graph, ui_workflow

SHOWN_PICTURES = """([count, width]) => {
  const images = window.app.graph._nodes.find((node) => node.type === "SaveImage").imgs ?? []
  return images.length === count && images.every((image) => image.complete && image.naturalWidth === width)
}"""
# Of each node: its title, its place with the title bar, what it is at least, and what it says of errors.
NODES = """() => window.app.graph._nodes.map((node) => {
  const { scale, offset } = window.app.canvas.ds
  const drawn = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect()
  const box = drawn
    ? [drawn.x / scale - offset[0], drawn.y / scale - offset[1], drawn.width / scale, drawn.height / scale]
    : [...node.boundingRect]
  return { title: node.title, note: node.type === "MarkdownNote", box, errors: !!node.has_errors,
    cut: !node.flags.collapsed && node.size[1] < node.computeSize()[1] }
})"""
GROUPS = "() => window.app.graph._groups.map((group) => [...group.pos, ...group.size])"
# The titles of groups that the badge of the first node below, which says what pack it is of, stands on.
COVERED_TITLES = """() => {
  const context = document.createElement("canvas").getContext("2d")
  return window.app.graph._groups.filter((group) => {
    const [x, y] = group.pos, [width, height] = group.size
    const isInside = ({ pos }) => pos[0] > x && pos[0] < x + width && pos[1] > y && pos[1] < y + height
    const [first] = window.app.graph._nodes.filter(isInside).sort((a, b) => a.pos[1] - b.pos[1])
    const badges = first.badges.map((badge) => (typeof badge === "function" ? badge() : badge))
    const shown = badges.filter((badge) => badge.visible && !first.flags.collapsed)
    const badge = shown.reduce((sum, each) => sum + each.getWidth(context), 0)
    context.font = `${group.font_size}px ${window.LiteGraph.GROUP_FONT}`
    return x + context.measureText(group.title).width > first.pos[0] + first.size[0] - badge
  }).map((group) => group.title)
}"""
# How much of the note's text is below its lower edge, in pixels of the screen.
NOTE_CUT = """() => {
  const note = window.app.graph._nodes.find((node) => node.type === "MarkdownNote")
  const shown = document.querySelector(`[data-node-id="${note.id}"] .comfy-markdown-content`)
  const text = shown ?? note.widgets[0].element.querySelector(".tiptap") ?? note.widgets[0].element
  const range = document.createRange()
  range.selectNodeContents(text)
  return range.getBoundingClientRect().bottom - text.getBoundingClientRect().bottom
}"""
# Draws each link by itself where the editor draws it, and looks for it in the boxes of the nodes. Within `near` pixels
# of the two nodes' own edges it may be covered: there it begins and ends.
HIDDEN = """(near) => {
  const graph = window.app.graph, { scale, offset } = window.app.canvas.ds
  const boxes = graph._nodes.map((node) => {
    const drawn = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect()
    return [node, ...(drawn
      ? [drawn.x / scale - offset[0], drawn.y / scale - offset[1], drawn.width / scale, drawn.height / scale]
      : node.boundingRect)]
  })
  const left = Math.min(...boxes.map((box) => box[1])) - 200, top = Math.min(...boxes.map((box) => box[2])) - 300
  const width = Math.max(...boxes.map((box) => box[1] + box[3])) - left + 200
  const height = Math.max(...boxes.map((box) => box[2] + box[4])) - top + 300
  const half = 0.5, canvas = new OffscreenCanvas(width * half, height * half)
  const context = canvas.getContext("2d", { willReadFrequently: true })
  const links = [...(graph.links.values?.() ?? Object.values(graph.links))], hidden = []
  for (const link of links) {
    const paths = [link.path]
    for (let id = link.parentId; id != null; id = graph.reroutes.get(id).parentId)
      paths.push(graph.reroutes.get(id).path)
    context.setTransform(1, 0, 0, 1, 0, 0)
    context.clearRect(0, 0, canvas.width, canvas.height)
    context.setTransform(half, 0, 0, half, -left * half, -top * half)
    context.lineWidth = 2
    for (const path of paths) context.stroke(path)
    for (const [node, x, y, w, h] of boxes) {
      const edge = node.id === link.origin_id || node.id === link.target_id ? near : 2
      const place = [(x + edge - left) * half, (y + 2 - top) * half, (w - 2 * edge) * half, (h - 4) * half]
      const [a, b, c, d] = [Math.ceil(place[0]), Math.ceil(place[1]), Math.floor(place[2]), Math.floor(place[3])]
      const pixels = context.getImageData(a, b, c, d).data
      let covered = 0
      for (let i = 3; i < pixels.length; i += 4) covered += pixels[i] > 60
      if (covered > 8) {
        const from = graph.getNodeById(link.origin_id).title, to = graph.getNodeById(link.target_id).title
        hidden.push(`${from} → ${to} (${link.type}) is behind ${node.title}`)
      }
    }
  }
  return [links.length, hidden]
}"""
NEAR = 20
LEGIBLE = 0.6


def without_meta(graph: dict[str, Any]) -> dict[str, Any]:
    return {key: {k: v for k, v in node.items() if k != "_meta"} for key, node in graph.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_editor_makes_the_api_graph_of_the_workflow(name, editor):
    editor.open(ui_workflow(name))
    assert without_meta(editor.api_graph()) == without_meta(api_graph(name))
    assert editor.errors == []


@pytest.mark.parametrize("name", NAMES)
def test_a_template_opens_whole_and_legible_and_nothing_lies_across_another(name, editor):
    editor.open_template(ui_workflow(name), TITLES[name])
    assert_whole_and_tidy(name, editor)
    assert editor.page.evaluate(COVERED_TITLES) == []


@pytest.mark.parametrize("name", NAMES)
def test_and_so_it_does_in_nodes_2(name, editor):
    if editor.frontend < (1, 40):
        pytest.skip("older frontends move the nodes themselves when they draw them as Nodes 2.0")
    editor.draw_as_nodes_2(True)
    try:
        editor.open_template(ui_workflow(name), TITLES[name])
        editor.page.wait_for_timeout(1500)  # nodes grow to what is in them
        assert_whole_and_tidy(name, editor)
    finally:
        editor.draw_as_nodes_2(False)


def assert_whole_and_tidy(name: str, editor: Any) -> None:
    assert editor.page.evaluate("() => window.app.canvas.ds.scale") >= LEGIBLE
    assert_tidy(editor.page)
    count, hidden = editor.page.evaluate(HIDDEN, NEAR)
    assert count == len(ui_workflow(name)["links"])
    assert hidden == []


def assert_tidy(page: Any) -> None:
    nodes, groups = page.evaluate(NODES), page.evaluate(GROUPS)
    for i, node in enumerate(nodes):
        title, (left, top, width, height) = node["title"], node["box"]
        assert not node["errors"], title
        assert not node["cut"], f"{title} is cut off"
        for other in nodes[:i]:
            x, y, w, h = other["box"]
            apart = left + width <= x + 1 or x + w <= left + 1 or top + height <= y + 1 or y + h <= top + 1
            assert apart, f"{title} overlaps {other['title']}"
        inside = any(
            x <= left + 1 and y <= top + 1 and left + width <= x + w + 1 and top + height <= y + h + 1
            for x, y, w, h in groups
        )
        assert inside != node["note"], f"{title} is out of its group"
    assert page.evaluate(NOTE_CUT) <= 1


def test_run_in_the_browser_shows_the_pictures(editor, tmp_path):
    editor.open(ui_workflow("demo_sample_student"))
    editor.page.get_by_test_id("queue-button").click()
    editor.page.wait_for_function(SHOWN_PICTURES, arg=[8, 256])
    editor.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    editor.page.wait_for_timeout(1000)  # the view moves there smoothly
    editor.page.screenshot(path=tmp_path / "demo_sample_student.png")
    assert editor.errors == []


def test_a_new_user_has_pictures_after_four_clicks(editor):
    """From the empty editor, by the template browser alone."""
    page, title = editor.page, TITLES["demo_sample_student"]
    editor.open({"nodes": [], "links": [], "last_node_id": 0, "last_link_id": 0, "version": 0.4})
    clicks = [
        page.get_by_text("Templates", exact=True).first,
        page.get_by_text("comfyui-sid", exact=True).first,
        page.get_by_text(title, exact=True).last,  # before it may be the tab of one that is open
        page.get_by_test_id("queue-button"),
    ]
    for click in clicks:
        click.click()
    page.wait_for_function(SHOWN_PICTURES, arg=[8, 256])
    assert editor.errors == []


@pytest.mark.parametrize(
    ("name", "kinds", "inputs", "widgets"),
    [
        ("SiD generate", ["CLIPTextEncode", "SiDGenerate", "VAEDecode"], {"model", "clip", "vae"}, 6),
        (
            "Style, cleaned",
            ["CleanStyleIPAdapterLoader", "CLIPVisionLoader", "CleanStyleIPAdapter", "CleanStyle"],
            {"model", "image"},
            5,
        ),
    ],
)
def test_a_blueprint_is_one_node_with_what_is_turned_most(name, kinds, inputs, widgets, editor):
    editor.open(json.loads((FOLDER.parent / "subgraphs" / f"{name}.json").read_text(encoding="utf-8")))
    (node,) = editor.page.evaluate(
        "() => app.graph._nodes.map((node) => ({ widgets: node.widgets.length, "
        "inputs: node.inputs.filter((input) => !input.widget).map((input) => input.name) }))"
    )
    assert (set(node["inputs"]), node["widgets"]) == (inputs, widgets)
    assert [each["class_type"] for each in editor.api_graph().values()] == kinds
    assert editor.errors == []
