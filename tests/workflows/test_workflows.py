"""The workflows that come with the pack: the same in both formats, understood by the editor, run by ComfyUI."""

import asyncio
import io
import json
import re
import urllib.request
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from workflows.conftest import FILES, place_style_picture
from workflows.shipped import FOLDER, NAMES, TITLES, api_graph, ui_workflow

DEMOS = [name for name in NAMES if name.startswith("demo_")]
# Enough to show that the workflow runs; how well it distils is for the demo.
FEW = {
    "SiDDistill": {"iterations": 2, "batch_size": 2, "preview_every": 2},
    "SiDTrainingEvaluation": {"every": 2, "samples": 16, "teacher_steps": 2},
}


USERS_FILES = {
    ("CheckpointLoaderSimple", "value_not_in_list", "ckpt_name"),
    ("SiDLoadStudent", "custom_validation_failed", "student"),
    ("CLIPVisionLoader", "value_not_in_list", "clip_name"),
    ("IPAdapterModelLoader", "value_not_in_list", "ipadapter_file"),
    ("CleanStyleIPAdapterLoader", "custom_validation_failed", "ip_adapter"),
    ("StyleModelLoader", "value_not_in_list", "style_model_name"),
}
NEWER_HOSTS_LOOK = {("CleanStyleIPAdapterLoader", "value_not_in_list", "style_encoder")}  # StyleShot's
IPADAPTER_PLUS = {"IPAdapterModelLoader", "IPAdapterAdvanced"}


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def assert_pictures(folder: Path, images: list[dict[str, str]], count: int) -> None:
    assert len(images) == count
    for image in images:
        pixels = np.asarray(Image.open(folder / image["subfolder"] / image["filename"]), dtype=np.float32)
        assert pixels.std() > 5, f"{image['filename']} is constant"


def test_each_workflow_has_its_twin_and_no_file_is_left_over():
    assert {path.stem for path in (FOLDER / "api").glob("*.json")} == set(NAMES)
    assert {path.stem for path in FOLDER.glob("*.json")} == set(TITLES.values())


def test_their_names_sort_with_the_one_to_begin_with_first_and_can_be_files_and_addresses_everywhere():
    """The template browser's search knows nothing but the name."""
    assert NAMES[0] == "demo_sample_student"
    numbers = [int(title[:2]) for title in sorted(TITLES.values())]
    assert numbers == sorted(set(numbers))
    for title in TITLES.values():
        assert not set(title) & set('<>:"/\\|?*#%_') or "IPAdapter_plus" in title
        assert len(title) <= 70
    for searched in ("few-step", "emoji", "distil", "LoRA", "style", "SDXL", "CleanStyle", "SiD"):
        assert any(searched in title for title in TITLES.values())
    for name, title in TITLES.items():
        assert name.startswith("demo_") == title.endswith("emoji demo, no download")


def test_the_files_are_what_their_descriptions_say(comfyui_server):
    from sid_pack.dev.workflows.api_format import api_graph as make_api_graph
    from sid_pack.dev.workflows.sheets import SHEETS

    definitions = get_json(f"{comfyui_server.url}/object_info")
    made = {sheet.name: make_api_graph(sheet, definitions) for sheet in (make() for make in SHEETS)}
    assert made == {name: api_graph(name) for name in NAMES}, "run `python -m dev.make_workflows`"


def test_each_node_of_the_pack_is_in_a_workflow(comfyui_server):
    definitions = get_json(f"{comfyui_server.url}/object_info")
    ours = {kind for kind, node in definitions.items() if node["python_module"] == "custom_nodes.comfyui-sid"}
    assert ours == {node["class_type"] for name in NAMES for node in api_graph(name).values()} & ours


def test_notes_name_workflows_that_there_are():
    for name in NAMES:
        note = next(node for node in ui_workflow(name)["nodes"] if node["type"] == "MarkdownNote")["widgets_values"][0]
        assert "`" not in note  # illegible on the note's colour in Nodes 2.0
        for title in re.findall(r"\*(\d\d [^*]+)\*", note):
            assert title in TITLES.values()


def test_comfyui_offers_them_as_templates(comfyui_server):
    assert sorted(get_json(f"{comfyui_server.url}/workflow_templates")["comfyui-sid"]) == sorted(TITLES.values())
    for name in NAMES:
        template = f"{comfyui_server.url}/api/workflow_templates/comfyui-sid/{quote(TITLES[name])}"
        assert get_json(f"{template}.json") == ui_workflow(name)


def test_each_has_a_small_square_picture_that_the_template_browser_finds(comfyui_server):
    assert {path.stem for path in FOLDER.glob("*.jpg")} == set(TITLES.values())
    for title in TITLES.values():
        address = f"{comfyui_server.url}/api/workflow_templates/comfyui-sid/{quote(title)}.jpg"
        with urllib.request.urlopen(address) as answer:
            kept = answer.read()
        picture = Image.open(io.BytesIO(kept))
        assert (picture.format, picture.size) == ("JPEG", (400, 400))
        assert len(kept) <= 20_000
        assert np.asarray(picture.convert("L")).std() > 5


@pytest.mark.parametrize("name", NAMES)
def test_files_to_get_have_a_name_a_folder_and_an_address(name, comfyui_server):
    """so that the editor offers those that are missing. Students and pictures are the user's own."""
    folders = get_json(f"{comfyui_server.url}/models")
    for node in ui_workflow(name)["nodes"]:
        chosen = {value for value in node["widgets_values"] if str(value).endswith((".safetensors", ".bin"))}
        known = node["properties"].get("models", [])
        own = {value for value in chosen if "_student_" in value}
        assert {model["name"] for model in known} == chosen - own
        for model in known:
            assert model["directory"] in folders
            assert re.match(r"https://huggingface\.co/[^/]+/[^/]+/resolve/main/.+\.(safetensors|bin)$", model["url"])


@pytest.mark.parametrize("name", ["SiD generate", "Style, cleaned"])
def test_comfyui_offers_the_blueprints(name, comfyui_server):
    offered = get_json(f"{comfyui_server.url}/global_subgraphs")
    (key,) = (key for key, entry in offered.items() if entry["name"] == name)
    data = get_json(f"{comfyui_server.url}/global_subgraphs/{key}")["data"]
    assert data.isascii()  # hosts read it in the system's encoding
    blueprint = json.loads(data)
    (node,), (subgraph,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    assert node["type"] == subgraph["id"]
    inside = {str(each["id"]): each for each in subgraph["nodes"]}
    for key, widget in node["properties"]["proxyWidgets"]:
        assert widget in {each["name"] for each in inside[key]["inputs"] if "widget" in each}


@pytest.mark.parametrize("name", NAMES)
def test_all_nodes_are_the_pack_s_or_stock_ones(name, comfyui_server):
    definitions = get_json(f"{comfyui_server.url}/object_info")
    for node in api_graph(name).values():
        module = definitions[node["class_type"]]["python_module"]
        ours = module == "custom_nodes.comfyui-sid"
        assert ours == node["class_type"].startswith(("SiD", "CleanStyle"))
        other_pack = name.endswith("_ipadapter_plus") and node["class_type"] in IPADAPTER_PLUS
        assert ours or other_pack or module == "nodes" or module.startswith("comfy_extras.")


@pytest.mark.parametrize("name", NAMES)
def test_all_that_is_chosen_is_on_offer(name, comfyui_server):
    """But for files, which are the user's. ComfyUI 0.3.75 does not look at the choices of new nodes."""
    definitions = get_json(f"{comfyui_server.url}/object_info")
    for node in api_graph(name).values():
        specs = definitions[node["class_type"]]["input"]
        for key, value in node["inputs"].items():
            spec = (specs.get("required", {}) | specs.get("optional", {}))[key]
            offered = spec[0] if isinstance(spec[0], list) else spec[1].get("options") if len(spec) > 1 else None
            if offered is not None and key not in {*FILES, "image", "file"}:
                assert value in offered, f"{node['class_type']}.{key}"


@pytest.mark.parametrize("name", NAMES)
def test_nodes_are_called_one_thing(name, comfyui_server):
    """In titles and in the note; and each says which pack it is of."""
    from sid_pack.dev.workflows.ui_format import PACK

    shown = {kind: node["display_name"] for kind, node in get_json(f"{comfyui_server.url}/object_info").items()}
    note, *nodes = ui_workflow(name)["nodes"]
    titles = [node["title"] for node in nodes if "title" in node]
    assert len(titles) == len(set(titles))
    untitled = {shown[node["type"]] for node in nodes if "title" not in node}
    assert not untitled & set(titles)
    for node in nodes:
        if "title" in node and node["title"] != shown[node["type"]]:
            alone = shown[node["type"]] not in untitled
            assert not alone or f"*{shown[node['type']]}*" not in note["widgets_values"][0]
        ours = node["type"].startswith(("SiD", "CleanStyle"))
        other = "comfyui_ipadapter_plus" if node["type"] in IPADAPTER_PLUS else "comfy-core"
        assert node["properties"]["cnr_id"] == (PACK if ours else other)


@pytest.mark.parametrize("name", NAMES)
def test_a_folded_node_s_title_is_shown_whole(name, comfyui_server):
    """The classic editor cuts it after 20 letters."""
    shown = {kind: node["display_name"] or kind for kind, node in get_json(f"{comfyui_server.url}/object_info").items()}
    folded = [node for node in ui_workflow(name)["nodes"] if node["flags"].get("collapsed")]
    assert [title for node in folded if len(title := node.get("title", shown[node["type"]])) > 20] == []


@pytest.mark.parametrize("name", [name for name in DEMOS if name != "demo_evaluate"])
def test_the_demo_workflows_run(name, run_graph, comfyui):
    graph = api_graph(name)
    for node in graph.values():
        node["inputs"] |= FEW.get(node["class_type"], {})
    result = run_graph(graph)
    assert result.error is None
    (saved,) = (key for key, node in graph.items() if node["class_type"] == "SaveImage")
    assert_pictures(comfyui.base_directory / "output", result.outputs[saved]["images"], 8)


def test_the_demo_s_evaluation_has_teacher_and_students_with_what_each_costs(run_graph):
    """20 guided steps, 4 steps and 1, and every number is there."""
    graph = api_graph("demo_evaluate")
    (evaluate,) = (key for key, node in graph.items() if node["class_type"] == "SiDEvaluate")
    result = run_graph(graph)
    assert result.success, result.error
    models = json.loads(result.value(evaluate, 3))["models"]
    assert [row["metrics"]["forwards an image"]["value"] for row in models] == [40, 4, 1]
    assert [row["metrics"]["kernel distance"]["value"] is None for row in models] == [True, False, False]
    assert result.value(evaluate, 2).shape[0] == 1


def test_the_demo_s_cleanstyle_shows_one_style_picture_and_three_others_beside_it(run_graph, comfyui):
    """each another: the image prompt does something, and so does CleanStyle to it"""
    graph = api_graph("demo_cleanstyle")
    (saved,) = (key for key, node in graph.items() if node["class_type"] == "SaveImage")
    (adapter,) = (node for node in graph.values() if node["class_type"] == "CleanStyleIPAdapter")
    assert adapter["inputs"]["weight"] == 0.6
    result = run_graph(graph)
    assert result.success, result.error
    rows = []
    for image in result.outputs[saved]["images"]:
        with Image.open(comfyui.base_directory / "output" / image["subfolder"] / image["filename"]) as picture:
            assert picture.size == (4 * (4 * 64 + 3 * 4), 4 * 64)
            row = np.asarray(picture, dtype=np.float32)
        rows.append(np.stack([row[:, start : start + 256] for start in range(0, row.shape[1], 272)]))
    panels = np.stack(rows).swapaxes(0, 1)
    assert panels.shape == (4, 8, 256, 256, 3)
    style, plain, styled, cleaned = panels
    assert np.abs(style - style[:1]).max() == 0
    assert np.abs(plain - plain[:1]).mean() > 5  # eight pictures, not one eight times
    for one, other in ((plain, styled), (styled, cleaned), (plain, cleaned)):
        assert np.abs(one - other).mean() > 1


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(DEMOS)))
def test_the_others_lack_nothing_but_the_user_s_files(name, comfyui, monkeypatch):
    import execution
    import nodes
    from fakes import ipadapter_plus_nodes

    for kind in IPADAPTER_PLUS:
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, kind, getattr(ipadapter_plus_nodes, kind))
    place_style_picture(comfyui.base_directory)
    graph = api_graph(name)
    _, _, _, node_errors = asyncio.run(execution.validate_prompt(str(uuid.uuid4()), graph, None))
    lacking = {
        (graph[key]["class_type"], error["type"], error["extra_info"]["input_name"])
        for key, found in node_errors.items()
        for error in found["errors"]
    }
    kinds = {node["class_type"] for node in graph.values()}
    assert lacking - NEWER_HOSTS_LOOK == {lack for lack in USERS_FILES if lack[0] in kinds}
