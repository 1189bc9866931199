from pathlib import Path

import pytest
import torch
from graphs import distilled, node


def student_of(result):
    assert result.success, result.error
    return result.value("distilled").patches


def weights(result) -> dict[str, torch.Tensor]:
    """The student's weights out of the MODEL's patches."""
    return {key: patch[0][1][1][0] for key, patch in student_of(result).items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


GUIDERS = {
    "lsg": node("SiDLSGGuider", guidance_scale=1.5),
    "zero_cfg": node("SiDZeroCFGGuider"),
    "anti_cfg": node("SiDAntiCFGGuider", fake_guidance_scale=-1.0),
}
WIRES = {"model": ["demo", 0], "positive": ["positive", 0], "negative": ["negative", 0]}


@pytest.mark.parametrize("strategy", GUIDERS)
def test_each_strategy_learns_without_divergence(run_graph, strategy):
    """From scratch; the student ends nearer to the teacher's many-step pictures in their spread than it began."""
    graph = distilled(iterations=12, batch_size=8, steps=1, run_name=strategy, student_learning_rate=3e-4)
    guider = GUIDERS[strategy]
    graph["guider"] = {**guider, "inputs": guider["inputs"] | WIRES}
    result = run_graph(graph)
    learnt = weights(result)
    assert all(weight.isfinite().all() for weight in learnt.values())
    assert result.value("distilled").get_attachment("sid_student").guidance == strategy
    untrained = run_graph(graph | {"generated": untrained_generation(graph)}).value("generated")["samples"]
    trained = result.value("generated")["samples"]
    # One step of a teacher from pure noise is the blurred mean picture; learning takes it away from there.
    assert trained.isfinite().all()
    assert (trained - untrained).abs().mean() > 0.02


def untrained_generation(graph: dict) -> dict:
    inputs = graph["generated"]["inputs"] | {"model": ["demo", 0], "steps": 1}
    return node("SiDGenerate", **inputs)


def test_the_same_seed_learns_the_same_student_and_the_teacher_is_not_touched(run_graph):
    first = run_graph(distilled(run_name="a"))
    again = run_graph(distilled(run_name="b"))
    assert same(weights(first), weights(again))
    import comfy.model_management

    from sid_pack.nodes import demo_model

    teacher = again.value("demo")
    comfy.model_management.load_models_gpu([teacher])
    shipped, _ = demo_model.read_weights(demo_model.TEACHER)
    shipped = demo_model.part(shipped, "model.diffusion_model.")
    assert same(shipped, teacher.model.diffusion_model.state_dict())


def test_cancel_keeps_what_was_learnt_and_the_run_goes_on(run_graph, monkeypatch, comfyui):
    """Cancelled in the middle of the third iteration and queued again, it ends as the run that was not."""
    import comfy.model_management

    from sid_pack.nodes import distill

    unbroken = weights(run_graph(distilled(iterations=4, run_name="unbroken")))
    plain = distill.adapt.predictor
    calls = []

    def cancelling(*args):
        predict = plain(*args)

        def counted(*call):
            calls.append(1)
            if len(calls) == 22:
                comfy.model_management.interrupt_current_processing()
            return predict(*call)

        return counted

    monkeypatch.setattr(distill.adapt, "predictor", cancelling)
    cancelled = run_graph(distilled(iterations=4, run_name="cancelled"))
    assert not cancelled.success
    state = comfyui.base_directory / "output" / "sid_runs" / "cancelled" / "state.safetensors"
    assert state.exists()
    monkeypatch.undo()
    resumed = run_graph(distilled(iterations=4, run_name="cancelled", existing_run="continue it"))
    learnt = weights(resumed)
    assert learnt.keys() == unbroken.keys()
    # The fake score may have had its half of the cancelled iteration already, so this is near and not bitwise.
    for key, weight in unbroken.items():
        torch.testing.assert_close(learnt[key], weight, rtol=0, atol=2e-3)


def test_another_run_under_the_same_name_is_refused_by_what_differs(run_graph):
    assert run_graph(distilled(run_name="taken")).success
    result = run_graph(distilled(run_name="taken", existing_run="continue it", alpha=1.2))
    assert not result.success
    assert "alpha: 1.0 then, 1.2 now" in result.error


def test_previews_and_progress_reach_the_user(run_graph, comfyui):
    graph = distilled(iterations=4, preview_every=2, run_name="previews")
    graph["distilled"]["inputs"]["vae"] = ["demo", 2]
    result = run_graph(graph)
    assert result.success, result.error
    folder = comfyui.base_directory / "output" / "sid_runs" / "previews"
    assert sorted(file.name for file in folder.glob("*.png")) == ["preview_000002.png", "preview_000004.png"]
    texts = [data for _, data in result.events if isinstance(data, bytes | bytearray)]
    last = bytes(texts[-1]).decode(errors="replace")
    assert "step 4/4" in last and "loss" in last and "images/s" in last and "left" in last


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"guider": ["stock", 0]}, "SiDLSGGuider"),
        ({"latent": ["noisy", 0]}, "the latent has 4 channels; this MODEL's have 16"),
        ({"run_name": "../escape"}, "run_name"),
        ({"steps": 0}, "steps"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_bad_input_is_named(run_graph, changes, says):
    graph = distilled(**changes)
    graph["stock"] = node("CFGGuider", **WIRES, cfg=2.0)
    graph["noise"] = node("RandomNoise", noise_seed=0)
    graph["sigmas"] = node("SiDScheduler", model=["demo", 0], steps=1, t_init=625.0)
    graph["four"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
    wires = {"noise": ["noise", 0], "sigmas": ["sigmas", 0], "latent_image": ["four", 0]}
    graph["noisy"] = node("AddNoise", model=["demo", 0], **wires)
    result = run_graph(graph)
    assert not result.success
    assert says in result.error


def test_a_diverged_run_stops_with_its_last_good_weights(run_graph, monkeypatch, comfyui):
    from sid_pack.nodes import distill

    plain = distill.adapt.predictor
    calls = []

    def failing(*args):
        predict = plain(*args)

        def call(*inputs):
            calls.append(1)
            clean = predict(*inputs)
            return clean * float("nan") if len(calls) > 14 else clean

        return call

    monkeypatch.setattr(distill.adapt, "predictor", failing)
    result = run_graph(distilled(iterations=9, run_name="diverged"))
    assert not result.success
    assert "no longer finite" in result.error and "Lower the learning rates" in result.error
    from safetensors.torch import load_file

    state = load_file(comfyui.base_directory / "output" / "sid_runs" / "diverged" / "state.safetensors")
    assert all(value.isfinite().all() for value in state.values())


def test_a_full_disk_while_saving_says_so_and_keeps_the_state_before(run_graph, monkeypatch, comfyui):
    from sid_pack.sid_core import checkpoint

    assert run_graph(distilled(run_name="full")).success
    state: Path = comfyui.base_directory / "output" / "sid_runs" / "full" / "state.safetensors"
    before = state.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    result = run_graph(distilled(iterations=3, run_name="full", existing_run="continue it"))
    assert not result.success
    assert "No space left" in result.error and "Free some space" in result.error
    assert state.read_bytes() == before
