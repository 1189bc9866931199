"""CleanStyle's view: the browser's formulas are Python's, and what is drawn moves with the knobs."""

import json
import random
import urllib.request

import pytest
import torch
from workflows.node_kinds import KINDS, drawn_as
from workflows.shipped import ui_workflow

FORMULAS = """async (cases) => {
  const extensions = await (await fetch("/extensions")).json()
  const view = extensions.find((url) => url.endsWith("/cleanstyle.js"))
  const js = await import(view.replace("cleanstyle.js", "cleanstyle_formula.mjs"))
  return cases.map(({ progress, values, knobs }) => {
    const purified = js.purifyGains(values, knobs)
    return [js.suppression(progress, knobs), purified, js.negativeGains(values, knobs), js.kept(values, purified)]
  })
}"""
DRAWN = """() => {
  const node = window.app.graph._nodes.find((node) => node.type === "CleanStyle")
  const box = node.widgets.find((widget) => widget.name === "cleanstyle_view").element
  const points = box.querySelector("[data-sid=alpha]").getAttribute("points")
  return {
    heights: points.split(" ").map((point) => Number(point.split(",")[1])),
    kept: box.querySelector("[data-sid=kept]")?.textContent ?? null,
    before: box.querySelectorAll("[data-sid=before]").length,
    onScreen: box.getClientRects().length > 0,
  }
}"""
GO_THERE = """() => {
  const node = window.app.graph._nodes.find((node) => node.type === "CleanStyle")
  const { ds } = window.app.canvas
  ds.scale = 1
  ds.offset = [300 - node.pos[0], 200 - node.pos[1]]
  window.app.canvas.setDirty(true, true)
}"""
TURN = """([name, value]) => {
  const node = window.app.graph._nodes.find((node) => node.type === "CleanStyle")
  node.widgets.find((widget) => widget.name === name).value = value
}"""
BOTTOM, HIGH = 76, 54  # of the schedule, in the drawing's units


def test_the_browsers_formulas_are_pythons(editor):
    from sid_pack.sid_core.method.cleanstyle import Spectrum, suppression

    draw, cases, expected = random.Random(0), [], []
    for _ in range(200):
        values = sorted((draw.expovariate(0.1) for _ in range(draw.randint(1, 20))), reverse=True)
        top_k = draw.randint(0, len(values))
        alpha, beta = draw.choice([0.0, 0.01, draw.uniform(0, 100)]), draw.uniform(0, 2)
        gamma, center, progress = draw.choice([0.0, 20.0, draw.uniform(0, 1000)]), draw.random(), draw.random()
        relative, hard = draw.random() < 0.5, draw.random() < 0.5
        knobs = {"top_k": top_k, "alpha": alpha, "beta": beta, "gamma": gamma, "center": center}
        cases.append({"progress": progress, "values": values, "knobs": knobs | {"relative": relative, "hard": hard}})
        # Gains are of the singular values alone.
        spectrum = Spectrum(torch.empty(0), torch.empty(0), torch.tensor([values], dtype=torch.float64), torch.float64)
        gains = spectrum.purify_gains(top_k, alpha, beta, relative)
        negative = spectrum.negative_gains(alpha, beta, hard, top_k, relative)
        alpha_t = suppression(progress, alpha=alpha, gamma=gamma, center=center)
        expected.append([alpha_t, gains[0].tolist(), negative[0].tolist(), spectrum.kept(gains).item()])
    for got, wanted in zip(editor.page.evaluate(FORMULAS, cases), expected, strict=True):
        for theirs, ours in zip(got, wanted, strict=True):
            assert theirs == pytest.approx(ours, rel=1e-9, abs=1e-12)


def schedule(**knobs: float) -> list[float]:
    """How high the curve of α_t stands."""
    from sid_pack.sid_core.method.cleanstyle import suppression

    alpha = knobs["alpha"]
    return [BOTTOM - HIGH * suppression(i / 120, **knobs) / alpha for i in range(121)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_schedule_is_drawn_before_a_run_and_moves_with_the_knobs(editor, kind):
    with drawn_as(editor, kind):
        editor.open(ui_workflow("sdxl_cleanstyle"))
        editor.page.evaluate(GO_THERE)
        editor.page.wait_for_timeout(1000)
        knobs = {"alpha": 0.01, "gamma": 20.0, "center": 0.3}
        for turned in ({}, {"center": 0.6}, {"gamma": 5.0}, {"alpha": 0.5}):
            knobs |= turned
            for name, value in knobs.items():
                editor.page.evaluate(TURN, [name, value])
            editor.page.wait_for_timeout(600)
            drawn = editor.page.evaluate(DRAWN)
            assert drawn["heights"] == pytest.approx(schedule(**knobs), abs=0.06)
            assert drawn["kept"] is None
        assert drawn["onScreen"]


def test_after_a_run_singular_values_follow_the_knobs_without_another(editor, comfyui_server):
    from sid_pack.sid_core.method.cleanstyle import Spectrum, suppression

    editor.open(ui_workflow("demo_cleanstyle"))
    editor.page.get_by_test_id("queue-button").click()
    editor.page.wait_for_function(f"() => ({DRAWN})().kept")
    said = []
    while not said:  # the history has a run when it is over
        editor.page.wait_for_timeout(500)
        with urllib.request.urlopen(f"{comfyui_server.url}/history") as answer:
            outputs = [output for run in json.load(answer).values() for output in run["outputs"].values()]
        said = [output["cleanstyle"][0] for output in outputs if "cleanstyle" in output]
    layer = said[0]["layers"][0]
    spectrum = Spectrum(torch.empty(0), torch.empty(0), torch.tensor([layer["values"]]), torch.float32)
    shown = []
    for alpha in (0.02, 5.0):
        editor.page.evaluate(TURN, ["alpha", alpha])
        editor.page.wait_for_timeout(600)
        drawn = editor.page.evaluate(DRAWN)
        left = spectrum.kept(spectrum.purify_gains(1, suppression(0.0, alpha=alpha))).item()
        assert drawn["before"] == len(layer["values"])
        assert drawn["kept"] == f"{layer['name']}: {100 * left:.0f} % of energy left"
        shown.append(drawn["kept"])
    assert shown[0] != shown[1]
