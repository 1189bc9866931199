"""Running the headless client as users do, and what it leaves behind."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]

IMAGE = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 255}}
SAVE = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "plain"}}


def command(graph: dict[str, Any], folder: Path, *options: str) -> list[str]:
    file = folder / "graph.json"
    file.write_text(json.dumps(graph), encoding="utf-8")
    return [sys.executable, "-m", "sid_core", "run", str(file), *options]


def run(graph: dict[str, Any], folder: Path, *options: str, **more: Any) -> subprocess.CompletedProcess:
    line = command(graph, folder, *options)
    return subprocess.run(line, cwd=ROOT, **({"capture_output": True, "text": True, "timeout": 300} | more))


def processes_in(folder: Path) -> list[list[str]]:
    """Command lines of running processes that name the folder."""
    lines = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return [line for line in lines if any(str(folder) in part for part in line)]


def scratch_folders(folder: Path | None = None) -> set[Path]:
    return set(Path(folder or tempfile.gettempdir()).glob("sid-*"))


def wait_until(is_so: Callable[[], object], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.02)


@dataclass
class Started:
    """A client, and where it and its ComfyUI write."""

    client: subprocess.Popen
    base: Path
    temporary: Path
    log: Path

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def leaves_nothing(self, limit_s: float = 60.0) -> None:
        self.client.wait(limit_s)
        wait_until(lambda: not processes_in(self.base) and not scratch_folders(self.temporary), limit_s)
        wait_until(lambda: not [line for line in processes_in(self.temporary) if "keeper.py" in " ".join(line)])


@contextlib.contextmanager
def started(folder: Path, comfyui: Path, graph: dict[str, Any], *options: str) -> Iterator[Started]:
    """A client that starts its own ComfyUI in a folder, with that folder for temporary files."""
    base, temporary, log = folder / "base", folder / "temporary", folder / "said.txt"
    temporary.mkdir()
    line = command(graph, folder, "--comfyui", str(comfyui), "--base-directory", str(base), *options)
    environment = os.environ | {"TMPDIR": str(temporary)}
    with log.open("wb") as output:
        client = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield Started(client, base, temporary, log)
    finally:
        client.kill()
        client.wait()
