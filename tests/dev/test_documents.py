"""The README and the pages beside it: whatever they name or lead to is there, by the name that they give it."""

import re

import pytest
from documents import (
    EMPHASIS,
    PAGES,
    ROOT,
    STRONG,
    anchors,
    codes,
    links,
    node_titles,
    place_of,
    prose,
    text_of,
    words_of_nodes,
)

from sid_pack.dev.workflows.titles import TITLES

PAPER = re.compile(r"https://arxiv\.org/abs/\d{4}\.\d{5}")
MOST_COLUMNS = 7  # more are cut off where a page is shown some 830 pixels wide
# What a word in backquotes begins with where it is a place in the repository.
PLACES = ("benchmarks/", "demo/", "dev/", "docs/", "nodes/", "sid_core/", "subgraphs/", "tests/", "web/", "workflows/")
# ComfyUI's own nodes, inputs, schedulers and menus.
HOST = {
    *("Apply Style Model", "BasicGuider", "KSamplerSelect", "Load Checkpoint", "Load CLIP Vision", "Load LoRA"),
    *("Load Diffusion Model", "SamplerCustomAdvanced", "VAE Decode"),
    *("cfg", "guider", "sampler", "sigmas", "Karras", "simple", "sgm_uniform"),
    *("Workflow → Browse templates", "Workflow → Export (API)", "Save"),
}
# What is measured, and a heading of the help pages.
MEASURED = {
    *("distance", "to the teacher's", "subject", "style", "variety", "real pictures out of the codec"),
    *("kernel distance", "Fréchet distance", "recall", "precision", "CLIP score", "forwards", "seconds an image"),
    "When it fails",
}
WITHOUT_MODEL = {title.rpartition(" - ")[0] for title in TITLES.values()}


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_lead_somewhere(page):
    for is_picture, words, target in links(page):
        assert words, target
        if target.startswith("https://"):
            assert PAPER.fullmatch(target), target
            continue
        there, heading = place_of(page, target), target.partition("#")[2]
        assert there.is_file() and there.is_relative_to(ROOT), target
        assert not heading or heading in anchors(there.relative_to(ROOT).as_posix()), target
        assert is_picture == (there.suffix == ".png"), target


def test_every_page_is_reached_from_the_readme():
    reached, unread = set(), {"README.md"}
    while unread:
        page = unread.pop()
        reached.add(page)
        there = {place_of(page, target) for _, _, target in links(page)}
        unread |= {other for other in PAGES if ROOT / other in there} - reached
    assert reached == set(PAGES)


def test_every_picture_is_shown_and_what_made_it_is_said():
    shown = {place_of(page, target) for page in PAGES for is_picture, _, target in links(page) if is_picture}
    images = set((ROOT / "docs" / "images").iterdir())
    of_the_registry = {ROOT / "docs" / "images" / name for name in ("icon.png", "banner.png")}
    assert images - shown == of_the_registry
    assert {picture.relative_to(ROOT).as_posix() for picture in images | shown} <= set(codes("CONTRIBUTING.md"))


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page):
    for text in codes(page):
        place = text.split()[0]
        assert not place.startswith(PLACES) or (ROOT / place).exists(), text


@pytest.mark.parametrize("page", PAGES)
def test_what_is_in_italics_is_a_name_that_there_is(page):
    """An input, a choice, a node or a template; but a whole sentence below a picture is stressed alone."""
    known = words_of_nodes() | node_titles() | set(TITLES.values()) | HOST | MEASURED
    assert {text for text in EMPHASIS.findall(prose(page)) if not text.endswith(".")} <= known


@pytest.mark.parametrize("page", PAGES)
def test_nodes_in_bold_are_called_what_they_show(page):
    """A question or a sentence may begin with a node's name too."""
    named = {text for text in STRONG.findall(prose(page)) if text.startswith(("SiD ", "CleanStyle "))}
    assert {text for text in named if not text.endswith((".", "?"))} <= node_titles()


def test_the_readme_names_every_node():
    assert node_titles() <= set(STRONG.findall(prose("README.md")))


@pytest.mark.parametrize("page", PAGES)
def test_workflows_in_tables_are_called_what_the_browser_calls_them(page):
    listed = re.findall(r"^\| \*{0,2}(\d\d)\*{0,2} ([^|]+) \|", text_of(page), re.MULTILINE)
    assert {f"{number} {words}" for number, words in listed} <= WITHOUT_MODEL | set(TITLES.values())


def test_every_workflow_is_listed_with_its_file():
    row = r"^\| \*\*(\d\d)\*\* ([^|]+) \|[^|]+\| `(\w+)\.json` \|$"
    listed = re.findall(row, text_of("docs/headless.md"), re.MULTILINE)
    said = {file: f"{number} {words}" for number, words, file in listed}
    assert said == {file: title.rpartition(" - ")[0] for file, title in TITLES.items()}


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_not_too_wide(page):
    rows = re.findall(r"^\|.+\|$", text_of(page), re.MULTILINE)
    assert all(row.count("|") - 1 <= MOST_COLUMNS for row in rows)
