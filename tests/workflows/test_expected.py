"""What SiD Distill says it will take, before it is queued."""

import re

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
KNOWN = re.compile(r"about (\d+) min for (\d+) iterations, as last time at this size")
SMALL = {"iterations": 6, "batch_size": 4, "preview_every": 1000, "run_name": "expected", "preset": "as set here"}


def lines(editor) -> list[str]:
    editor.page.wait_for_timeout(600)  # nodes look at each other now and then
    return editor.page.evaluate(LINES)


def test_time_and_memory_are_those_of_the_last_run_of_that_size(editor):
    editor.open(ui_workflow("demo_distil"))
    editor.page.evaluate(SET, SMALL)
    assert lines(editor) == [UNKNOWN]
    editor.page.get_by_test_id("queue-button").click()
    editor.page.wait_for_function(f"() => ({LINES})()[0].startsWith('about')")
    editor.page.wait_for_function("async () => (await (await fetch('/history')).text()) !== '{}'")

    editor.page.evaluate(SET, {"iterations": 1_200})
    time, memory = lines(editor)
    assert memory.startswith("memory: ")
    editor.page.evaluate(SET, {"iterations": 2_400})
    twice, _ = lines(editor)
    (once, few), (double, many) = (map(int, KNOWN.fullmatch(said).groups()) for said in (time, twice))
    assert (few, many) == (1_200, 2_400)
    assert abs(double - 2 * once) <= 1  # rounded

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
