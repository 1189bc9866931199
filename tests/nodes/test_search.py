"""The words that people type to find a node."""

import dataclasses

import pytest

# What is typed, and a node that has to be among the answers.
ANSWERS = {
    "distill": "SiDDistill",
    "distillation": "SiDDistill",
    "train lora": "SiDDistill",
    "few step": "SiDGenerate",
    "4 steps": "SiDGenerate",
    "turbo": "SiDLoadStudent",
    "lightning": "SiDLoadStudent",
    "lcm": "SiDSampler",
    "dmd": "SiDDistill",
    "emoji": "SiDDemoModel",
    "style transfer": "CleanStyle",
    "instantstyle": "CleanStyle",
    "leakage": "CleanStyle",
    "svd": "CleanStyleSpectrum",
    "extract lora": "SiDExtractLoRA",
    "ipadapter": "CleanStyleIPAdapter",
    "wildcards": "SiDPrompts",
    "clip score": "SiDEvaluate",
}


@pytest.fixture
def schemas(comfyui, monkeypatch):
    """Of all nodes, on a ComfyUI whose schemas have words to be found by, as newer ones' have."""
    import nodes
    from comfy_api.latest import io

    if "search_aliases" not in {field.name for field in dataclasses.fields(io.Schema)}:

        @dataclasses.dataclass
        class Schema(io.Schema):
            search_aliases: list[str] = dataclasses.field(default_factory=list)

        monkeypatch.setattr(io, "Schema", Schema)
    ours = [kind for kind in nodes.NODE_CLASS_MAPPINGS.values() if kind.__module__.startswith("sid_pack.")]
    return [kind.define_schema() for kind in ours]


@pytest.mark.parametrize("typed", ANSWERS)
def test_a_node_is_found_by_what_people_type(typed, schemas):
    found = {
        schema.node_id
        for schema in schemas
        if any(typed in name.lower() for name in (schema.display_name, *schema.search_aliases))
    }
    assert ANSWERS[typed] in found


def test_every_node_is_found_by_more_than_its_name_and_by_no_word_twice(schemas):
    assert schemas
    for schema in schemas:
        words = schema.search_aliases
        assert words and len(set(words)) == len(words) and words == [word.lower() for word in words]
