"""The nodes as ComfyUI's server describes them, held by a file: saved graphs rely on names, types and order."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parents[1] / "data" / "schemas.json"
OURS = ("SiD", "CleanStyle")
NOT_OURS = ("sampler_name", "scheduler", "style_encoder")  # whose choices ComfyUI's version and files decide


def described(definition: dict[str, Any]) -> dict[str, Any]:
    """Of /object_info, what a saved graph relies on: [name, type, default, choices] of each input, in order."""
    inputs = {
        kind: [_input(name, *definition["input"][kind][name]) for name in definition["input_order"].get(kind, [])]
        for kind in ("required", "optional")
    }
    outputs = [list(each) for each in zip(definition["output_name"], definition["output"], strict=True)]
    return {"display_name": definition["display_name"], **inputs, "outputs": outputs}


def _input(name: str, kind: str, more: dict[str, Any] | None = None) -> list:
    default = (more or {}).get("default")
    if default is None:  # a wire, or a choice of the files that are there
        return [name, kind]
    return [name, kind, default, *([more["options"]] if kind == "COMBO" and name not in NOT_OURS else [])]


def _as_text(schemas: dict[str, Any]) -> str:
    """One line for each input."""
    lines = json.dumps(schemas, indent=1, ensure_ascii=False, sort_keys=True).splitlines()
    text = ""
    for line in lines:
        depth = len(line) - len(line.lstrip())
        text += line.strip() if depth > 3 or (depth == 3 and line.strip() in ("]", "],")) else "\n" + line
    return text.strip() + "\n"


@pytest.fixture(scope="module")
def schemas(comfyui_server) -> dict[str, Any]:
    with urllib.request.urlopen(f"{comfyui_server.url}/object_info") as answer:
        definitions = json.load(answer)
    found = {name: each for name, each in definitions.items() if each["category"].partition("/")[0] in OURS}
    return {name: described(each) for name, each in found.items()}


def test_nodes_are_what_saved_graphs_take_them_for(schemas, tmp_path):
    now = tmp_path / "schemas.json"
    now.write_text(_as_text(schemas), encoding="utf-8")
    assert schemas == json.loads(GOLDEN.read_text(encoding="utf-8")), (
        f"Copy {now} over {GOLDEN} if this is meant, and if test_saved_graphs.py passes: an input that is renamed, "
        "moved or taken away breaks the graphs that people have saved; new ones go to the end."
    )
