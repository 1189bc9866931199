"""The test process's own ComfyUI: tests of nodes stand on it."""

import sys


def test_a_graph_of_stock_nodes_gives_its_values_and_files(run_graph, comfyui):
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 4, "batch_size": 1, "color": 255}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}},
    }
    result = run_graph(graph)
    assert result.success
    assert result.error is None
    assert result.value("1")[0, 0, 0].tolist() == [0, 0, 1]
    assert (comfyui.base_directory / "output" / result.outputs["2"]["images"][0]["filename"]).is_file()


def test_a_failing_node_gives_its_message(run_graph):
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "2": {"class_type": "ImageCrop", "inputs": {"image": ["1", 0], "width": 8, "height": 8, "x": -1, "y": 0}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    result = run_graph(graph)
    assert not result.success
    assert "node 2 (ImageCrop), input x" in result.error


def test_nodes_and_tests_share_the_pack_s_classes(comfyui):
    import nodes

    from sid_pack.nodes import extension

    ours = {name for name, node in nodes.NODE_CLASS_MAPPINGS.items() if node.__module__.startswith("sid_pack.")}
    assert ours
    assert sys.modules["sid_pack.nodes.extension"] is extension
