"""Memory: what is expected of it, and a device that runs out of it, which a CPU can only be made to seem to do."""

import logging
import re

import pytest
import tiny_models
import torch
from graphs import distilled

LORA = {"mode": "lora", "student_rank": 8, "fake_rank": 4, "batch_size": 4, "iterations": 2}


def student(result) -> dict[str, torch.Tensor]:
    assert result.success, result.error
    return result.value("distilled").get_attachment("sid_student_lora")


def gpu_error() -> Exception:
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def cpu_error() -> Exception:
    return RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")


def small_device(monkeypatch, pictures: int, error, only_training: bool = False) -> None:
    """As a GPU on which no more than so many pictures fit, or only not with what their backward pass needs."""
    from sid_pack.nodes.training import roles

    original = roles.predictor

    def predictor(base_model, process):
        predict = original(base_model, process)

        def limited(x_t, t, cond):
            if len(x_t) > pictures and (torch.is_grad_enabled() or not only_training):
                raise error()
            return predict(x_t, t, cond)

        return limited

    monkeypatch.setattr(roles, "predictor", predictor)


@pytest.fixture(scope="module")
def one_at_a_time(comfyui) -> dict[str, torch.Tensor]:
    """What is learnt of one picture at a time where there is room for all."""
    return student(comfyui.executor()(distilled(**LORA, micro_batch=1, run_name="roomy")))


@pytest.mark.parametrize(("error", "only_training"), [(gpu_error, False), (gpu_error, True), (cpu_error, True)])
def test_out_of_memory_is_answered_with_smaller_micro_batches(
    run_graph, one_at_a_time, monkeypatch, caplog, error, only_training
):
    """Where the student is looked at, which is before the first iteration, or in an iteration."""
    small_device(monkeypatch, 1, error, only_training)
    with caplog.at_level(logging.WARNING):
        learnt = student(run_graph(distilled(**LORA, run_name="tight")))
    assert [record.message for record in caplog.records if "out of memory" in record.message] == [
        "SiD: out of memory; from here on, 2 pictures at a time",
        "SiD: out of memory; from here on, one picture at a time",
    ]
    assert all(torch.equal(learnt[name], weight) for name, weight in one_at_a_time.items())


def test_recomputing_is_tried_next_and_then_it_is_said_what_to_do(run_graph, monkeypatch, caplog):
    small_device(monkeypatch, 0, gpu_error)
    result = run_graph(distilled(**LORA, gradient_checkpointing=False, run_name="none"))
    assert not result.success
    assert "there is too little memory" in result.error
    assert "a smaller latent or rank" in result.error
    assert "activations are computed again" in caplog.text


def test_other_errors_are_not_taken_for_it(run_graph, monkeypatch):
    small_device(monkeypatch, 0, lambda: RuntimeError("shape mismatch"))
    result = run_graph(distilled(**LORA, run_name="other"))
    assert "shape mismatch" in result.error


def test_what_is_expected_is_said_before_the_first_step(run_graph, caplog):
    with caplog.at_level(logging.INFO):
        student(run_graph(distilled(**LORA, run_name="said")))
    said = [record.message for record in caplog.records if record.message.startswith("SiD: ")]
    planned = next(i for i, message in enumerate(said) if "Of 4, 4 pictures at a time" in message)
    assert planned < next(i for i, message in enumerate(said) if message.startswith("SiD: step"))


def test_as_many_pictures_as_fit_go_through_at_once(run_graph, monkeypatch, caplog):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_: 200e6)
    with caplog.at_level(logging.INFO):
        student(run_graph(distilled(**(LORA | {"batch_size": 64, "iterations": 1}), run_name="fits")))
    planned = next(record.message for record in caplog.records if "pictures at a time" in record.message)
    per_picture, micro = map(float, re.search(r"([\d.]+) MB a picture for.* (\d+) pictures", planned).groups())
    assert 1 < micro < 64
    assert micro * per_picture < 200 < (micro + 20) * per_picture


GB = 10**9
# free, and then what is chosen, with 1 GB for optimizers, and a picture of 4 GB or, recomputed, 1 GB.
ROOM = {
    "for all": (40, 4, False, 0),
    "for two": (12, 2, False, 0),
    "for some that are recomputed": (4, 2, True, 0),
    "for none": (1, 1, True, 2),
}


@pytest.mark.parametrize(("free", "at_once", "recomputed", "kept_free"), ROOM.values(), ids=ROOM)
@pytest.mark.parametrize("can_offload", [True, False])
def test_what_does_not_fit_is_saved_before_it_runs_out(
    comfyui, monkeypatch, free, at_once, recomputed, kept_free, can_offload
):
    import comfy.model_management

    from sid_pack.nodes.training.memory import KEPT_FREE, OPTIMIZER, Demand, Savings, plan
    from sid_pack.sid_core.training.memory import Activations

    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_: free * GB)
    savings = Savings(micro_batch=4, recompute=False, can_offload=can_offload)
    demand = Demand(torch.device("cpu"), weights=5 * GB, trained=GB // OPTIMIZER, batch=4, forwards=2)
    said = plan(savings, demand, 0, lambda: Activations(kept=2 * GB, recomputed=GB // 2))
    assert (savings.micro_batch, savings.recompute) == (at_once, recomputed)
    wanted = kept_free * GB / (1 - KEPT_FREE) if can_offload else 0
    assert savings.kept_free == pytest.approx(wanted)
    assert ("may not fit" in said) == (bool(kept_free) and not can_offload)
    stays = f"{wanted / GB - free:.1f} GB of the weights stay in RAM"
    assert (stays in said) == bool(wanted)


@pytest.mark.parametrize("name", ["sd15", "sd3"])
def test_activations_are_those_that_autograd_keeps(name, comfyui):
    """Another route: keep everything, and count the memory that it lies in."""
    from sid_pack.nodes.host.conditioning import conditioning_tensors
    from sid_pack.nodes.host.model import predictor, process_of
    from sid_pack.nodes.host.weights import own_copy, with_gradients
    from sid_pack.sid_core.training.memory import measure_activations

    with torch.inference_mode():
        model = getattr(tiny_models, name)()
        latent = torch.zeros(1, model.get_model_object("latent_format").latent_channels, 16, 16)
        with with_gradients():
            cond = conditioning_tensors(model, tiny_models.conditioning(1), latent)
            process = process_of(model)
            network = own_copy(model)
            network.diffusion_model.requires_grad_(True)
            predict = predictor(network, process)
            t = process.snap(torch.tensor([process.default_t_init]))

            def forward():
                return predict(latent.clone(), t, cond)

            kept = {}

            def keep(tensor):
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                out = forward()
            weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
            expected = sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in weights)
            assert out.requires_grad
            found = measure_activations(network.diffusion_model, forward)
    assert found.kept == pytest.approx(expected, rel=0.15)
    assert found.recomputed < 0.7 * found.kept
