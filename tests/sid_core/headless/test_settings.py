"""`--set NODE.INPUT=VALUE`: which input is meant, and the value by the input's type as a server states it."""

from typing import Any

import pytest

from sid_pack.sid_core.headless import HeadlessError
from sid_pack.sid_core.headless.settings import find_setting


def prompts() -> dict[str, Any]:
    return {
        "3": {"class_type": "KSampler", "inputs": {"seed": 0, "model": ["4", 0], "a.b": 1, "sampler_name": "euler"}},
        "4": {"class_type": "Loader", "inputs": {"colour": "#fff", "curve": [1, 2], "linked": ["6", 0]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}, "_meta": {"title": "Positive v1.5"}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}, "_meta": {"title": "Negative"}},
        "8": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}, "_meta": None},
        "9": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}, "_meta": {"title": 5}},
    }


DEFINITIONS = {
    "KSampler": {
        "input": {
            "required": {
                "seed": ["INT", {"min": 0}],
                "model": ["MODEL"],
                "a.b": ["FLOAT", {}],
                "cfg": ["INT,FLOAT", {}],
                "sampler_name": [["euler", "lcm", 4, *(f"other_{i}" for i in range(30))], {}],
                "name": ["STRING,INT", {}],
            },
            "optional": {
                "add_noise": ["BOOLEAN", {}],
                "mode": ["COMBO", {"options": ["lora", "full"]}],
                "remote": ["COMBO", {"remote": {"route": "/x"}}],
                "several": ["COMBO", {"multiselect": True, "options": ["a"]}],
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }
    },
    "Loader": {"input": {"required": {"colour": ["COLOR", {}], "linked": ["STRING", {}]}}},
    "CLIPTextEncode": {"input": {"required": {"text": ["STRING", {}], "clip": ["CLIP"]}}},
}


def set_in(graph: dict[str, Any], setting: str) -> dict[str, Any]:
    find_setting(graph, setting).apply(graph, DEFINITIONS)
    return graph


def refused(setting: str) -> str:
    graph = prompts()
    with pytest.raises(HeadlessError) as error:
        set_in(graph, setting)
    assert graph == prompts()
    return str(error.value)


@pytest.mark.parametrize(
    ("setting", "node_id", "name", "value"),
    [
        ("3.seed=7", "3", "seed", 7),
        ("KSampler.seed= +7", "3", "seed", 7),
        ("Negative.text=a=b", "7", "text", "a=b"),
        ("Positive v1.5.text=a red fox", "6", "text", "a red fox"),
        ("3.a.b=2.5", "3", "a.b", 2.5),
        ("3.a.b=1e-3", "3", "a.b", 0.001),
        ("3.cfg=7", "3", "cfg", 7),
        ("3.cfg=7.5", "3", "cfg", 7.5),
        ("3.name=7", "3", "name", 7),
        ("3.name=seven", "3", "name", "seven"),
        ("6.text=", "6", "text", ""),
        ("3.sampler_name=lcm", "3", "sampler_name", "lcm"),
        ("3.sampler_name=4", "3", "sampler_name", 4),
        ("3.sampler_name=a b.png [output]", "3", "sampler_name", "a b.png [output]"),
        ("3.remote=anything", "3", "remote", "anything"),
        ("4.colour=#123", "4", "colour", "#123"),
        ("4.linked=true", "4", "linked", "true"),
    ],
)
def test_a_setting_names_its_node_by_id_title_or_class(setting, node_id, name, value):
    found = set_in(prompts(), setting)[node_id]["inputs"][name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text", ["true", "null", "1e5", "NaN", '"quoted"', "{", "[1, 2]", '["5", 0]', "two\nlines", " x "]
)
def test_text_is_taken_as_it_is(text):
    assert set_in(prompts(), f"6.text={text}")["6"]["inputs"]["text"] == text


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "yes", "On", "1"])
def test_a_flag_is_switched_on_by_the_words_for_it(text):
    assert set_in(prompts(), f"3.add_noise={text}")["3"]["inputs"]["add_noise"] is True


@pytest.mark.parametrize("text", ["false", "False", "FALSE", "no", "off", "0"])
def test_a_flag_is_switched_off_by_the_words_for_it(text):
    assert set_in(prompts(), f"3.add_noise={text}")["3"]["inputs"]["add_noise"] is False


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        *((f"3.add_noise={text}", "true or false") for text in ("", "2", "maybe", "null", "nope", "0.0")),
        *((f"3.seed={text}", "a whole number") for text in ("", "x", "7.0", "1e3", "nan", "1_000", "٣", "true", "0x7")),
        *(
            (f"3.a.b={text}", "a number")
            for text in ("", "x", "nan", "inf", "-Infinity", "1e999", "1_0.5", "--1", "e5")
        ),
        ("3.cfg=x", "a whole number, such as 7 or a number, such as 0.5"),
        ("3.mode=LoRA", "one of 'lora', 'full'"),
        ("3.sampler_name=x", "'other_8' and 21 more"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_is_wanted(setting, wanted):
    said = refused(setting)
    assert said.startswith(f"Give --set {setting.partition('=')[0]} ")
    assert wanted in said
    assert len(said) < 600


@pytest.mark.parametrize(
    "setting", ["3.model=x", '3.model=["4", 0]', '6.text=["4", 0]', "3.several=a", "4.curve=[2, 3]"]
)
def test_what_only_the_editor_can_change_is_said_so(setting):
    assert refused(setting).startswith("Change ")


def test_an_optional_input_that_the_file_lacks_is_set():
    assert set_in(prompts(), "KSampler.mode=full")["3"]["inputs"]["mode"] == "full"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed=1", "Write --set NODE.INPUT=VALUE"),
        ("3.seed", "Write --set NODE.INPUT=VALUE"),
        ("5.seed=1", "It has:\n  node 3 (KSampler)\n  node 4 (Loader)\n  node 6 (Positive v1.5)"),
        ("3.steps=1", "Name an input of node 3 (KSampler) in --set 3.steps: it has seed, model, a.b"),
        ("3.unique_id=1", "Name an input of node 3"),
        ("CLIPTextEncode.text=x", "by one of the ids 6, 7, 8, 9"),
        ("6.text=\udcff", "in UTF-8"),
    ],
)
def test_a_setting_that_fits_nothing_says_what_there_is(setting, message):
    assert message in refused(setting)


def test_a_misspelt_node_is_told_without_a_server():
    with pytest.raises(HeadlessError, match="Name a node"):
        find_setting(prompts(), "KSampling.seed=1")
