"""Reading graphs in API format from files as users have them."""

import json

import pytest
from headless_runs import IMAGE, SAVE

from sid_pack.sid_core.headless import HeadlessError
from sid_pack.sid_core.headless.graph import read_graph, title

GRAPH = {"1": IMAGE, "2": SAVE | {"_meta": {"title": "behält"}}}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_graph_is_read_with_a_byte_order_mark_too(tmp_path, encoding):
    file = tmp_path / "graph.json"
    file.write_text(json.dumps(GRAPH, ensure_ascii=False), encoding=encoding)
    assert read_graph(file) == GRAPH


def test_a_graph_is_read_as_it_is_posted(tmp_path):
    file = tmp_path / "graph.json"
    file.write_text(json.dumps({"client_id": "x", "prompt": GRAPH, "extra_data": {}}), encoding="utf-8")
    assert read_graph(file) == GRAPH
    file.write_text(json.dumps({"prompt": IMAGE}), encoding="utf-8")  # a node of that id
    assert read_graph(file) == {"prompt": IMAGE}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("\xff", "is not JSON"),
        ("[]", "holds no nodes"),
        ("{}", "holds no nodes"),
        ("null", "holds no nodes"),
        ('{"prompt": {}}', "holds no nodes"),
        ('{"1": {"class_type": "X", "inputs": {}}, "#7": {"inputs": {}}}', "entry '#7' has no class_type"),
        ('{"1": {"class_type": null, "inputs": {}}}', "entry '1' has no class_type"),
        ('{"1": 5}', "entry '1' has no class_type"),
        ('{"1": {"class_type": "X"}}', "entry '1' has no inputs"),
        ('{"output": {}, "workflow": {}}', "entry 'output' has no class_type"),
        ('{"nodes": [], "links": []}', "it is a workflow as the editor saves it"),
    ],
)
def test_a_file_that_is_no_graph_is_refused_with_what_to_do(tmp_path, content, message):
    file = tmp_path / "graph.json"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(HeadlessError) as error:
        read_graph(file)
    assert message in str(error.value)
    assert str(error.value).startswith("Export graph.json ")


def test_a_file_that_cannot_be_read_is_said_so(tmp_path):
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(HeadlessError, match="Give a file that can be read"):
            read_graph(path)


def test_a_node_is_called_by_its_title_else_its_class():
    assert title({"3": IMAGE | {"_meta": {"title": "Blue"}}}, "3") == "node 3 (Blue)"
    for meta in (None, [], {}, {"title": None}, {"title": 5}):
        assert title({"3": IMAGE | {"_meta": meta}}, "3") == "node 3 (EmptyImage)"
    assert title({}, "3:0:1") == "node 3:0:1"  # it came of a node that expands
