"""What nodes say of the connected student before anything is queued."""

import json

import pytest
import torch
from workflows.node_kinds import KINDS, drawn_as

BUILD = """({ file, steps, cfg, kind }) => {
  const graph = window.app.graph
  graph.clear()
  const add = (type) => {
    const node = window.LiteGraph.createNode(type)
    graph.add(node)
    return node
  }
  const set = (node, name, value) => { node.widgets.find((widget) => widget.name === name).value = value }
  const link = (from, to, type) => from.connect(
    from.outputs.findIndex((output) => output.type === type), to, to.inputs.findIndex((input) => input.type === type))
  const [base, patch, sampled, sampler] = [kind, "LoraLoaderModelOnly", "SiDScheduler", "SamplerCustom"].map(add)
  if (file) set(base, "student", file)
  link(base, patch, "MODEL")
  link(patch, sampled, "MODEL")
  link(sampled, sampler, "SIGMAS")
  set(sampled, "steps", steps)
  set(sampler, "cfg", cfg)
}"""
LINES = """() => {
  const { graph } = window.app
  const all = [graph, ...graph.subgraphs.values()].flatMap((each) => [...each._nodes])
  const node = all.find((node) => node.type === "SiDScheduler")
  const box = node.widgets.find((widget) => widget.name === "student_says").element
  const said = [...box.children].map((line) => line.textContent)
  return said.length && !said[0].includes("…") ? said : null
}"""
SET_STEPS = """(steps) => {
  const node = window.app.graph._nodes.find((node) => node.type === "SiDScheduler")
  node.widgets.find((widget) => widget.name === "steps").value = steps
}"""
SIX = {"sid.steps": 6, "sid.t_init": 700, "sid.noise_mode": "fresh"}


def lines(editor) -> list[str]:
    editor.page.wait_for_timeout(600)  # nodes look at each other now and then
    editor.page.wait_for_function(LINES)
    return editor.page.evaluate(LINES)


@pytest.fixture(scope="module")
def student(comfyui_server) -> str:
    from safetensors.torch import save_file

    loras = comfyui_server.base_directory / "models" / "loras"
    loras.mkdir(parents=True, exist_ok=True)
    save_file({"a": torch.zeros(1)}, loras / "six steps & more.safetensors", {k: json.dumps(v) for k, v in SIX.items()})
    save_file({"a": torch.zeros(1)}, loras / "ordinary.safetensors", {"ss_network_dim": "4"})
    return "six steps & more.safetensors"


@pytest.mark.parametrize("kind", KINDS)
def test_the_students_own_steps_are_told_and_a_contradiction_is_marked(editor, student, kind):
    with drawn_as(editor, kind):
        editor.page.evaluate(BUILD, {"file": student, "steps": 8, "cfg": 7, "kind": "SiDLoadStudent"})
        assert lines(editor) == [
            "student: 6 steps from t_init 700, CFG 1",
            "⚠ Set steps to 0 or 6: it is 8.",
            "⚠ Set CFG to 1 on the sampler: it is 7.",
        ]
        editor.page.evaluate(SET_STEPS, 6)
        assert lines(editor) == [
            "student: 6 steps from t_init 700, CFG 1",
            "⚠ Set CFG to 1 on the sampler: it is 7.",
        ]


INTO_SUBGRAPH = """(types) => {
  const { graph } = window.app
  graph.convertToSubgraph(new Set(graph._nodes.filter((node) => types.includes(node.type))))
}"""


@pytest.mark.parametrize(
    "inside", [["SiDLoadStudent"], ["SiDLoadStudent", "LoraLoaderModelOnly"], ["LoraLoaderModelOnly"]]
)
def test_a_student_that_comes_out_of_a_subgraph_or_through_one_is_seen(editor, student, inside):
    editor.page.evaluate(BUILD, {"file": student, "steps": 8, "cfg": 1, "kind": "SiDLoadStudent"})
    editor.page.evaluate(INTO_SUBGRAPH, inside)
    assert lines(editor) == ["student: 6 steps from t_init 700, CFG 1", "⚠ Set steps to 0 or 6: it is 8."]


def test_a_student_outside_is_seen_from_within_a_subgraph_unless_that_is_used_twice(editor, student):
    editor.page.evaluate(BUILD, {"file": student, "steps": 6, "cfg": 1, "kind": "SiDLoadStudent"})
    editor.page.evaluate(INTO_SUBGRAPH, ["SiDScheduler", "LoraLoaderModelOnly"])
    assert lines(editor) == ["student: 6 steps from t_init 700, CFG 1"]
    editor.page.evaluate("""() => {
      const { graph } = window.app
      const used = graph._nodes.find((node) => node.subgraph)
      graph.add(window.LiteGraph.createNode(used.type))
    }""")
    assert lines(editor) == ["no student is seen here yet"]


def test_a_file_of_others_is_said_to_be_known_when_it_runs(editor, student):
    editor.page.evaluate(BUILD, {"file": "ordinary.safetensors", "steps": 4, "cfg": 1, "kind": "SiDLoadStudent"})
    assert lines(editor) == [
        "a file of others: whether it is a student, and its steps, are known when it runs",
    ]


def test_a_student_on_its_way_is_known_by_the_node_that_trains_it(editor):
    editor.page.evaluate(BUILD, {"file": None, "steps": 0, "cfg": 1, "kind": "SiDDistill"})
    assert lines(editor) == ["student: 4 steps, CFG 1"]


def test_an_ordinary_model_needs_steps(editor):
    editor.page.evaluate(BUILD, {"file": None, "steps": 0, "cfg": 7, "kind": "CheckpointLoaderSimple"})
    assert lines(editor) == ["⚠ Set steps, or connect a student: this model is none."]
    editor.page.evaluate(SET_STEPS, 4)
    assert lines(editor) == ["this model is no student"]
