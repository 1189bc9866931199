"""The panel on SiD Distill in ComfyUI's own editor, in a browser, over a real distillation of the demo model."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from workflows.shipped import ui_workflow

SETTLED = r"Saved at iteration [\d,]+ of 2,000\. Queue again to go on"
DRAW_BY_VUE = "async (on) => { await window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on) }"
SET = """([type, values]) => {
  const node = window.app.graph._nodes.find((node) => node.type === type)
  for (const [name, value] of Object.entries(values)) node.widgets.find((widget) => widget.name === name).value = value
}"""
SAID = "([pattern]) => new RegExp(pattern).test(document.querySelector('.sid-panel .said')?.textContent)"
FURTHER = """(saved) => {
  const said = document.querySelector(".sid-panel .said").textContent
  return Number(/Training: iteration (\\d+)/.exec(said)?.[1]) > saved
}"""
# What ComfyUI itself shows at the node's foot of what it is told.
TEXT_BELOW = """() => window.app.graph._nodes.find((node) => node.type === "SiDDistill")
  .widgets.find((widget) => widget.name === "$$node-text-preview")?.value.trim()"""
DISTILL = "window.app.graph._nodes.find((node) => node.type === 'SiDDistill')"
POINTS = "() => document.querySelectorAll('.sid-panel svg path.smooth')[0]?.getAttribute('d').split('L').length ?? 0"
SHORT = {"iterations": 2000, "batch_size": 2, "preview_every": 2, "student_rank": 4, "fake_rank": 4}


@pytest.fixture
def distilling(editor) -> Iterator[Any]:
    """The editor with the workflow that distils, shortened, and its panel."""
    editor.open(ui_workflow("demo_distil"))
    editor.page.evaluate(SET, ["SiDPrompts", {"file": "", "text": "red apple\ngrinning face"}])
    editor.page.evaluate(SET, ["SiDDistill", SHORT])
    yield editor
    editor.page.evaluate(DRAW_BY_VUE, False)


def name_run(editor, name: str) -> None:
    editor.page.evaluate(SET, ["SiDDistill", {"run_name": name}])


def said(editor, pattern: str) -> None:
    editor.page.wait_for_function(SAID, arg=[pattern])


def queue(editor) -> None:
    editor.page.evaluate("() => window.app.queuePrompt(0)")


def test_the_panel_moves_and_stops_the_run_which_goes_on_also_through_a_reload_of_the_page(distilling, comfyui_server):
    page = distilling.page
    name_run(distilling, "watched")
    said(distilling, "No run of this name yet")
    queue(distilling)
    said(distilling, r"Training: iteration [1-9]\d* of 2,000")
    page.wait_for_function(f"() => ({POINTS})() >= 2")
    assert page.evaluate(TEXT_BELOW) == ""
    page.locator(".sid-panel [data-tab=pictures]").click()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.sid-panel .pictures img:not([hidden])')]"
        ".filter((image) => image.naturalWidth > 0).length === 2"  # the teacher's, and the student's below
    )
    assert re.fullmatch(r"iteration \d+", page.locator(".sid-panel .when b").inner_text())
    facts = page.locator(".sid-panel .facts").inner_text()
    assert "images/s" in facts and "left" in facts and "RAM" in facts
    assert page.locator(".sid-panel .facts").evaluate("(facts) => facts.title === facts.textContent")
    page.locator(".sid-panel .stop").click()
    said(distilling, SETTLED)
    sentence = page.locator(".sid-panel .said").inner_text()
    saved = int(re.search(r"iteration (\d+)", sentence)[1])
    folder = comfyui_server.output_directory / "sid_runs" / "watched"
    assert (folder / f"state_{saved:07}.safetensors").exists() and 0 < saved < 2000
    # What comes after it in the graph is done with the student that came out.
    page.wait_for_function("() => window.app.graph._nodes.find((n) => n.type === 'SaveImage').imgs?.length === 8")
    assert page.locator(".p-toast-message-error, .p-dialog, .comfy-error-report").count() == 0
    assert distilling.errors == []

    queue(distilling)
    said(distilling, "Training: iteration")
    workflow = page.evaluate("() => window.app.graph.serialize()")
    page.reload()
    page.wait_for_function("() => window.app?.extensionManager && window.app.graph && window.LiteGraph")
    distilling.open(workflow)
    page.wait_for_function(f"() => ({POINTS})() >= 2")
    trains = (
        "(saved) => Number(/Training: iteration (\\d+)/.exec(document.querySelector('.said').textContent)?.[1]) > saved"
    )
    page.wait_for_function(trains, arg=saved)
    page.locator(".sid-panel .stop").click()
    said(distilling, SETTLED)
    further = int(re.search(r"iteration (\d+)", page.locator(".sid-panel .said").inner_text())[1])
    assert further > saved and {file.name for file in folder.glob("state*")} == {
        f"state_{iteration:07}.safetensors" for iteration in (saved, further)
    }
    assert distilling.errors == []


HOSTILE = '<img src="x" onerror="window.hacked = true"><script>window.hacked = true</script>'


@pytest.fixture
def finished(comfyui_server) -> str:
    """A run that was started elsewhere, and whose files are written by somebody unkind."""
    folder = comfyui_server.output_directory / "sid_runs" / "elsewhere"
    (folder / "previews").mkdir(parents=True, exist_ok=True)
    rows = [{"iteration": i, "student_loss": 1 / i, "fake_loss": 0.2, "spread": 0.5} for i in range(1, 301)]
    rows += [{"iteration": 120, "warning": HOSTILE, "message": HOSTILE}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    described = {"iteration": 300, "images": 1, "schedule": {"iterations": 300}, "started": HOSTILE}
    (folder / "run.json").write_text(json.dumps(described))
    for i in (100, 200, 300):
        Image.new("RGB", (768, 300), "navy").save(folder / "previews" / f"preview_{i:07}.png")
    return folder.name


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_a_run_from_elsewhere_is_found_by_its_name_and_what_it_says_is_text(distilling, finished, vue):
    page = distilling.page
    page.evaluate(DRAW_BY_VUE, vue)
    name_run(distilling, finished)
    said(distilling, "Finished: 300 iterations")
    page.locator(".sid-panel [data-tab=curves]").click()
    page.wait_for_function(f"() => ({POINTS})() === 300")
    assert HOSTILE in page.locator(".sid-panel .warnings").inner_text()
    assert page.locator(".sid-panel svg line.warning").count() >= 3
    assert page.evaluate("() => window.hacked") is None
    assert page.locator(".sid-panel .warnings img, .sid-panel script").count() == 0
    assert page.locator(".sid-panel .stop").is_hidden()
    page.locator(".sid-panel [data-tab=pictures]").click()
    slider = page.locator(".sid-panel .when input")
    page.locator(".sid-panel .when b", has_text="iteration 300").wait_for()
    slider.evaluate("(slider) => { slider.value = 0; slider.dispatchEvent(new Event('input')) }")
    page.locator(".sid-panel .when b", has_text="iteration 100").wait_for()
    page.locator(".sid-panel [data-tab=curves]").click()
    assert distilling.errors == []


def test_what_comes_before_training_is_told_until_the_node_ends(distilling):
    send = "([kind, detail]) => window.comfyAPI.api.api.dispatchEvent(new CustomEvent(kind, { detail }))"
    name_run(distilling, "not yet")
    distilling.page.wait_for_timeout(1000)  # it looks at the name twice a second, and the one before is of no run too
    said(distilling, "No run of this name yet")
    node = str(distilling.page.evaluate(f"() => {DISTILL}.id"))
    distilling.page.evaluate(send, ["progress_text", {"nodeId": "99", "text": "of another node"}])
    distilling.page.evaluate(send, ["progress_text", {"nodeId": node, "text": "encoding prompts: 64/1797\n· a remark"}])
    said(distilling, "^encoding prompts: 64/1797$")
    distilling.page.evaluate(send, ["executing", None])
    said(distilling, "No run of this name yet")
    # In a tab that has not queued it, which is told of no node's end.
    training = {"run": "not yet", "node": node, "iteration": 1, "iterations": 9}
    distilling.page.evaluate(send, ["progress_text", {"nodeId": node, "text": "encoding prompts: 64/1797"}])
    distilling.page.evaluate(send, ["sid.training", training])
    said(distilling, "^Training: iteration 1 of 9$")
    distilling.page.evaluate(send, ["progress_text", {"nodeId": node, "text": "· stopped, and saved"}])
    distilling.page.evaluate(send, ["sid.training", {"run": "not yet", "node": node, "ended": True}])
    said(distilling, "No run of this name yet")


def test_dragging_over_a_curve_shows_a_part_and_all_is_a_click_away(distilling, finished):
    page = distilling.page
    name_run(distilling, finished)
    said(distilling, "Finished: 300 iterations")
    page.evaluate(f"() => {{ window.app.canvas.ds.scale = 1; window.app.canvas.centerOnNode({DISTILL}) }}")
    plot = page.locator(".sid-panel svg").first
    plot.wait_for()
    # By events of the page's own, for the panel may lie beneath the editor's toolbar.
    plot.evaluate("""(plot) => {
      const box = plot.getBoundingClientRect()
      plot.setPointerCapture = () => {}
      for (const [kind, share] of [["pointerdown", 0.25], ["pointermove", 0.5], ["pointerup", 0.5]]) {
        const clientX = box.left + share * box.width
        plot.dispatchEvent(new PointerEvent(kind, { clientX, button: 0, bubbles: true }))
      }
      plot.dispatchEvent(new PointerEvent("pointerleave"))
    }""")
    shown = page.locator(".sid-panel .where")
    shown.filter(has_text="iterations 75 to 150;").wait_for()
    page.locator(".sid-panel .curves button", has_text="All").click()
    shown.filter(has_text="iterations 0 to 300;").wait_for()


def test_the_panel_is_there_within_a_subgraph(distilling, finished):
    page = distilling.page
    name_run(distilling, finished)
    page.evaluate(f"""() => {{
      const made = window.app.graph.convertToSubgraph(new Set([{DISTILL}]))
      window.app.canvas.setGraph(made.node.subgraph)
    }}""")
    said(distilling, "Finished: 300 iterations")
    page.evaluate("""() => {
      const { canvas } = window.app
      canvas.ds.scale = 1
      canvas.centerOnNode(canvas.graph._nodes.find((node) => node.type === "SiDDistill"))
      canvas.setDirty(true, true)
    }""")
    page.wait_for_function(f"() => ({POINTS})() === 300")
    page.evaluate("() => window.app.canvas.setGraph(window.app.graph)")


def test_a_workflow_that_is_saved_and_opened_again_has_the_size_that_it_had(distilling, finished):
    distilling.open(ui_workflow("demo_distil"))
    name_run(distilling, finished)
    said(distilling, "Finished: 300 iterations")
    size = f"() => [...{DISTILL}.size]"
    distilling.page.wait_for_function(f"() => ({POINTS})() === 300")
    before = distilling.page.evaluate(size)
    distilling.open(distilling.page.evaluate("() => window.app.graph.serialize()"))
    said(distilling, "Finished: 300 iterations")
    distilling.page.wait_for_function(f"() => ({POINTS})() === 300")
    assert distilling.page.evaluate(size) == before


def test_the_panel_is_no_part_of_the_workflow_or_of_what_is_queued(distilling, finished):
    name_run(distilling, finished)
    said(distilling, "Finished: 300 iterations")
    values = distilling.page.evaluate(f"() => {DISTILL}.serialize().widgets_values")
    widgets = distilling.page.evaluate(f"() => {DISTILL}.widgets.filter((w) => w.serialize !== false).length")
    assert len(values) == widgets and "run" not in distilling.page.evaluate(f"() => Object.keys({DISTILL}.properties)")
    graph = distilling.api_graph()
    (inputs,) = (node["inputs"] for node in graph.values() if node["class_type"] == "SiDDistill")
    assert "run" not in inputs and inputs["run_name"] == finished


ASKED = """async () => {
  const extensions = await (await fetch("/extensions")).json()
  const panel = extensions.find((url) => url.endsWith("/panel.js"))
  const { Run } = await import(panel.replace("panel.js", "panel/run.mjs"))
  let asking = 0, most = 0, answered = 0
  const news = { whole: false, curves: {}, warnings: [{ iteration: 1 }], previews: [], running: true, width: 1 }
  const fetchApi = async () => {
    most = Math.max(most, ++asking)
    await new Promise((done) => setTimeout(done, 1500))
    asking--
    answered++
    return { ok: true, json: async () => ({ ...news, trained: answered, cursor: `7.${answered}.0` }) }
  }
  const run = new Run({ fetchApi, apiURL: (address) => address }, "slow", () => {}, () => true)
  run.refresh()
  for (let i = 1; i <= 8; i++) {
    run.hear({ iteration: 100 * i })
    await new Promise((done) => setTimeout(done, 500))
  }
  run.close()
  return { most, warnings: run.warnings.length, answered, picture: run.picture("teacher") }
}"""


def test_a_slow_server_is_asked_one_question_at_a_time(editor):
    """Two answers to one cursor would tell of the same warning twice; and a run that is started over has other
    pictures under the same names."""
    found = editor.page.evaluate(ASKED)
    assert found["most"] == 1 and found["warnings"] == found["answered"] >= 2
    assert "preview=teacher" in found["picture"] and "cursor=7" in found["picture"]
