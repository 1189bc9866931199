"""A run that is evaluated on its way: what it learns, which student is the best, and where it ends."""

import json
from pathlib import Path

import pytest
import torch
from graphs import distilled, node
from safetensors.torch import load_file


def evaluated(run_name, **changes):
    """Four iterations, evaluated after each two."""
    asked = {
        name: changes.pop(name) for name in ("every", "metric", "samples", "patience", "student") if name in changes
    }
    settings = {"every": 2, "metric": "kernel distance", "samples": 8, "teacher_steps": 3, "patience": 0}
    settings |= {"clip_vision": ["demo", 3], "student": "best"}
    graph = distilled(**({"iterations": 4, "run_name": run_name, "existing_run": "continue it"} | changes))
    graph["evaluation"] = node("SiDTrainingEvaluation", **(settings | asked))
    graph["distilled"]["inputs"] |= {"vae": ["demo", 2], "evaluation": ["evaluation", 0]}
    return graph


@pytest.fixture
def runs(comfyui) -> Path:
    return comfyui.base_directory / "output" / "sid_runs"


def final_state(folder: Path, iteration: int) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in load_file(folder / f"state_{iteration:07}.safetensors").items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def scores(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["iteration"]: row["kernel_distance"] for row in rows if "kernel_distance" in row}


def test_evaluation_changes_nothing_of_what_is_learnt(run_graph, runs):
    plain = run_graph(distilled(iterations=4, run_name="not_evaluated"))
    assert plain.success, plain.error
    result = run_graph(evaluated("evaluated"))
    assert result.success, result.error
    assert same(final_state(runs / "evaluated", 4), final_state(runs / "not_evaluated", 4))
    assert sorted(scores(runs / "evaluated")) == [2, 4]
