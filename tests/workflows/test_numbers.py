"""Small numbers on nodes, as both of the editor's ways to draw a node show them."""

import pytest
from workflows.node_kinds import KINDS, drawn_as, shown_number

ADD = """async ([type, values]) => {
  window.app.graph.clear()
  const node = window.LiteGraph.createNode(type)
  window.app.graph.add(node)
  node.showAdvanced = true
  for (const [name, value] of Object.entries(values)) {
    const widget = node.widgets.find((widget) => widget.name === name)
    widget.value = value
    widget.callback(value)
  }
  await new Promise((done) => setTimeout(done, 600))  // the pack looks at values that scripts set now and then
}"""
TYPE_IN = """([type, name, value]) => {
  const node = window.app.graph._nodes.find((node) => node.type === type)
  const widget = node.widgets.find((widget) => widget.name === name)
  widget.value = value
  widget.callback(value)
  return widget.value
}"""
SMALL = {
    "SiDDistill": {"student_learning_rate": 1e-6, "fake_learning_rate": 2.5e-8, "t_init": 0.4},
    "SiDTrainingOptions": {"adam_epsilon": 1e-10, "adversarial_weight": 1e-4},
    "SiDScheduler": {"t_init": 0.4},
    "CleanStyle": {"alpha": 0.0105},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("node", SMALL)
def test_small_numbers_read_as_they_are(editor, node, kind):
    with drawn_as(editor, kind):
        editor.page.evaluate(ADD, [node, SMALL[node]])
        shown = {name: shown_number(editor, kind, node, name) for name in SMALL[node]}
    assert shown == SMALL[node]


@pytest.mark.parametrize("value", [1e-6, 2.5e-8, 3e-9])
def test_what_is_typed_in_is_kept(editor, value):
    editor.page.evaluate(ADD, ["SiDDistill", {}])
    assert editor.page.evaluate(TYPE_IN, ["SiDDistill", "student_learning_rate", value]) == value


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_has_its_own_values_where_another_of_its_number_was_cleared_away(editor, kind):
    """Both have an alpha, and the graph counts its nodes from 1 again."""
    with drawn_as(editor, kind):
        editor.page.evaluate(ADD, ["SiDDistill", {"alpha": 1.25}])
        editor.page.evaluate(ADD, ["CleanStyle", {}])
        assert shown_number(editor, kind, "CleanStyle", "alpha") == 0.01
    assert editor.page.evaluate("() => window.app.graph.serialize().nodes[0].widgets_values[1]") == 0.01
