"""Students, other LoRAs and strengths on one MODEL: the sum that their files say, in whatever order they come."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import torch
from graphs import demo, node, shown
from safetensors.torch import save_file
from torch import Tensor

FAMILIES = ["sd15", "sdxl", "sd3", "flux"]
TARGETS = "attention and feed-forward"


@pytest.fixture(autouse=True)
def as_in_a_node(comfyui):
    with torch.inference_mode():
        yield


def network_of(model) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.model.diffusion_model.state_dict().items()}


def weights_of(model) -> dict[str, Tensor]:
    from sid_pack.nodes.host.weights import patched_weights

    return patched_weights(model, torch.float32)


def lora_for(
    model, seed: int, targets: str = TARGETS, alpha: float = 2.0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A LoRA of rank 4 as files name it; and what it adds at strength 1, by the weights' names, in float64."""
    from sid_pack.nodes.sampling.loras import lora_tensors
    from sid_pack.sid_core.training.adapters import LoRASet, find_targets

    adapters = LoRASet(find_targets(model.model.diffusion_model, targets), 4, alpha, seed)
    generator = torch.Generator().manual_seed(seed)
    added = {}
    for name, layer in adapters.by_layer().items():
        layer.up.copy_(torch.randn(layer.up.shape, generator=generator) * 0.1)
        shape = model.model.diffusion_model.get_submodule(name).weight.shape
        product = layer.up.double().flatten(1) @ layer.down.double().flatten(1)
        added[f"{name}.weight"] = (alpha / 4 * product).view(shape)
    return lora_tensors(model, adapters), added


def info_of(model, **changes):
    from sid_pack.nodes.host.fingerprints import weights_sample
    from sid_pack.nodes.host.model import signature_of
    from sid_pack.sid_core.files.student import StudentInfo

    told = {"steps": 2, "t_init": 1, "base": signature_of(model), "run": "r", "guidance": "g"}
    return StudentInfo(**(told | {"base_weights": weights_sample(model)} | changes))


def with_style(model, tensors: dict[str, Tensor], strength: float):
    """As ComfyUI's Load LoRA does it."""
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, tensors, strength, 0)[0]


def load(model, path: Path, strength: float = 1.0):
    from sid_pack.nodes.sampling.students import load_student

    return load_student(model, path, strength)


def assert_weights(model, expected: dict[str, Tensor]) -> None:
    for name, weight in weights_of(model).items():
        torch.testing.assert_close(weight, expected[name].float(), rtol=0, atol=1e-5, msg=name)


def total(base: dict[str, Tensor], *added: tuple[float, dict[str, Tensor]]) -> dict[str, Tensor]:
    """base + Σ strength · scale · up · down"""
    return {
        name: weight.double() + sum(strength * deltas[name] for strength, deltas in added if name in deltas)
        for name, weight in base.items()
    }


def student_file(model, tmp_path: Path, kind: str, foreign: bool = False) -> tuple[Path, dict[str, Tensor]]:
    """A student of the MODEL, and what it adds to it. foreign: of another tool, its steps in the file's name."""
    path = tmp_path / f"{kind}_2step.safetensors"
    tensors, added = lora_for(model, seed=1)
    if kind == "whole":
        base = network_of(model)
        added |= {name: torch.full(base[name].shape, 0.01, dtype=torch.float64) for name in base if "bias" in name}
        tensors = {f"model.diffusion_model.{name}": weight.float() for name, weight in total(base, (1, added)).items()}
    save_file(tensors, path, None if foreign else info_of(model).to_metadata())
    return path, added


@pytest.mark.parametrize("kind", ["lora", "whole"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_of_a_student_and_other_loras_does_not_matter(family, kind, tmp_path):
    """Two LoRAs before, after and around the student, each at its strength: one sum, and the student's metadata."""
    model = getattr(tiny_models, family)()
    base, told = network_of(model), info_of(model)
    path, student = student_file(model, tmp_path, kind)
    loras = [(0.7, *lora_for(model, seed=2, targets="attention")), (-0.4, *lora_for(model, seed=3, alpha=4.0))]
    steps = [lambda m, lora=lora: with_style(m, lora[1], lora[0]) for lora in loras] + [lambda m: load(m, path, 0.8)]
    expected = total(base, (0.8, student), *((strength, added) for strength, _, added in loras))
    for order in itertools.permutations(steps):
        loaded = model
        for step in order:
            loaded = step(loaded)
        assert loaded.get_attachment("sid_student") == told
        assert_weights(loaded, expected)
    assert_weights(model, base)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("kind", ["lora", "whole"])
def test_a_strength_goes_from_the_base_through_the_student(kind, strength, tmp_path):
    model = tiny_models.sd15()
    base = network_of(model)
    path, added = student_file(model, tmp_path, kind)
    assert_weights(load(model, path, strength), total(base, (strength, added)))


@pytest.mark.parametrize("kind", ["lora", "whole"])
def test_a_student_of_others_takes_a_strength_and_adds_up_as_well(kind, tmp_path):
    model = tiny_models.sd15()
    base, other = network_of(model), lora_for(model, seed=2)
    path, added = student_file(model, tmp_path, kind, foreign=True)
    expected = total(base, (0.6, added), (0.5, other[1]))
    assert_weights(load(with_style(model, other[0], 0.5), path, 0.6), expected)
    assert_weights(with_style(load(model, path, 0.6), other[0], 0.5), expected)


@pytest.mark.parametrize("merge", [False, True])
def test_what_is_saved_of_a_student_at_a_strength_is_that(merge, tmp_path):
    """As a LoRA that has the strength in it, and as the whole network with other LoRAs baked in."""
    from sid_pack.nodes.sampling.students import save_student, student_tensors

    model = tiny_models.sd15()
    base, other = network_of(model), lora_for(model, seed=2)
    path, added = student_file(model, tmp_path, "lora")
    student = with_style(load(model, path, 0.6), other[0], 0.5)
    folder, tensors = student_tensors(student, torch.float32, merge)
    again = load(model, save_student(tensors, info_of(model), folder, f"strength_{merge}"))
    assert_weights(again, total(base, (0.6, added), *([(0.5, other[1])] if merge else [])))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_model_of_a_lora_is_base_and_scale_up_down(family, tmp_path):
    """On a base that has another LoRA: every tensor in the file is the sum, in float64 by hand; alpha / rank is 1/2."""
    from sid_pack.nodes.sampling.students import student_tensors

    model = getattr(tiny_models, family)()
    base, other = network_of(model), lora_for(model, seed=2, targets="all linear and convolution layers")
    path, added = student_file(model, tmp_path, "lora")
    folder, tensors = student_tensors(load(with_style(model, other[0], 0.3), path), torch.float32, merge=True)
    assert folder == "diffusion_models"
    assert tensors.keys() == {f"model.diffusion_model.{name}" for name in base}
    expected = total(base, (1, added), (0.3, other[1]))
    for name, weight in expected.items():
        torch.testing.assert_close(tensors[f"model.diffusion_model.{name}"], weight.float(), rtol=0, atol=1e-6)


def test_a_whole_student_does_not_get_twice_what_its_teacher_had(tmp_path):
    """Distilled from a MODEL with a LoRA on, it has learnt that; another LoRA is still to come on top."""
    model = tiny_models.sd15()
    base, style, other = network_of(model), lora_for(model, seed=2), lora_for(model, seed=3)
    teacher = with_style(model, style[0], 1.0)
    learnt = {name: weight + 0.02 for name, weight in total(base, (1, style[1])).items()}
    path = tmp_path / "whole.safetensors"
    tensors = {f"model.diffusion_model.{name}": weight.float() for name, weight in learnt.items()}
    save_file(tensors, path, info_of(teacher).to_metadata())
    assert_weights(load(teacher, path), learnt)
    assert_weights(with_style(load(teacher, path), other[0], 0.5), total(learnt, (0.5, other[1])))
    assert_weights(load(model, path), learnt)


# Another base

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def fine_tuned(model, difference: float):
    """Of the MODEL's class, with weights that differ by so much, relative."""
    other = tiny_models.sd15()
    generator = torch.Generator().manual_seed(9)
    for weight in other.model.diffusion_model.state_dict().values():
        drawn = torch.randn(weight.shape, generator=generator)
        weight += drawn * difference * weight.norm() / drawn.norm()
    return other


@pytest.mark.parametrize("difference", [0.03, 0.3])
def test_how_far_another_base_is_is_estimated_from_a_sample(difference):
    from sid_pack.nodes.sampling.base import distance_to_base

    model = tiny_models.sd15()
    info = info_of(model)
    assert len(info.base_weights) == 128 and len(json.dumps(info.base_weights)) < 2000
    distance = distance_to_base(info, fine_tuned(model, difference))
    assert distance.difference == pytest.approx(difference, rel=0.3) and not distance.is_same
    same = distance_to_base(info, model)
    assert same.difference == 0 and same.is_same and not same.patched


@pytest.mark.parametrize("dtype", HALVES)
def test_a_base_in_half_precision_is_the_same(dtype):
    from sid_pack.nodes.sampling.base import distance_to_base

    model = tiny_models.sd15()
    info = info_of(model)
    model.model.diffusion_model.to(HALVES[dtype])
    distance = distance_to_base(info, model)
    assert distance.is_same and 0 < distance.difference < 0.005


def test_a_style_lora_on_the_base_makes_no_other_base_of_it_and_a_lora_that_the_teacher_had_is_missed():
    from sid_pack.nodes.sampling.base import difference_of, distance_to_base

    model = tiny_models.sd15()
    styled = with_style(model, lora_for(model, seed=2)[0], 3.0)
    info, of_styled = info_of(model), info_of(styled)
    assert distance_to_base(info, styled).is_same
    assert distance_to_base(of_styled, styled).patched
    assert not distance_to_base(of_styled, model).is_same
    assert difference_of(info, model) is None and difference_of(info, styled) > 0.01
    assert difference_of(replace(info, base_weights=None), styled) is None


def test_a_loaded_model_is_sampled_as_it_is_on_disk():
    """Its module then has a LoRA in its weights, which the host takes out again later."""
    import comfy.model_management

    from sid_pack.nodes.host.fingerprints import weights_sample

    model = tiny_models.sd15()
    styled = with_style(model, lora_for(model, seed=2)[0], 3.0)
    plain, patched = weights_sample(model), weights_sample(styled)
    assert plain != patched
    comfy.model_management.load_models_gpu([styled])
    assert weights_sample(styled, patched=False) == weights_sample(model) == plain
    assert weights_sample(styled) == patched


@pytest.mark.parametrize(("kind", "said"), [("lora", "distil this MODEL"), ("whole", "Make a LoRA of the student")])
def test_the_loader_says_what_to_expect_of_another_base(kind, said, tmp_path):
    from sid_pack.nodes.sampling.loaded import told_of

    model = tiny_models.sd15()
    path, _ = student_file(model, tmp_path, kind)
    other = fine_tuned(model, 0.2)
    (own,) = told_of(load(model, path), model, 1.0)
    assert own == {"lora": "a LoRA", "whole": "a whole network"}[kind] + ", 2 steps from t_init 1"
    first, warning = told_of(load(other, path, 0.5), other, 0.5)
    assert first == f"{own}, at strength 0.5"
    assert warning.startswith("⚠ ") and said in warning and " %" in warning


# In the graph

GENERATE = {"positive": ["positive", 0], "seed": 5, "width": 64, "height": 64, "batch_size": 2, "steps": 0}
GENERATE |= {"t_init": 0.0, "noise_mode": "as trained"}


def test_the_loader_takes_a_strength_and_stock_load_lora_on_both_sides(run_graph, comfyui):
    """By files and ComfyUI's own nodes: the student's steps are known behind them, and the order changes nothing."""
    import folder_paths

    from sid_pack.nodes.demo.model import ASSETS, load_demo

    loras = Path(folder_paths.get_folder_paths("loras")[0])
    loras.mkdir(parents=True, exist_ok=True)
    model, _, _ = load_demo()
    save_file(lora_for(model, seed=2)[0], loras / "style.safetensors")
    (loras / "demo_4.safetensors").write_bytes((ASSETS / "student_4_steps.safetensors").read_bytes())
    folder_paths.filename_list_cache.clear()

    def graph(first: bool, strength: float | None) -> dict:
        style = {"lora_name": "style.safetensors", "strength_model": 0.3}
        own = {"student": "demo_4.safetensors"} | ({} if strength is None else {"strength": strength})
        style_on, student_on = (["demo", 0], ["style", 0]) if first else (["student", 0], ["demo", 0])
        return {
            **demo(),
            "style": node("LoraLoaderModelOnly", model=style_on, **style),
            "student": node("SiDLoadStudent", model=student_on, **own),
            "generated": node("SiDGenerate", model=["student" if first else "style", 0], **GENERATE),
            **shown(["generated", 0]),
        }

    def draw(*args) -> Tensor:
        result = run_graph(graph(*args))
        assert result.success, result.error
        return result.value("generated")["samples"]

    after, before = draw(False, 0.8), draw(True, 0.8)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-3)
    assert (draw(False, None) - after).abs().mean() > 0.01
    torch.testing.assert_close(draw(False, None), draw(False, 1.0), rtol=0, atol=0)
    refused = run_graph(graph(False, 2.5))
    assert not refused.success
