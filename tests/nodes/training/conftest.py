from types import SimpleNamespace

import pytest
from family_runs import made
from tiny_families import FAMILIES


@pytest.fixture(params=FAMILIES)
def family(request, comfyui) -> SimpleNamespace:
    """Each of them, see `made`."""
    found = made(request.param)
    if found is None:
        pytest.skip(f"this ComfyUI has no {FAMILIES[request.param].kind}")
    return found
