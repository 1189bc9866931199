"""SiD Distill on two ranks, as `torchrun` starts them, each in a ComfyUI of its own."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from graphs import distilled, evaluated
from ranks import RANKS, launch

from sid_pack.sid_core.files.checkpoint import Checkpoint, folder_of_parts
from sid_pack.sid_core.files.tensors import read_tensors

ITERATIONS = 2
LORA, FULL = "lora", "full"
COMMON = {"existing_run": "continue it", "batch_size": 2, "steps": 2, "save_every": 100, "preview_every": 100}


def queued(mode: str, name: str, iterations: int = ITERATIONS, **trouble) -> dict:
    graph = distilled(mode=mode, run_name=name, iterations=iterations, **COMMON)
    return {"graph": graph, "trouble": trouble}


QUEUE = {
    f"{mode}_{name}": entry
    for mode in (LORA, FULL)
    for name, entry in {
        "unbroken": queued(mode, f"{mode} unbroken"),
        "cancelled": queued(mode, f"{mode} broken", kind="cancel", rank=1, at=1),
        "again": queued(mode, f"{mode} broken"),
        "failed": queued(mode, f"{mode} failed", kind="error", rank=1, at=1),
        "handed_over": queued(mode, f"{mode} handed over", 1),
    }.items()
}
for mode in (LORA, FULL):
    for name, iterations in (("evaluated", 1), ("evaluated_again", 2)):
        asked = COMMON | {"mode": mode, "iterations": iterations, "every": 1, "samples": 4}
        QUEUE[f"{mode}_{name}"] = {"graph": evaluated(f"{mode} evaluated", **asked), "trouble": {}}
QUEUE |= {
    "lora_memory": queued(LORA, "lora memory", kind="memory", rank=1, at=2),
    "lora_nan": queued(LORA, "lora nan", kind="nan", rank=1, at=2),
    "full_nan": queued(FULL, "full nan", kind="nan", rank=1, at=2),
}
LATER = {f"{mode}_goes_on": queued(mode, f"{mode} handed over", 3) for mode in (LORA, FULL)}


def start(folder: Path, comfyui_path: Path, queue: dict) -> None:
    for rank in range(RANKS):
        shutil.rmtree(folder / f"base_{rank}", ignore_errors=True)
        (folder / f"base_{rank}").mkdir()
    (folder / "queue.json").write_text(json.dumps(queue))
    launch(folder, str(comfyui_path), script="graphs_on_ranks.py")


@pytest.fixture(scope="module")
def done(tmp_path_factory, comfyui_path) -> Path:
    folder = tmp_path_factory.mktemp("graphs_on_ranks")
    start(folder, comfyui_path, QUEUE)
    return folder


def outcomes(folder: Path, name: str) -> list[dict]:
    return [json.loads((folder / f"{name}_{rank}.json").read_text()) for rank in range(RANKS)]


def state(folder: Path, run: str, iteration: int) -> Checkpoint:
    return Checkpoint.read(folder / "output" / "sid_runs" / run / f"state_{iteration:07}.safetensors")


def metrics(folder: Path, run: str) -> list[dict]:
    lines = (folder / "output" / "sid_runs" / run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "student_loss" in row]


@pytest.mark.parametrize("mode", [LORA, FULL])
def test_a_cancelled_run_goes_on_and_ends_as_the_unbroken_one(done, mode):
    cancelled = outcomes(done, f"{mode}_cancelled")
    assert [one["success"] for one in cancelled] == [False, False]
    assert all("cancelled" in one["error"] or "nterrupt" in one["error"] for one in cancelled)
    assert [one["success"] for one in outcomes(done, f"{mode}_again")] == [True, True]
    unbroken, broken = (state(done, f"{mode} {name}", ITERATIONS) for name in ("unbroken", "broken"))
    assert unbroken.counters == broken.counters
    assert unbroken.counters["images"] == ITERATIONS * RANKS * COMMON["batch_size"]
    assert unbroken.tensors.keys() == broken.tensors.keys()
    assert all(torch.equal(tensor, broken.tensors[name]) for name, tensor in unbroken.tensors.items())
    assert state(done, f"{mode} broken", 1).iteration == 1  # saved when it was cancelled


@pytest.mark.parametrize("mode", [LORA, FULL])
def test_an_error_of_one_rank_ends_all_with_its_own_message(done, mode):
    first, other = outcomes(done, f"{mode}_failed")
    assert not first["success"] and not other["success"]
    assert "Look here first: this is the trouble." in other["error"]
    assert "Look at what the other processes of this run say" in first["error"]


def test_a_rank_that_runs_out_of_memory_takes_less_and_the_others_wait(done):
    assert [one["success"] for one in outcomes(done, "lora_memory")] == [True, True]
    memory, unbroken = (state(done, f"lora {name}", ITERATIONS) for name in ("memory", "unbroken"))
    for name, tensor in unbroken.tensors.items():
        torch.testing.assert_close(memory.tensors[name], tensor, rtol=1e-3, atol=1e-4)


def test_samples_that_are_not_finite_are_left_out_by_all(done):
    assert [one["success"] for one in outcomes(done, "lora_nan")] == [True, True]
    assert [row["skipped"] for row in metrics(done, "lora nan")] == [0, COMMON["batch_size"]]


def test_networks_in_parts_end_together_where_one_is_not_finite(done):
    first, other = outcomes(done, "full_nan")
    assert "no longer finite" in other["error"]
    assert "Look at what the other processes of this run say" in first["error"]


def test_whole_networks_are_saved_in_parts(done):
    file = done / "output" / "sid_runs" / "full unbroken" / f"state_{ITERATIONS:07}.safetensors"
    assert len(list(folder_of_parts(file).iterdir())) == RANKS
    lora = done / "output" / "sid_runs" / "lora unbroken" / f"state_{ITERATIONS:07}.safetensors"
    assert lora.exists() and not folder_of_parts(lora).exists()


@pytest.mark.parametrize("mode", [LORA, FULL])
def test_a_run_is_evaluated_once_for_all_ranks(done, mode):
    for name in ("evaluated", "evaluated_again"):
        assert [one["success"] for one in outcomes(done, f"{mode}_{name}")] == [True, True]
    folder = done / "output" / "sid_runs" / f"{mode} evaluated"
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    scores = {row["iteration"]: row["kernel_distance"] for row in rows if "kernel_distance" in row}
    assert sorted(scores) == [1, 2]
    _, metadata = read_tensors(folder / "best.safetensors")
    assert json.loads(metadata["sid.best"])["iteration"] == min(scores, key=scores.get)


def test_runs_go_on_in_one_process_and_again_in_two(done, comfyui, comfyui_path, run_graph):
    ours = {base: base / "sid_runs" for base in (comfyui.base_directory / "output", done / "output")}
    here, there = ours.values()
    before, middle = {}, {}
    for mode in (LORA, FULL):
        run = f"{mode} handed over"
        before[mode] = state(done, run, 1)
        shutil.copytree(there / run, here / run)
        alone = run_graph(queued(mode, run, 2)["graph"])
        assert alone.success, alone.error
        shutil.rmtree(there / run)
        shutil.copytree(here / run, there / run)
        middle[mode] = state(done, run, 2)
        assert middle[mode].counters["images"] == before[mode].counters["images"] + COMMON["batch_size"]
    start(done, comfyui_path, LATER)
    for mode in (LORA, FULL):
        assert [one["success"] for one in outcomes(done, f"{mode}_goes_on")] == [True, True]
        last = state(done, f"{mode} handed over", 3)
        assert last.counters["images"] == middle[mode].counters["images"] + RANKS * COMMON["batch_size"]
        assert last.tensors.keys() == middle[mode].tensors.keys()
        assert all(tensor.isfinite().all() for tensor in last.tensors.values())
        told = json.loads((there / f"{mode} handed over" / "run.json").read_text())["changes"]
        told = [each for each in told if each["setting"] == "processes"]
        assert [(each["iteration"], each["then"], each["now"]) for each in told] == [(1, 2, 1), (2, 1, 2)]
