"""The two ways in which the editor draws nodes: on a canvas, and as elements of the page (Nodes 2.0)."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from workflows.conftest import Editor

CLASSIC, VUE = "classic", "Nodes 2.0"
KINDS = [CLASSIC, VUE]
SET = "async (on) => { await window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on) }"
# What stands on a number's widget, by the names of node and input.
SHOWN = {
    CLASSIC: """([type, name]) => {
      const node = window.app.graph._nodes.find((node) => node.type === type)
      return node.widgets.find((widget) => widget.name === name)._displayValue
    }""",
    VUE: """([type, name]) => {
      const node = window.app.graph._nodes.find((node) => node.type === type)
      const { label } = node.widgets.find((widget) => widget.name === name)
      const rows = [...document.querySelectorAll(`[data-node-id="${node.id}"] .lg-node-widget`)]
      const row = rows.find((row) => row.textContent.trim().startsWith(label ?? name))
      return row?.querySelector("input")?.value
    }""",
}

VALUE = """([type, name]) =>
  window.app.graph._nodes.find((node) => node.type === type).widgets.find((widget) => widget.name === name).value"""


@contextmanager
def drawn_as(editor: Editor, kind: str) -> Iterator[None]:
    """Within it the editor draws nodes so."""
    editor.page.evaluate(SET, kind == VUE)
    try:
        editor.page.wait_for_timeout(500)
        yield
    finally:
        editor.page.evaluate(SET, False)


def shown_number(editor: Editor, kind: str, node: str, name: str, drawn_s: float = 10) -> float:
    """What a number's widget reads, on the first node of that type: once drawn as it is, or after so many seconds."""
    editor.page.wait_for_function(SHOWN[kind], arg=[node, name])
    value = editor.page.evaluate(VALUE, [node, name])
    end = time.monotonic() + drawn_s
    while (shown := float(editor.page.evaluate(SHOWN[kind], [node, name]))) != value and time.monotonic() < end:
        editor.page.wait_for_timeout(100)
    return shown
