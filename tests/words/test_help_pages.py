"""The help pages: what the nodes have and nothing else, in every language; pictures and links lead somewhere."""

import re
from pathlib import Path

import pytest

from sid_pack.dev.locales.catalogue import LANGUAGES, Catalogue, inputs_of, label_of
from sid_pack.dev.locales.pages import FOLDER, english, mark_of, translation

ROOT = Path(__file__).resolve().parents[2]
ENGLISH = english()
NODES = list(ENGLISH)
# A page's list of inputs or outputs: the items begin with names, and a translation has the English one behind its own.
ITEM = re.compile(r"^- ((?:\*\*[^*]+\*\*(?: `[^`]+`)?(?:[,，、] ?)?)+)", re.MULTILINE)
NAME = re.compile(r"\*\*([^*]+)\*\*(?: `([^`]+)`)?")
LINK, PICTURE = re.compile(r"(?<!!)\[[^\]]+\]\(([^)]+)\)"), re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")
SECTIONS = {"en": ("Inputs", "Outputs"), "zh": ("输入", "输出"), "ja": ("入力", "出力")}
ALL = ["en", *LANGUAGES]


def page_of(node: str, language: str) -> str:
    return ENGLISH[node] if language == "en" else translation(node, language)


def section(page: str, title: str) -> str:
    """What is below a heading, until the next; empty without one."""
    return next((part.partition("\n")[2] for part in page.split("\n## ")[1:] if part.startswith(f"{title}\n")), "")


def named(text: str) -> list[tuple[str, str]]:
    """(its name in the page's language, its English name) of each input or output that is listed."""
    names = [name for item in ITEM.findall(text) for name in NAME.findall(item)]
    return [(own, in_english or own) for own, in_english in names]


def short(label: str) -> str:
    """Without what some labels have in brackets: a unit, or what 0 means."""
    return re.split(r" ?[(（]", label)[0]


def bare(page: str) -> str:
    """Its pattern of headings, list items and pictures, which translations share."""
    lines = (line.lstrip() for line in page.splitlines())
    kinds = (re.match(r"#+ |- |\d+\. |!\[|\*\*(?=[^*]+\*\*$)", line) for line in lines)
    return "".join(kind[0][0] for kind in kinds if kind)


@pytest.mark.parametrize("language", ALL)
def test_every_node_has_a_page_and_every_page_a_node(language, definitions):
    assert set(NODES) == definitions.keys()
    assert {path.parent.name for path in FOLDER.glob("*/??.md")} == set(NODES)
    assert {path.name for path in FOLDER.glob("*/*.md")} == {f"{own}.md" for own in LANGUAGES}
    for node in NODES:
        assert page_of(node, language).startswith("# ")


@pytest.mark.parametrize("language", ALL)
@pytest.mark.parametrize("node", NODES)
def test_a_page_names_the_inputs_that_there_are(node, language, definitions):
    inputs = [short(label_of(name, spec)) for name, spec in inputs_of(definitions[node]).items()]
    outputs = definitions[node]["output_name"]
    title_in, title_out = SECTIONS[language]
    listed = named(section(page_of(node, language), title_in))
    assert sorted(in_english for _, in_english in listed) == sorted(inputs)
    given = named(section(page_of(node, language), title_out))
    assert [in_english for _, in_english in given] in ([], outputs)
    if language != "en":
        names = Catalogue.of(language).names
        own = {short(english): short(name) for english, name in names.items()}
        assert [name for name, _ in listed + given] == [own[in_english] for _, in_english in listed + given]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", NODES)
def test_a_translation_is_of_the_page_as_it_is(node, language):
    page, translated = ENGLISH[node], translation(node, language)
    assert translated.endswith(mark_of(page)), f"translate what has changed, then end the page with {mark_of(page)}"
    assert bare(translated) == bare(page)
    assert [path for _, path in PICTURE.findall(translated)] == [path for _, path in PICTURE.findall(page)]
    assert LINK.findall(translated) == LINK.findall(page)
    assert sorted(set(re.findall(r'"[A-Z][^"]+"', page)) - set(re.findall(r'"[A-Z][^"]+"', translated))) == []


@pytest.mark.parametrize("language", ALL)
@pytest.mark.parametrize("node", NODES)
def test_a_page_is_for_a_narrow_panel(node, language):
    """Which tables and drawings of letters don't fit; test_in_the_editor.py measures the rest."""
    page = page_of(node, language)
    assert "\n|" not in page and "\n```" not in page


@pytest.mark.parametrize("node", NODES)
def test_pictures_and_links_lead_somewhere(node):
    page = ENGLISH[node]
    repository = re.search('^Repository = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
    assert PICTURE.findall(page), "a page has a picture"
    for alt, picture in PICTURE.findall(page):
        assert alt and (FOLDER / picture).is_file()
    links = [link for link in LINK.findall(page) if not link.startswith("https://arxiv.org/abs/")]
    assert links, "a page leads to the tutorial or the guide"
    for link in links:
        assert (ROOT / link.removeprefix(f"{repository}/blob/main/")).is_file(), link


def test_no_picture_is_left_over():
    shown = {path for page in ENGLISH.values() for _, path in PICTURE.findall(page)}
    assert {f"images/{path.name}" for path in (FOLDER / "images").iterdir()} == shown
