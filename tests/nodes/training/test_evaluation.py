"""A run that is evaluated on its way: what it learns, which student is the best, and where it ends."""

import json
from pathlib import Path

import pytest
import torch
from graphs import distilled, evaluated
from safetensors.torch import load_file


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


def test_the_best_is_the_average_of_its_iteration_and_comes_out(run_graph, runs):
    result = run_graph(
        evaluated("best", mode="full", iterations=6, save_every=2, keep_last=5, student_learning_rate=1e-3)
    )
    assert result.success, result.error
    found = scores(runs / "best")
    best = min(found, key=found.get)
    kept = load_file(runs / "best" / "best.safetensors")
    kept = {key.removeprefix("model.diffusion_model."): weight for key, weight in kept.items()}
    state = final_state(runs / "best", best)
    names = [name for name, _ in result.value("demo").model.diffusion_model.named_parameters()]
    assert len(names) > 100
    for i, name in enumerate(names):
        assert torch.equal(kept[name], state[f"ema.{i}"]), name
    out = {key: patch[0][1][1][0] for key, patch in result.value("distilled").patches.items()}
    assert same({key.removeprefix("diffusion_model."): weight for key, weight in out.items()}, kept)


def test_a_run_that_gets_no_better_ends_and_stays_ended(run_graph, runs):
    """With a learning rate of 0 no score is better than the first."""
    asked = {"iterations": 9, "every": 1, "patience": 2, "student_learning_rate": 0.0, "samples": 4}
    result = run_graph(evaluated("ends", **asked))
    assert result.success, result.error
    assert sorted(scores(runs / "ends")) == [1, 2, 3]
    again = run_graph(evaluated("ends", **asked, preview_every=77))
    assert again.success and sorted(scores(runs / "ends")) == [1, 2, 3]
    assert json.loads((runs / "ends" / "run.json").read_text())["iteration"] == 3
    longer = run_graph(evaluated("ends", **(asked | {"patience": 3})))
    assert longer.success and sorted(scores(runs / "ends")) == [1, 2, 3, 4]


def test_a_run_stopped_between_a_score_and_its_student_goes_on_as_if_it_had_not(run_graph, runs, monkeypatch):
    import comfy.model_management

    from sid_pack.nodes.training.best import Evaluation

    unbroken = run_graph(evaluated("not_stopped"))
    assert unbroken.success, unbroken.error

    def stopped(*_):
        raise comfy.model_management.InterruptProcessingException

    with monkeypatch.context() as patched:
        patched.setattr(Evaluation, "_keep", stopped)
        assert not run_graph(evaluated("stopped")).success
    assert not (runs / "stopped" / "best.safetensors").exists()
    resumed = run_graph(evaluated("stopped"))
    assert resumed.success, resumed.error
    assert scores(runs / "stopped") == scores(runs / "not_stopped")
    assert same(*(load_file(runs / name / "best.safetensors") for name in ("stopped", "not_stopped")))


def test_a_damaged_file_of_the_teachers_features_is_drawn_again(run_graph, runs):
    """One wrong bit is in no length, and would make every later score another."""
    assert run_graph(evaluated("with damage")).success
    file = runs / "with damage" / "teacher_features.safetensors"
    whole, drawn = file.read_bytes(), load_file(file)["features"].clone()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 64]))
    assert run_graph(evaluated("with damage", iterations=6)).success
    torch.testing.assert_close(load_file(file)["features"], drawn, rtol=1e-3, atol=1e-3)
    assert run_graph(evaluated("without damage", iterations=6)).success
    assert scores(runs / "with damage") == pytest.approx(scores(runs / "without damage"), rel=1e-2)


def test_without_a_vae_it_is_refused_at_once(run_graph):
    graph = evaluated("blind")
    del graph["distilled"]["inputs"]["vae"]
    result = run_graph(graph)
    assert not result.success and "Connect a vae" in result.error
