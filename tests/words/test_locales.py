"""What the nodes say in other languages: all of it, and nothing that they don't say any more."""

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from sid_pack.dev.locales.catalogue import LANGUAGES, Catalogue, english_texts, inputs_of
from sid_pack.dev.locales.node_defs import SYNTAX, english, translated

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e-\d+)?")
IN_WORDS = re.compile(r"[a-z][a-z ,-]+")
COMFYUIS_OWN = {"sampler_name", "scheduler"}


def committed(language: str, name: str) -> Any:
    return json.loads((ROOT / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_all_that_nodes_say_is_translated_and_nothing_else(language, definitions):
    assert Catalogue.of(language).faults(definitions) == []


def test_a_text_that_was_changed_lacks_a_translation_and_leaves_one_over(definitions):
    node = definitions["SiDScheduler"]
    tooltip = "Another text."
    required = node["input"]["required"] | {
        "steps": ["INT", node["input"]["required"]["steps"][1] | {"tooltip": tooltip}]
    }
    changed = definitions | {"SiDScheduler": node | {"input": {"required": required}}}
    without = {name: changed[name] for name in changed if name != "SiDGenerate"}  # which says the same of its steps
    faults = Catalogue.of("zh").faults(without)
    assert f"no text for {tooltip!r}" in faults
    assert any(fault.startswith("a text for 'Number of steps, 1 to 1000.") for fault in faults)


def test_the_files_are_made_of_the_catalogues(definitions):
    assert committed("en", "nodeDefs") == english(definitions), "run python -m dev.make_locales"
    for language in LANGUAGES:
        catalogue = Catalogue.of(language)
        assert committed(language, "nodeDefs") == translated(definitions, catalogue), "run python -m dev.make_locales"
        assert committed(language, "main") == {"nodeCategories": catalogue.categories}


def test_comfyui_hands_them_to_the_editor(comfyui_server):
    with urllib.request.urlopen(f"{comfyui_server.url}/i18n") as answer:
        served = json.load(answer)
    for language in LANGUAGES:
        assert served[language]["nodeDefs"].items() >= committed(language, "nodeDefs").items()
        assert served[language]["nodeCategories"].items() >= committed(language, "main")["nodeCategories"].items()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_keeps_numbers_and_the_names_of_nodes(language, definitions):
    """Its own truth: what can be compared without knowing the language."""
    texts = Catalogue.of(language).texts
    nodes = {node["display_name"].partition(" (")[0] for node in definitions.values()}
    for text in english_texts(definitions):
        translation = texts[text]
        assert not set(NUMBER.findall(text)) - set(NUMBER.findall(translation)), f"{text}\n{translation}"
        assert [name for name in nodes if name in text and name not in translation] == [], f"{text}\n{translation}"
        assert not SYNTAX.search(translation), translation


@pytest.mark.parametrize("language", LANGUAGES)
def test_nodes_begin_with_the_name_by_which_messages_call_them(language, definitions):
    names = Catalogue.of(language).names
    for node in definitions.values():
        name = node["display_name"].partition(" (")[0]
        assert names[node["display_name"]].startswith(name)
        assert names[node["display_name"]] != node["display_name"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_choices_are_explained_where_they_are_words(language, definitions):
    """ComfyUI's editor shows a node's choices as the node has them, in every language."""
    texts = Catalogue.of(language).texts
    for node_id, node in definitions.items():
        for name, (_, spec) in ((name, spec) for name, spec in inputs_of(node).items() if name not in COMFYUIS_OWN):
            for option in filter(IN_WORDS.fullmatch, map(str, spec.get("options", []))):
                assert option in texts[spec["tooltip"]], f"{node_id}.{name}: {option}"
