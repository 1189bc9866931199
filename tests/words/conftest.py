"""The editor of the workflows' tests, and what a ComfyUI says of the pack's nodes."""

import json
import urllib.request
from typing import Any

import pytest
from workflows.conftest import editor  # noqa: F401  a fixture of this folder too


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def definitions(comfyui_server) -> dict[str, Any]:
    """GET /object_info, of the pack's nodes alone."""
    every = get_json(f"{comfyui_server.url}/object_info")
    return {name: node for name, node in every.items() if node["python_module"] == every["SiDDistill"]["python_module"]}
