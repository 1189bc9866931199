import asyncio
import contextlib
import gc
import json
import logging
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from graphs import distilled, node
from PIL import Image, ImageChops
from safetensors.torch import load_file


def student_of(result):
    assert result.success, result.error
    return result.value("distilled").patches


def weights(result) -> dict[str, torch.Tensor]:
    """The student's: its LoRA, or what the MODEL's patches set of a whole network."""
    patches = student_of(result)
    lora = result.value("distilled").get_attachment("sid_student_lora")
    return lora or {key: patch[0][1][1][0] for key, patch in patches.items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def checkpoints(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("state*.safetensors"))


def final_state(folder: Path, iteration: int) -> dict[str, torch.Tensor]:
    """Networks, average and optimizers at that iteration."""
    # Copies: what load_file returns is the file itself, mapped into memory, and tests write over it.
    return {key: value.clone() for key, value in load_file(folder / f"state_{iteration:07}.safetensors").items()}


def all_metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def metrics(folder: Path) -> list[dict]:
    """Without the looks at how far seeds matter."""
    return [row for row in all_metrics(folder) if "seed_spread" not in row]


@pytest.fixture
def runs(comfyui) -> Path:
    return comfyui.base_directory / "output" / "sid_runs"


def said_on_node(result, node_id: str = "distilled") -> list[str]:
    """The texts that were shown on a node, in the order of time."""
    texts = [bytes(data)[4:].decode() for _, data in result.events if isinstance(data, bytes | bytearray)]
    return [text.removeprefix(node_id) for text in texts if text.startswith(node_id)]


GUIDERS = {
    "lsg": node("SiDLSGGuider", guidance_scale=1.5),
    "zero_cfg": node("SiDZeroCFGGuider"),
    "anti_cfg": node("SiDAntiCFGGuider", fake_guidance_scale=-1.0),
}
WIRES = {"model": ["demo", 0], "positive": ["positive", 0], "negative": ["negative", 0]}


@pytest.mark.parametrize("strategy", GUIDERS)
def test_each_strategy_learns_without_divergence(run_graph, strategy):
    """From scratch; the student ends nearer to the teacher's many-step pictures in their spread than it began."""
    graph = distilled(mode="full", iterations=6, batch_size=8, steps=1, run_name=strategy, student_learning_rate=3e-4)
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
    first = run_graph(distilled(mode="full", run_name="a"))
    again = run_graph(distilled(mode="full", run_name="b"))
    assert same(weights(first), weights(again))
    import comfy.model_management

    from sid_pack.nodes.demo import model as demo_model

    teacher = again.value("demo")
    comfy.model_management.load_models_gpu([teacher])
    shipped, _ = demo_model.read_weights(demo_model.TEACHER)
    shipped = demo_model.part(shipped, "model.diffusion_model.")
    assert same(shipped, teacher.model.diffusion_model.state_dict())


@pytest.mark.parametrize("half", ["fake_share", "student_share"])
def test_cancel_keeps_what_was_learnt_and_the_run_goes_on(run_graph, monkeypatch, runs, half):
    """In either half of the third iteration."""
    import comfy.model_management

    from sid_pack.sid_core.training import distill

    run_graph(distilled(iterations=4, run_name="unbroken"))
    plain, calls = getattr(distill, half), []

    def cancelling(*given, **facts):
        calls.append(1)
        if len(calls) == 3:
            comfy.model_management.interrupt_current_processing()
        return plain(*given, **facts)

    monkeypatch.setattr(distill, half, cancelling)
    result = run_graph(distilled(iterations=4, run_name="cancelled"))
    assert not result.success
    assert checkpoints(runs / "cancelled") == ["state_0000002.safetensors"]
    assert said_on_node(result)[-1].endswith(
        "Queue again to go on from iteration 2, which is saved in output/sid_runs/cancelled: the run was cancelled at "
        "iteration 2."
    )
    monkeypatch.undo()
    resumed = run_graph(distilled(iterations=4, run_name="cancelled", existing_run="continue it"))
    assert resumed.success, resumed.error
    assert "goes on from iteration 2 of the run in output/sid_runs/cancelled" in said_on_node(resumed)[-1]
    assert same(final_state(runs / "cancelled", 4), final_state(runs / "unbroken", 4))


def test_another_run_under_the_same_name_is_refused_by_what_differs(run_graph):
    assert run_graph(distilled(run_name="taken")).success
    result = run_graph(distilled(run_name="taken", existing_run="continue it", alpha=1.2))
    assert not result.success
    assert "alpha: 1.0 then, 1.2 now" in result.error


def test_learning_rates_and_the_schedule_are_changed_knowingly(run_graph, runs, caplog):
    """Named in the log and in run.json, with what they were."""
    assert run_graph(distilled(run_name="changed")).success
    caplog.set_level(logging.INFO)
    again = distilled(
        iterations=3, run_name="changed", existing_run="continue it", fake_learning_rate=3e-4, save_every=1
    )
    result = run_graph(again)
    assert result.success, result.error
    for said in ("fake_learning_rate is 0.0003; it was 0.0001", "iterations is 3; it was 2", "save_every is 1"):
        assert f"from iteration 2 on, {said}" in caplog.text
    described = json.loads((runs / "changed" / "run.json").read_text())
    assert [change["setting"] for change in described["changes"]] == ["fake_learning_rate", "iterations", "save_every"]
    rates = [row["fake_learning_rate"] for row in metrics(runs / "changed")]
    assert rates == pytest.approx([1e-4, 1e-4, 3e-4])


def test_a_run_with_decaying_learning_rates_cannot_be_made_longer(run_graph):
    assert run_graph(distilled(run_name="decays", learning_rate_decay=True)).success
    longer = distilled(iterations=3, run_name="decays", existing_run="continue it", learning_rate_decay=True)
    assert "learning_rate_decay_iterations: 2 then, 3 now" in run_graph(longer).error


def test_other_weights_of_the_same_architecture_are_refused(run_graph):
    """As of another finetune: to the eye of a loader the same model."""
    assert run_graph(distilled(run_name="base")).success
    graph = distilled(run_name="base", existing_run="continue it")
    graph["patched"] = node("ModelMergeSimple", model1=["demo", 0], model2=["other", 0], ratio=0.5)
    graph["other"] = node("SiDDemoModel", weights="student, 1 step")
    graph["guider"]["inputs"]["model"] = ["patched", 0]
    result = run_graph(graph)
    assert "weights: " in result.error and "the run of that name has others" in result.error


def test_the_folder_tells_all_about_the_run(run_graph, runs):
    result = run_graph(distilled(mode="full", iterations=5, save_every=2, keep_last=2, run_name="told"))
    assert result.success, result.error
    folder = runs / "told"
    assert result.value("distilled", 1) == str(folder)
    assert checkpoints(folder) == ["state_0000004.safetensors", "state_0000005.safetensors"]
    described = json.loads((folder / "run.json").read_text())
    assert (described["iteration"], described["images"], described["prompts"]) == (5, 10, 2)
    assert described["settings"]["batch"] == 2 and described["settings"]["guidance"]["name"] == "lsg"
    assert described["schedule"] == {
        "iterations": 5,
        "save_every": 2,
        "preview_every": 1000,
        "keep_last": 2,
        "processes": 1,
    }
    known = {"mode", "base", "weights", "prompts", "latent", "more_sizes", "images", "student"}
    assert described["identity"].keys() == known | {"weaker_model", "weaker_strength", "negative", "clip", "vae"}
    assert described["versions"]["torch"] == torch.__version__ and described["versions"]["comfyui-sid"]
    rows = metrics(folder)
    assert [(row["iteration"], row["images"]) for row in rows] == [(i, 2 * i) for i in range(1, 6)]
    for row in rows:
        assert 1 <= row["step"] <= 2 and row["images_per_second"] > 0
        assert 0.1 < row["spread"] < row["magnitude"] < 5


def test_previews_and_progress_reach_the_user(run_graph, runs):
    graph = distilled(iterations=4, preview_every=2, run_name="previews")
    graph["distilled"]["inputs"]["vae"] = ["demo", 2]
    result = run_graph(graph)
    assert result.success, result.error
    pictures = sorted((runs / "previews" / "previews").iterdir())
    assert [file.name for file in pictures] == [f"preview_000000{i}.png" for i in (0, 2, 4)] + ["teacher.png"]
    told = [data for event, data in result.events if event == "sid.training"]
    assert all(data["run"] == "previews" and data["node"] == "distilled" for data in told)
    assert told[0]["iteration"] == 0 and told[-1]["ended"]
    last = told[-2]
    assert last["iteration"] == last["iterations"] == 4 and last["rate"] > 0 and last["left_s"] == 0
    assert "step 4/4" in last["text"] and "loss" in last["text"] and "images/s" in last["text"]
    assert 0 < last["memory"]["used"] < last["memory"]["total"] and last["memory"]["device"] == "cpu"


def test_a_preview_shows_the_students_own_pictures_at_all_steps_and_at_one(run_graph, runs):
    """An untrained student's second row is the only row of an untrained one-step student, and not its own first."""
    untrained = {"iterations": 1, "student_learning_rate": 0.0}
    graph = distilled(**untrained, run_name="rows") | distilled_of_one_step(**untrained, run_name="row")
    for name in ("distilled", "of one step"):
        graph[name]["inputs"]["vae"] = ["demo", 2]
    result = run_graph(graph)
    assert result.success, result.error
    two, one = (Image.open(runs / name / "previews" / "preview_0000001.png") for name in ("rows", "row"))
    assert two.width == one.width == 768 and two.height == 2 * one.height
    assert two.crop((0, one.height, one.width, two.height)).tobytes() == one.tobytes()
    assert two.crop((0, 0, one.width, one.height)).tobytes() != one.tobytes()


def test_the_spread_across_seeds_is_that_of_eight_pictures_of_one_prompt(run_graph, runs, monkeypatch):
    from sid_pack.nodes.training import previews as training

    looked_at, few_step = [], training.few_step

    def kept(*args, **kwargs):
        looked_at.append(few_step(*args, **kwargs))
        return looked_at[-1]

    monkeypatch.setattr(training, "few_step", kept)
    graph = distilled(mode="full", iterations=3, preview_every=2, run_name="seeds", batch_size=8)
    # Of one style: without it, eight pictures say little of how much black there is.
    graph["positive"]["inputs"]["text"] = graph["prompts"]["inputs"]["text"] = "red apple, flat"
    graph["generated"]["inputs"]["batch_size"] = 8
    result = run_graph(graph)
    assert result.success, result.error
    rows = {row["iteration"]: row["seed_spread"] for row in all_metrics(runs / "seeds") if "seed_spread" in row}
    assert list(rows) == [0, 2, 3]
    for pictures, told in zip(looked_at, rows.values(), strict=True):
        assert pictures.shape == (8, 32, 8, 8)
        assert told == pytest.approx(float(np.std(pictures.numpy(), axis=0).mean()), rel=1e-5)
    # From other seeds, and by the node; eight pictures know their deviation to a third.
    latents = result.value("distilled").model.process_latent_in(result.value("generated")["samples"])
    assert rows[3] == pytest.approx(float(latents.std(0, correction=0).mean()), rel=0.35)


def test_no_more_than_a_micro_batch_is_looked_at_at_once(run_graph, runs, monkeypatch):
    """And the previews are the same pictures."""
    from sid_pack.nodes.training import previews as training

    sizes, few_step = set(), training.few_step
    monkeypatch.setattr(training, "few_step", lambda *a, **k: (sizes.add(len(a[1])), few_step(*a, **k))[1])
    for name, micro_batch in (("whole", 0), ("parts", 1)):
        graph = distilled(iterations=1, student_learning_rate=0.0, run_name=name, micro_batch=micro_batch)
        graph["distilled"]["inputs"]["vae"] = ["demo", 2]
        sizes.clear()
        result = run_graph(graph)
        assert result.success, result.error
        assert sizes == {micro_batch or 2}
    whole, parts = (Image.open(runs / name / "previews" / "preview_0000001.png") for name in ("whole", "parts"))
    assert max(high for _, high in ImageChops.difference(whole, parts).getextrema()) <= 1


@pytest.mark.parametrize(("steps", "shown"), [(1, [1]), (2, [2, 1]), (4, [4, 3, 2, 1]), (8, [8, 4, 1])])
def test_a_preview_has_a_row_for_each_number_of_steps_or_for_some_of_many(comfyui, steps, shown):
    from sid_pack.nodes.training.previews import shown_steps

    assert shown_steps(steps) == shown


def distilled_of_one_step(**changes) -> dict:
    shown = node("PreviewAny", source=["of one step", 1])
    return {"of one step": distilled(steps=1, **changes)["distilled"], "folder": shown}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"guider": ["stock", 0]}, "Connect SiD LSG Guider"),
        ({"latent": ["noisy", 0]}, "this one has 4 channels, and this MODEL's have 32"),
        ({"run_name": "../escape"}, "run_name"),
        ({"run_name": " "}, "run_name"),
        ({"run_name": "con"}, "run_name"),
        ({"run_name": "x" * 101}, "run_name"),
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


def test_a_diverged_run_stops_at_its_last_good_checkpoint(run_graph, monkeypatch, runs):
    """And with lower learning rates it can be continued from there."""
    from sid_pack.nodes.training import roles

    plain = roles.predictor
    calls = []

    def failing(*args):
        predict = plain(*args)

        def call(*inputs):
            calls.append(1)
            clean = predict(*inputs)
            return clean * float("nan") if len(calls) > 45 else clean

        return call

    monkeypatch.setattr(roles, "predictor", failing)
    result = run_graph(distilled(iterations=9, save_every=2, run_name="diverged"))
    assert not result.success
    assert "no longer finite" in result.error and "Lower the learning rates" in result.error
    monkeypatch.undo()
    good, newest = checkpoints(runs / "diverged")
    reached = metrics(runs / "diverged")[-1]["iteration"]
    assert newest == f"state_{reached // 2 * 2:07}.safetensors" and f"last good checkpoint, {newest}" in result.error
    assert all(value.isfinite().all() for value in load_file(runs / "diverged" / newest).values())
    slower = {"student_learning_rate": 1e-5, "existing_run": "continue it"}
    result = run_graph(distilled(iterations=9, run_name="diverged", **slower))
    assert result.success, result.error
    assert [row["iteration"] for row in metrics(runs / "diverged")] == list(range(1, 10))


def test_a_run_that_diverges_before_it_was_saved_says_what_to_do(run_graph, monkeypatch, runs):
    from sid_pack.nodes.training import roles

    monkeypatch.setattr(roles, "_steering", lambda *_: lambda clean, *_: clean * float("nan"))
    result = run_graph(distilled(run_name="at once"))
    assert "the run had not been saved yet" in result.error
    assert checkpoints(runs / "at once") == []


def test_a_learning_rate_far_too_high_is_warned_of_on_the_node_and_in_the_metrics(run_graph, runs, caplog, monkeypatch):
    """A run that is made to diverge for real. Each kind is said once, and stays on the node."""
    from sid_pack.nodes.training import loop as training
    from sid_pack.sid_core.training.health import Health

    monkeypatch.setattr(training, "Health", lambda batch: Health(batch, window=6))
    rates = {"student_learning_rate": 0.02, "fake_learning_rate": 0.02}
    result = run_graph(distilled(mode="full", iterations=10, batch_size=2, steps=1, run_name="too high", **rates))
    warned = [row for row in metrics(runs / "too high") if "warning" in row]
    assert "fake_score_lost" in {row["warning"] for row in warned}
    texts = said_on_node(result)
    for row in warned:
        assert caplog.text.count(row["message"]) == 1
        assert f"⚠ {row['message']} (iteration {row['iteration']})" in texts[-1]
        assert "student_learning_rate" in row["message"]


def test_a_full_disk_while_saving_says_so_and_keeps_the_state_before(run_graph, monkeypatch, runs):
    from sid_pack.sid_core.files import tensors

    assert run_graph(distilled(run_name="full")).success
    state = runs / "full" / "state_0000002.safetensors"
    before = state.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "save_file", full)
    result = run_graph(distilled(iterations=3, run_name="full", existing_run="continue it"))
    assert not result.success
    assert "No space left" in result.error and "Free some space" in result.error
    assert checkpoints(runs / "full") == [state.name] and state.read_bytes() == before
    monkeypatch.undo()
    assert run_graph(distilled(iterations=3, run_name="full", existing_run="continue it")).success


def test_what_failed_is_told_even_if_the_disk_is_full_too(run_graph, monkeypatch, caplog):
    from sid_pack.nodes.training import loop as training
    from sid_pack.sid_core.files import tensors

    def fail(error: Exception):
        def failing(*_):
            raise error

        return failing

    monkeypatch.setattr(tensors, "save_file", fail(OSError(28, "No space left on device")))
    monkeypatch.setattr(training.TrainingProgress, "update", fail(RuntimeError("what failed first")))
    result = run_graph(distilled(run_name="both"))
    assert (
        "what failed first\nNothing of this run is saved: it was stopped at iteration 1, which could not"
        in result.error
    )
    assert said_on_node(result)[-1].endswith(result.error.partition("RuntimeError: ")[2])
    assert "could not be saved" in caplog.text and "Free some space" in caplog.text


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(run_graph, runs, caplog):
    result = run_graph(distilled(iterations=3, save_every=2, run_name="damaged"))
    unbroken = final_state(runs / "damaged", 3)
    newest = runs / "damaged" / "state_0000003.safetensors"
    newest.write_bytes(newest.read_bytes()[:1_000_000])
    result = run_graph(distilled(iterations=3, save_every=1, run_name="damaged", existing_run="continue it"))
    assert result.success, result.error
    for said in ("state_0000003.safetensors is not a whole", "state_0000002.safetensors before it is used"):
        assert said in caplog.text
    assert same(final_state(runs / "damaged", 3), unbroken)


def test_an_error_says_on_the_node_what_is_kept(run_graph, monkeypatch, runs):
    """With the very words of the error that ComfyUI shows."""
    from sid_pack.nodes.training import loop as training

    plain = training.TrainingProgress.update

    def failing(progress, iteration, note):
        plain(progress, iteration, note)
        if iteration == 3:
            raise RuntimeError("the third fails")

    monkeypatch.setattr(training.TrainingProgress, "update", failing)
    result = run_graph(distilled(iterations=4, save_every=2, run_name="fails"))
    kept = "Queue again to go on from iteration 3, which is saved in output/sid_runs/fails: the run was stopped at"
    assert f"the third fails\n{kept} iteration 3." in result.error
    assert said_on_node(result)[-1].endswith(result.error.partition("RuntimeError: ")[2])
    assert checkpoints(runs / "fails") == ["state_0000002.safetensors", "state_0000003.safetensors"]


def test_cancel_before_the_first_iteration_says_so(run_graph, monkeypatch):
    import comfy.model_management

    from sid_pack.nodes.training import loop as training

    monkeypatch.setattr(
        training.Training, "look", lambda *_: comfy.model_management.interrupt_current_processing() or interrupted()
    )

    def interrupted():
        comfy.model_management.throw_exception_if_processing_interrupted()

    result = run_graph(distilled(run_name="early"))
    assert not result.success
    assert "Queue again to begin anew: it was cancelled at iteration 0" in said_on_node(result)[-1]


@pytest.mark.parametrize("asked", [2, 4])
def test_a_run_that_has_as_many_iterations_says_so_and_gives_what_it_has(run_graph, runs, caplog, asked):
    trained = run_graph(distilled(iterations=4, run_name=f"longer {asked}"))
    again = run_graph(distilled(iterations=asked, run_name=f"longer {asked}", existing_run="continue it"))
    assert same(weights(trained), weights(again))
    said = f"Raise iterations above 4 to train on: it is {asked}, and this run has 4 already."
    assert said in caplog.text and said in said_on_node(again)[-1]
    assert checkpoints(runs / f"longer {asked}") == ["state_0000004.safetensors"]


@pytest.mark.parametrize("outcome", ["done", "cancelled", "failed"])
@pytest.mark.parametrize("mode", [{"mode": "full"}, {"mode": "lora", "student_rank": 8, "fake_rank": 4}])
def test_nothing_outlives_a_distillation(run_graph, monkeypatch, mode, outcome):
    """The tensors that are alive after it are as many, and as large, from one run to the next."""
    import comfy.model_management

    from sid_pack.nodes.training import loop as training

    plain = training.TrainingProgress.update

    def stop(progress, iteration, note):
        plain(progress, iteration, note)
        if outcome == "failed":
            raise RuntimeError("on purpose")
        if outcome == "cancelled":
            comfy.model_management.interrupt_current_processing()
            comfy.model_management.throw_exception_if_processing_interrupted()

    monkeypatch.setattr(training.TrainingProgress, "update", stop)
    alive = []
    for seed in range(3):
        result = run_graph(distilled(iterations=2, seed=seed, run_name="leaks", **mode))
        assert result.success == (outcome == "done")
        del result
        alive.append(living_tensors())
    # The first finds what earlier tests have left in caches.
    assert alive[1] == alive[2]


def living_tensors() -> tuple[int, int]:
    """How many there are that Python's collector knows of, and their numbers in all."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if type(found) in (torch.Tensor, torch.nn.Parameter)]
    return len(tensors), sum(tensor.numel() for tensor in tensors)


@pytest.mark.parametrize("changed", ["weaker_strength", "negative", "clip"])
def test_what_the_teacher_is_besides_its_weights_is_the_runs(run_graph, changed):
    """What would go on otherwise is another teacher's student: refused, and named."""
    graph = distilled(run_name=f"of {changed}", existing_run="continue it")
    graph["weaker"] = node("SiDDemoModel", weights="student, 1 step")
    graph["guider"]["inputs"] |= {"weaker_model": ["weaker", 0], "weaker_strength": 0.5}
    graph["skipping"] = node("CLIPSetLastLayer", clip=["demo", 1], stop_at_clip_layer=-2)
    assert run_graph(graph).success
    graph["distilled"]["inputs"]["iterations"] = 3
    inputs = {"weaker_strength": graph["guider"], "negative": graph["negative"], "clip": graph["distilled"]}
    others = {"weaker_strength": 0.75, "negative": "blurred", "clip": ["skipping", 0]}
    name = "text" if changed == "negative" else changed
    kept = inputs[changed]["inputs"][name]
    inputs[changed]["inputs"][name] = others[changed]
    result = run_graph(graph)
    assert not result.success and f"{changed}: " in result.error
    inputs[changed]["inputs"][name] = kept
    assert run_graph(graph).success


def test_a_second_run_in_the_folder_is_refused(run_graph, runs):
    from sid_pack.sid_core.files.run_folder import RunFolder

    with RunFolder(runs / "busy"):
        result = run_graph(distilled(run_name="busy"))
        assert "another run is at work in" in result.error and "another name" in result.error
    assert run_graph(distilled(run_name="busy")).success


def test_starting_over_keeps_the_old_run_until_the_new_one_has_as_many_iterations(run_graph, runs):
    assert run_graph(distilled(iterations=3, run_name="anew", seed=1)).success
    result = run_graph(distilled(iterations=2, run_name="anew", seed=2))
    assert result.success, result.error
    assert "The run of 3 iterations that was here is in replaced" in said_on_node(result)[-1]
    assert checkpoints(runs / "anew") == ["state_0000002.safetensors"] and len(metrics(runs / "anew")) == 2
    assert checkpoints(runs / "anew" / "replaced") == ["state_0000003.safetensors"]
    assert run_graph(distilled(iterations=3, run_name="anew", seed=2, existing_run="continue it")).success
    assert not (runs / "anew" / "replaced").exists()


def test_start_over_that_stays_set_goes_on_after_cancel(run_graph, runs, monkeypatch):
    """The same graph twice, as a user runs it again who has cancelled it; and a third time, when it is finished."""
    import comfy.model_management

    from sid_pack.nodes.training import loop as training

    assert run_graph(distilled(iterations=3, run_name="again", seed=1)).success
    graph = distilled(iterations=4, run_name="again", seed=2, save_every=1)
    with monkeypatch.context() as patch:
        plain = training.TrainingProgress.update

        def cancelling(progress, done, *args):
            plain(progress, done, *args)
            if done == 2:
                comfy.model_management.interrupt_current_processing()

        patch.setattr(training.TrainingProgress, "update", cancelling)
        assert not run_graph(graph).success
    reached = metrics(runs / "again")
    assert len(reached) == 2
    result = run_graph(graph)
    assert result.success, result.error
    assert "The run goes on, as 'start over' began it" in said_on_node(result)[-1]
    assert metrics(runs / "again")[:2] == reached and len(metrics(runs / "again")) == 4
    assert not (runs / "again" / "replaced").exists()
    assert run_graph(distilled(iterations=1, run_name="again", seed=2, save_every=2)).success
    assert checkpoints(runs / "again" / "replaced") == ["state_0000003.safetensors", "state_0000004.safetensors"]


def test_comfyui_ended_in_mid_run_costs_what_came_after_the_last_checkpoint(run_graph, comfyui_path, tmp_path, runs):
    """A real server, killed; what it leaves is continued here and ends bitwise as the unbroken run.

    Closing it by SIGTERM or Ctrl-C ends its worker thread as abruptly, so this is the case for all of them.
    """
    from sid_pack.sid_core.headless.client import Run
    from sid_pack.sid_core.headless.host import serve

    name = "ended"
    graph = distilled(iterations=10_000, save_every=2, run_name=name)
    left = tmp_path / "output" / "sid_runs" / name
    others = set(psutil.Process().children())  # such as another test's server
    with serve(comfyui_path, base_directory=tmp_path) as host:
        (keeper,) = set(psutil.Process().children()) - others
        (server,) = keeper.children()
        run = Run(host.url, graph, lambda _: None, check_host=host.check)
        queued = threading.Thread(target=lambda: _ignoring_its_end(run), daemon=True)
        queued.start()
        deadline = time.monotonic() + 120
        while len(checkpoints(left)) < 2:
            assert time.monotonic() < deadline, host.log_tail()
            time.sleep(0.01)
        server.kill()
        server.wait(20)
    queued.join(20)
    reached = metrics(left)[-1]["iteration"]
    newest = int(checkpoints(left)[-1].removeprefix("state_").removesuffix(".safetensors"))
    assert reached - 2 <= newest <= reached
    (runs / name).parent.mkdir(parents=True, exist_ok=True)
    left.rename(runs / name)
    goal = reached + 2
    assert run_graph(distilled(iterations=goal, run_name=name, existing_run="continue it")).success
    assert run_graph(distilled(iterations=goal, run_name="unbroken")).success
    assert same(final_state(runs / name, goal), final_state(runs / "unbroken", goal))
    assert [row["iteration"] for row in metrics(runs / name)] == list(range(1, goal + 1))


def _ignoring_its_end(run) -> None:
    from sid_pack.sid_core.headless import HeadlessError

    with contextlib.suppress(HeadlessError):
        asyncio.run(run.execute())
