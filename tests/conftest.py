"""What all tests share: the pack under one import name, and a real ComfyUI, in this process or as a server."""

import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from comfyui_process import ComfyUIProcess, RunResult

    from sid_pack.sid_core.headless.host import Host

ROOT = Path(__file__).resolve().parent.parent


def _import_pack() -> None:
    """Import the pack as `sid_pack`: its folder's name need not be an identifier, and two names make two classes."""
    spec = importlib.util.spec_from_file_location(
        "sid_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["sid_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["sid_pack"])


# Here and not in a fixture: test modules say `from sid_pack.sid_core import ...` at their top.
_import_pack()
# A termination unwinds as Ctrl-C does, so that fixtures end the servers and browsers that they have started.
signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable(report: pytest.TestReport) -> Any:
    """A worker sends its reports as UTF-8, which half a pair of code units in a test's name or message can't be."""
    return _sendable((yield))


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _sendable(each) for key, each in value.items()}
    return type(value)(map(_sendable, value)) if type(value) in (list, tuple) else value


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    """The ComfyUI to test against: COMFYUI_PATH, which dev/test.py sets, else the one that it has unpacked."""
    path = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".sid" / "comfyui").expanduser()
    if not (path / "main.py").is_file():
        pytest.exit(f"no ComfyUI at {path}: run `python dev/test.py`, which gets one, or set COMFYUI_PATH", 1)
    return path


@pytest.fixture(scope="session")
def comfyui(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> "ComfyUIProcess":
    """ComfyUI in this process, on the CPU, with the pack's nodes: from here on a test may import comfy and nodes."""
    from comfyui_process import ComfyUIProcess

    return ComfyUIProcess.start(comfyui_path, ROOT, tmp_path_factory.mktemp("comfyui"))


@pytest.fixture
def run_graph(comfyui: "ComfyUIProcess") -> "Callable[[dict[str, Any]], RunResult]":
    """Run API-format graphs in ComfyUI's own executor; within one test it caches, as between a user's queue runs."""
    return comfyui.executor()


@pytest.fixture(scope="session")
def comfyui_server(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Host]":
    """A real ComfyUI server with the pack, as a process of its own: its url, base_directory and output_directory."""
    from sid_pack.sid_core.headless.host import serve

    base = tmp_path_factory.mktemp("server")
    custom_nodes = base / "custom_nodes"
    custom_nodes.mkdir()
    for name in ("host_nodes.py", "ipadapter_plus_nodes.py"):
        shutil.copy(ROOT / "tests" / "fakes" / name, custom_nodes)
    with serve(comfyui_path, base_directory=base) as host:
        yield host


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's executable, as dev/test.py has found it. Without one the test skips, but fails in CI."""
    path = os.environ.get("CHROMIUM")
    if path is None:
        reason = "no Chromium or Chrome found: install one, or name its executable in CHROMIUM (see dev/browser.py)"
        if os.environ.get("SID_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path
