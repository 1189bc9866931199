"""`python -m sid_core run GRAPH --processes 2` with the real SiD Distill: one of the two is killed in mid-iteration."""

import json
import os
from pathlib import Path

import psutil
import pytest
import torch
from graphs import distilled
from headless_runs import started, wait_until

from sid_pack.sid_core.files.checkpoint import Checkpoint

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals as on POSIX")

ITERATIONS, SAVE_EVERY, KILLED_AFTER = 8, 3, 4
RUN = "in two processes"


def graph() -> dict:
    facts = {"iterations": ITERATIONS, "save_every": SAVE_EVERY, "existing_run": "continue it", "run_name": RUN}
    return distilled(**facts)


def iterations(folder: Path) -> list[int]:
    file = folder / "metrics.jsonl"
    rows = map(json.loads, file.read_text().splitlines()) if file.exists() else []
    return [row["iteration"] for row in rows if "student_loss" in row]


def comfyui_of(rank: int, base: Path) -> psutil.Process:
    """The one that trains as this rank into this folder."""
    for process in psutil.process_iter(["cmdline", "environ"]):
        line, environment = process.info["cmdline"] or [], process.info["environ"] or {}
        if "main.py" in line and str(base) in line and environment.get("RANK") == str(rank):
            return process
    raise AssertionError(f"there is no ComfyUI of rank {rank}")


def last_state(comfyui_path: Path, folder: Path, killed: int | None) -> Checkpoint:
    folder.mkdir()
    with started(folder, comfyui_path, graph(), "--processes=2") as process:
        runs = process.base / "output" / "sid_runs" / RUN
        if killed is not None:
            wait_until(lambda: iterations(runs)[-1:] >= [KILLED_AFTER], 300)
            comfyui_of(killed, process.base).kill()
        assert process.client.wait(600) == 0, process.said()
        assert ("attempt 2 of 4" in process.said()) == (killed is not None)
        process.leaves_nothing()
    assert iterations(runs) == list(range(1, ITERATIONS + 1))
    return Checkpoint.read(runs / f"state_{ITERATIONS:07}.safetensors")


def test_where_a_process_is_killed_the_run_ends_as_the_unbroken_one(comfyui_path, tmp_path):
    unbroken = last_state(comfyui_path, tmp_path / "unbroken", None)
    broken = last_state(comfyui_path, tmp_path / "broken", 1)
    assert unbroken.counters == broken.counters
    assert all(torch.equal(tensor, broken.tensors[name]) for name, tensor in unbroken.tensors.items())
