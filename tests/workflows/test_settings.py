"""What a newcomer sees of SiD Distill: the preset first, labels in words, and what few change folded away."""

import pytest
from workflows.node_kinds import KINDS, VUE, drawn_as

ADD = """async (type) => {
  window.app.graph.clear()
  const node = window.LiteGraph.createNode(type)
  window.app.graph.add(node)
  node.pos = [100, 100]
  await new Promise((done) => setTimeout(done, 500))
}"""
SHOWN = """(vue) => {
  const [node] = window.app.graph._nodes
  const isSetting = (w) => node.isWidgetVisible(w) && w.type !== "sid_lines"
  if (!vue) return node.widgets.filter(isSetting).map((w) => w.label ?? w.name)
  const rows = [...document.querySelectorAll(`[data-node-id="${node.id}"] .lg-node-widget`)]
  const visible = rows.filter((row) => row.getClientRects().length && !row.querySelector(".sid-lines"))
  const labels = node.widgets.map((w) => w.label ?? w.name).concat(node.widgets.map((w) => w.name))
  if (!visible.length || visible.some((row) => !row.textContent.trim())) return null  // on the way
  return visible.map((row) => {
    const fits = labels.filter((label) => row.textContent.trim().startsWith(label))
    return fits.sort((a, b) => b.length - a.length)[0] ?? row.textContent.trim()
  })
}"""
PRESS_MORE = """() => {
  const [node] = window.app.graph._nodes
  node.widgets.find((widget) => widget.type === "button").callback()
}"""
CHOOSE = """([name, value]) => {
  const widget = window.app.graph._nodes[0].widgets.find((widget) => widget.name === name)
  widget.value = value
  widget.callback(value)
}"""
WIDGETS = """() => {
  const { widgets } = window.app.graph._nodes[0]
  return Object.fromEntries(widgets.map((w) => [w.name, [w.value, Boolean(w.disabled)]]))
}"""
MOST_NEED = [
    "preset",
    "iterations",
    "batch size",
    "student steps",
    "student learning rate",
    "fake score learning rate",
    "run name",
    "existing run",
    "preview every (iterations)",
    "mode",
]
FEW_NEED = ["t_init (0: usual)", "seed", "save every (iterations)", "more sizes (pixels)"]


def shown(editor, vue: bool) -> list[str]:
    editor.page.wait_for_function(SHOWN, arg=vue)
    return editor.page.evaluate(SHOWN, vue)


@pytest.mark.parametrize("kind", KINDS)
def test_what_most_need_is_shown_and_the_rest_on_request(editor, kind):
    vue = kind == VUE
    with drawn_as(editor, kind):
        editor.page.evaluate(ADD, "SiDDistill")
        before = shown(editor, vue)
        editor.page.evaluate(PRESS_MORE)
        editor.page.wait_for_timeout(500)
        after = shown(editor, vue)
        editor.page.evaluate(PRESS_MORE)
        editor.page.wait_for_timeout(500)
        again = shown(editor, vue)
    assert before[: len(MOST_NEED)] == MOST_NEED
    assert not set(FEW_NEED) & set(before)
    assert set(MOST_NEED + FEW_NEED) <= set(after)
    assert again == before


def test_the_node_is_as_high_as_what_it_shows(editor):
    editor.page.evaluate(ADD, "SiDDistill")
    height = "() => { const [node] = window.app.graph._nodes; return [node.size[1], node.computeSize()[1]] }"
    heights = [editor.page.evaluate(height)]
    for _ in range(2):
        editor.page.evaluate(PRESS_MORE)
        editor.page.wait_for_timeout(300)
        heights.append(editor.page.evaluate(height))
    assert all(is_high == needed for is_high, needed in heights)
    assert heights[1][0] > heights[0][0] == heights[2][0]


def test_a_preset_puts_its_values_in_place_and_greys_them(editor):
    editor.page.evaluate(ADD, "SiDDistill")
    editor.page.evaluate(CHOOSE, ["preset", "SDXL, full"])
    widgets = editor.page.evaluate(WIDGETS)
    decided = {
        "mode": "full",
        "batch_size": 512,
        "student_learning_rate": 1e-6,
        "fake_learning_rate": 1e-6,
        "ema_half_life": 50_000,
    }
    assert {name: value for name, (value, greyed) in widgets.items() if greyed} == decided
    editor.page.evaluate(CHOOSE, ["preset", "as set here"])
    assert not any(greyed for _, greyed in editor.page.evaluate(WIDGETS).values())
