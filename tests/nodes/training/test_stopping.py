"""A run that is asked to stop from outside: it ends as a finished one does, and goes on when it is queued again."""

import pytest
import torch
from graphs import distilled, node
from safetensors.torch import load_file


@pytest.fixture
def runs(comfyui):
    return comfyui.base_directory / "output" / "sid_runs"


@pytest.fixture
def stopping(monkeypatch):
    """stopping(name, iteration): ask that run to stop once it has so many."""
    from sid_pack.nodes.host import under_way
    from sid_pack.nodes.training.progress import TrainingProgress

    plain = TrainingProgress.update

    def stop(name: str, iteration: int) -> None:
        def update(progress, done, note):
            plain(progress, done, note)
            if done == iteration:
                assert under_way.state_here(name) == "training"
                assert under_way.ask_to_stop(name)
                assert under_way.state_here(name) == "stopping"

        monkeypatch.setattr(TrainingProgress, "update", update)

    return stop


def graph(**changes) -> dict:
    """existing_run is the default's: queued again, the same graph goes on."""
    return distilled(iterations=4, existing_run="continue it", **changes)


def test_a_stopped_run_gives_its_student_and_goes_on_when_queued_again(run_graph, runs, stopping):
    assert run_graph(graph(run_name="never stopped")).success
    stopping("asked to stop", 2)
    result = run_graph(graph(run_name="asked to stop"))
    assert result.success, result.error
    assert [file.name for file in runs.glob("asked to stop/state*")] == ["state_0000002.safetensors"]
    learnt = result.value("distilled").get_attachment("sid_student_lora")
    assert any(tensor.abs().max() > 0 for key, tensor in learnt.items() if "lora_up" in key)

    again = run_graph(graph(run_name="asked to stop"))
    assert again.success, again.error
    ended, unbroken = (
        load_file(runs / name / "state_0000004.safetensors") for name in ("asked to stop", "never stopped")
    )
    assert ended.keys() == unbroken.keys() and all(torch.equal(ended[key], unbroken[key]) for key in ended)

    # Finished, it is as any other node: what it made is still there.
    third = run_graph(graph(run_name="asked to stop"))
    assert third.success and not [event for event, _ in third.events if event == "sid.training"]


def test_it_goes_on_also_where_its_name_comes_over_a_wire(run_graph, runs, stopping):
    """The name is then not known when ComfyUI asks what has changed."""
    stopping("stopped by wire", 2)
    for _ in range(2):
        name = node("PrimitiveString", value="stopped by wire")
        assert run_graph(graph(run_name=["name", 0]) | {"name": name}).success
    assert (runs / "stopped by wire" / "state_0000004.safetensors").exists()


def test_what_is_not_trained_here_can_not_be_stopped(comfyui):
    from sid_pack.nodes.host import under_way

    assert not under_way.ask_to_stop("elsewhere")
    assert under_way.state_here("elsewhere") is None and under_way.times_stopped("elsewhere") == 0
