"""What the pack's scripts say in other languages: all of it, and nothing that they don't say any more."""

import json
import re
from pathlib import Path

import pytest

WEB = Path(__file__).resolve().parents[2] / "web"
SAID = re.compile(r'\bsay\(\s*("(?:[^"\\]|\\.)*")')
ANY = re.compile(r"\bsay\(")
ENTRY = re.compile(r'^  ("(?:[^"\\]|\\.)*"|\w+):\s+("(?:[^"\\]|\\.)*"),$', re.MULTILINE)
PLACE = re.compile(r"\{\w+\}")
LANGUAGES = ("ja", "zh")


@pytest.fixture(scope="module")
def english(comfyui) -> set[str]:
    """What is said by the scripts themselves, and the titles of curves, which the server knows."""
    from sid_pack.nodes.panel.runs import SPEED
    from sid_pack.nodes.training.curves import TITLES

    sources = [path.read_text(encoding="utf-8") for path in WEB.rglob("*.*js") if path.parent.name != "words"]
    own = {json.loads(text) for source in sources for text in SAID.findall(source)}
    dynamic = sum(len(ANY.findall(source)) - len(SAID.findall(source)) for source in sources)
    assert dynamic == 2  # the function itself, and the titles
    return own | set((TITLES | SPEED).values())


def words(language: str) -> dict[str, str]:
    text = (WEB / "words" / f"{language}.mjs").read_text(encoding="utf-8")
    entries = ENTRY.findall(text)
    found = {json.loads(key) if key.startswith('"') else key: json.loads(value) for key, value in entries}
    assert len(found) == len(entries) == text.count(",\n")
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_all_that_scripts_say_is_translated_and_nothing_else(language, english):
    assert set(words(language)) == english


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_the_same_places_for_values(language, english):
    for text, translation in words(language).items():
        assert sorted(PLACE.findall(text)) == sorted(PLACE.findall(translation)), text
