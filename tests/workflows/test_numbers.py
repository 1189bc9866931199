"""Small numbers on nodes, as both of the editor's ways to draw a node show them."""

import pytest
from workflows.shipped import ui_workflow

SET = """([name, value]) => {
  const node = window.app.graph._nodes.find((node) => node.type === "SiDDistill")
  const widget = node.widgets.find((widget) => widget.name === name)
  widget.value = value
  return Number(value).toFixed(widget.options.precision)
}"""  # → what the classic editor draws
DRAW_BY_VUE = "async (on) => { await window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on) }"


@pytest.mark.parametrize(("name", "value"), [("student_learning_rate", 1e-6), ("fake_learning_rate", 2e-5)])
def test_learning_rates_read_as_they_are(editor, name, value):
    editor.open(ui_workflow("demo_distil"))
    assert float(editor.page.evaluate(SET, [name, value])) == value
    editor.page.evaluate(DRAW_BY_VUE, True)
    try:
        box = editor.page.locator(f"input[aria-label='{name}'], [aria-label='{name}'] input").first
        box.wait_for(state="attached")
        editor.page.wait_for_timeout(500)
        assert float(box.input_value()) == value
    finally:
        editor.page.evaluate(DRAW_BY_VUE, False)
