"""The guides' pictures: the tutorial's of a run's folder, and the graph that draws what CleanStyle takes out."""

import json

import pytest
from documents import ROOT
from PIL import Image

from sid_pack.dev.make_guide_pictures import GAP, SHOWN_AT, spectrum_graph, tutorial

COLOURS = {SHOWN_AT[0]: (200, 30, 30), 250: (30, 200, 30), SHOWN_AT[1]: (30, 30, 200)}
SIZE = (24, 10)


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / "previews").mkdir()
    for iteration, colour in COLOURS.items():
        Image.new("RGB", SIZE, colour).save(tmp_path / "previews" / f"preview_{iteration:07}.png")
    Image.new("RGB", SIZE, "navy").save(tmp_path / "curves.png")
    return tmp_path


def test_the_first_preview_is_above_the_last(run_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("images")
    tutorial(run_folder, out)
    assert (out / "curves.png").read_bytes() == (run_folder / "curves.png").read_bytes()
    drawn = Image.open(out / "previews.png").convert("RGB")
    assert drawn.size == (SIZE[0], 2 * SIZE[1] + GAP)
    places = (SIZE[1] // 2, SIZE[1] + GAP // 2, drawn.height - 1)
    assert [drawn.getpixel((0, y)) for y in places] == [COLOURS[SHOWN_AT[0]], (255, 255, 255), COLOURS[SHOWN_AT[1]]]


def test_a_run_that_is_too_short_is_refused(run_folder, tmp_path_factory):
    (run_folder / "previews" / f"preview_{SHOWN_AT[1]:07}.png").unlink()
    with pytest.raises(FileNotFoundError, match=f"has no preview at {SHOWN_AT[1]}"):
        tutorial(run_folder, tmp_path_factory.mktemp("images"))


def test_the_guide_s_graph_has_what_it_needs_and_nothing_else():
    graph = spectrum_graph()
    links = {value[0] for node in graph.values() for value in node["inputs"].values() if isinstance(value, list)}
    assert links == graph.keys() - {"saved"}
    schemas = json.loads((ROOT / "tests" / "data" / "schemas.json").read_text(encoding="utf-8"))
    drawn = graph["spectrum"]
    assert drawn["inputs"].keys() == {name for name, *_ in schemas[drawn["class_type"]]["required"]}
