"""SiD²A: a run whose student begins as another run's, and what it can't begin from."""

import json
from pathlib import Path

import pytest
import torch
from graphs import distilled, node
from safetensors.torch import load_file

UNTRAINED = {"iterations": 1, "student_learning_rate": 0.0, "fake_learning_rate": 0.0}
LORA = {"mode": "lora", "student_rank": 3, "fake_rank": 2, "student_learning_rate": 1e-2, "ema_half_life": 0.0}


def second(first: dict, **changes) -> dict:
    """The graph, and a second distillation whose student begins as the first one's."""
    inputs = first["distilled"]["inputs"] | {"run_name": "second", "student": ["distilled", 0]} | changes
    graph = first | {"second": node("SiDDistill", **inputs)}
    graph["generated"] = node("SiDGenerate", **(first["generated"]["inputs"] | {"model": ["second", 0]}))
    return graph


def lora_of(student) -> dict[str, torch.Tensor]:
    return student.get_attachment("sid_student_lora")


def test_a_lora_student_begins_as_the_connected_one_and_its_fake_score_as_the_model(run_graph):
    result = run_graph(second(distilled(run_name="first", **LORA), **UNTRAINED))
    assert result.success, result.error
    first, again = lora_of(result.value("distilled")), lora_of(result.value("second"))
    assert any(tensor.any() for name, tensor in first.items() if "lora_up" in name)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    folder = Path(result.value("second", 1))
    state = load_file(folder / "state_0000001.safetensors")
    assert not any(tensor.any() for name, tensor in state.items() if name.startswith("fake.") and name.endswith(".up"))
    identity = json.loads((folder / "run.json").read_text())["identity"]
    assert len(identity["student"]) == 16


def test_a_whole_network_begins_as_any_student(run_graph):
    """As a LoRA's base with the LoRA merged, here by hand."""
    graph = second(distilled(run_name="first", **LORA), **UNTRAINED, mode="full", run_name="whole")
    result = run_graph(graph)
    assert result.success, result.error
    from sid_pack.nodes.host.weights import patched_weights

    with torch.inference_mode():
        merged = patched_weights(result.value("distilled"), torch.float32)
    patches = result.value("second").patches
    assert len(patches) == len(merged)
    for name, weight in merged.items():
        assert torch.allclose(patches[f"diffusion_model.{name}"][0][1][1][0], weight, rtol=0, atol=1e-6), name


def test_another_student_is_another_run(run_graph):
    first = distilled(run_name="first", **LORA)
    assert run_graph(second(first, **UNTRAINED)).success
    more = UNTRAINED | {"iterations": 2, "existing_run": "continue it"}
    assert run_graph(second(first, **more)).success
    other = run_graph(second(distilled(run_name="first", **(LORA | {"seed": 9})), **(more | {"seed": 3})))
    assert "student: " in other.error and "the run of that name has others" in other.error
    without = second(first, **more)
    del without["second"]["inputs"]["student"]
    assert "None now" in run_graph(without).error


@pytest.mark.parametrize(
    ("changes", "repair"),
    [
        ({"student_rank": 4}, "Set student_rank to 3: the connected student's LoRA is of rank 3, and"),
        ({"lora_targets": "attention"}, "Set lora_targets to 'attention and feed-forward'"),
    ],
)
def test_a_lora_of_another_rank_or_of_other_layers_is_refused_by_what_to_set(run_graph, changes, repair):
    result = run_graph(second(distilled(run_name="first", **LORA), **(UNTRAINED | changes)))
    assert not result.success and repair in result.error


def test_what_is_no_student_of_this_model_is_refused(run_graph):
    graph = distilled(run_name="none")
    graph["distilled"]["inputs"]["student"] = ["demo", 0]
    assert "this MODEL is not a SiD student" in run_graph(graph).error
    whole = second(distilled(run_name="first", mode="full"), **(UNTRAINED | {"mode": "lora", "run_name": "lora"}))
    assert "Set mode to full" in run_graph(whole).error


def test_a_student_of_another_architecture_is_refused(comfyui):
    import tiny_models

    from sid_pack.nodes.host.model import signature_of
    from sid_pack.nodes.sampling.attached import as_student
    from sid_pack.nodes.training.initial import Initial
    from sid_pack.sid_core.files.student import StudentInfo

    with torch.inference_mode():
        model, other = tiny_models.sd15(), tiny_models.sdxl()
        student = as_student(other, {}, StudentInfo(4, 625, signature_of(other), "run", "lsg"))
        with pytest.raises(ValueError, match="^Connect a student of the guider's model as student"):
            Initial.of(student, model, None)


def test_other_steps_than_the_students_are_told_of(comfyui):
    import tiny_models

    from sid_pack.nodes.host.model import signature_of
    from sid_pack.nodes.sampling.attached import as_student
    from sid_pack.nodes.training.initial import Initial
    from sid_pack.sid_core.files.student import StudentInfo

    with torch.inference_mode():
        model = tiny_models.sd15()
        info = StudentInfo(4, 625, signature_of(model), "run", "lsg")
        initial = Initial.of(as_student(model, {}, info), model, None)
    assert initial.remarks(info) == []
    (told,) = initial.remarks(StudentInfo(1, 625, info.base, "other", "lsg"))
    assert told.startswith("Set steps to 4")


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_on_other_weights_it_begins_as_that_student_and_says_so(mode, run_graph, caplog):
    """A fine-tune of the student's base, re-distilled: the LoRA is the student's to the last bit, and on it; a whole
    network is that of the student where it was."""
    graph = second(distilled(run_name="first", **LORA), **UNTRAINED, mode=mode, guider=["tuned guider", 0])
    graph["tuned"] = node("ModelMergeSimple", model1=["demo", 0], model2=["other", 0], ratio=0.5)
    graph["other"] = node("SiDDemoModel", weights="student, 1 step")
    graph["tuned guider"] = node("SiDLSGGuider", **(graph["guider"]["inputs"] | {"model": ["tuned", 0]}))
    result = run_graph(graph)
    assert result.success, result.error
    first, again = result.value("distilled"), result.value("second")
    (said,) = (record.getMessage() for record in caplog.records if "the student begins as" in record.getMessage())
    assert "the student begins as first " in said and " % from those of the guider's model" in said
    from sid_pack.nodes.host.fingerprints import weights_sample
    from sid_pack.nodes.host.weights import patched_weights

    with torch.inference_mode():
        if mode == "lora":
            ours, theirs = lora_of(first), lora_of(again)
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        else:
            ours, theirs = (patched_weights(student, torch.float32) for student in (first, again))
            assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-6) for name in ours)
        tuned = weights_sample(result.value("tuned"))
    assert again.get_attachment("sid_student").base_weights == tuned
    assert first.get_attachment("sid_student").base_weights != tuned
