"""What SiD Distill says it will take, before it is queued."""

import re

import pytest
from workflows.shipped import ui_workflow

SET = """(values) => {
  const node = window.app.graph._nodes.find((node) => node.type === "SiDDistill")
  for (const [name, value] of Object.entries(values)) node.widgets.find((w) => w.name === name).value = value
}"""
LINES = """() => {
  const node = window.app.graph._nodes.find((node) => node.type === "SiDDistill")
  return [...node.widgets.find((widget) => widget.name === "expected").element.children].map((line) => line.textContent)
}"""
UNKNOWN = "time and memory: known after the first iterations"
KNOWN = re.compile(r"about (?:(\d+) h )?(\d+) (s|min) for (\d+) iterations, as last time at this size")
SMALL = {"iterations": 6, "batch_size": 4, "preview_every": 1000, "run_name": "expected", "preset": "as set here"}


def lines(editor) -> list[str]:
    editor.page.wait_for_timeout(600)  # nodes look at each other now and then
    return editor.page.evaluate(LINES)


def seconds(said: str, iterations: int) -> float:
    hours, number, unit, asked = KNOWN.fullmatch(said).groups()
    assert int(asked) == iterations
    return 3600 * int(hours or 0) + int(number) * {"s": 1, "min": 60}[unit]


def test_time_and_memory_are_those_of_the_last_run_of_that_size(editor):
    editor.open(ui_workflow("demo_distil"))
    editor.page.evaluate(SET, SMALL)
    assert lines(editor) == [UNKNOWN]
    editor.page.get_by_test_id("queue-button").click()
    editor.page.wait_for_function(f"() => ({LINES})()[0].startsWith('about')")
    editor.page.wait_for_function("() => document.body.textContent.includes('Finished: 6 iterations')")

    editor.page.evaluate(SET, {"iterations": 100_000})
    time, memory = lines(editor)
    assert memory.startswith("memory: ")
    editor.page.evaluate(SET, {"iterations": 200_000})
    twice, _ = lines(editor)
    assert seconds(twice, 200_000) == pytest.approx(2 * seconds(time, 100_000), rel=0.05)

    editor.page.evaluate(SET, {"batch_size": 8})
    assert lines(editor) == [UNKNOWN]
    editor.page.evaluate(SET, {"batch_size": 4})
    assert lines(editor) == [twice, memory]


def test_what_a_preset_decides_is_told(editor):
    editor.open(ui_workflow("demo_distil"))
    editor.page.evaluate(SET, {"preset": "SDXL, LoRA"})
    told = (
        "preset: mode lora, batch size 16, student learning rate 0.00005, fake learning rate 0.0001, ema half life 1000"
    )
    assert lines(editor)[0] == told


def test_a_node_that_is_saved_with_its_lines_is_as_high_each_time_it_is_opened(editor):
    editor.open(ui_workflow("demo_distil"))
    editor.page.evaluate(SET, {"preset": "SDXL, LoRA"})
    assert len(lines(editor)) == 2
    heights = []
    for _ in range(3):
        saved = editor.page.evaluate("() => window.app.graph.serialize()")
        (node,) = (node for node in saved["nodes"] if node["type"] == "SiDDistill")
        heights.append(node["size"][1])
        editor.open(saved)
        assert len(lines(editor)) == 2
    assert heights[0] == heights[1] == heights[2]
