"""A whole student as a LoRA, on ComfyUI's true classes: what it holds, what it says that it doesn't."""

import re
from pathlib import Path

import pytest
import tiny_models
import torch
from graphs import demo, node, shown
from safetensors import safe_open
from tiny_families import FAMILIES as FAMILY
from torch import Tensor

FAMILIES = ["sd15", "sdxl", "sd3", "flux", "Wan 2.1"]


def base_of(family: str):
    return FAMILY[family].model() if family in FAMILY else getattr(tiny_models, family)()


def info_of(model, **changes):
    from sid_pack.nodes.host.model import signature_of
    from sid_pack.sid_core.files.student import StudentInfo

    return StudentInfo(
        **({"steps": 2, "t_init": 1, "base": signature_of(model), "run": "r", "guidance": "g"} | changes)
    )


def drawn(model, scale: float = 0.02, only: str = "") -> dict[str, Tensor]:
    """Weights like the MODEL's, all of them changed, or those that have `only` in their name."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: weight + scale * torch.randn(weight.shape, generator=generator) * (only in name)
        for name, weight in model.model.diffusion_model.state_dict().items()
    }


def weights_of(model) -> dict[str, Tensor]:
    from sid_pack.nodes.host.weights import patched_weights

    return patched_weights(model, torch.float32)


def extracted(base, weights: dict[str, Tensor], rank: int, energy: float = 1.0):
    """The LoRA on its base, and what is said of it."""
    from sid_pack.nodes.sampling.attached import as_student, with_lora
    from sid_pack.nodes.sampling.extraction import extract

    info = info_of(base)
    tensors, told = extract(as_student(base, weights, info), base, rank, energy)
    return with_lora(base, tensors, info), told


@pytest.fixture(autouse=True)
def as_in_a_node(comfyui):
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("family", FAMILIES)
def test_at_full_rank_it_is_the_student_but_for_what_no_lora_holds(family):
    """Each weight that the host makes of base and LoRA is the student's, or one of `others` and the base's."""
    base = base_of(family)
    original = {name: weight.clone() for name, weight in base.model.diffusion_model.state_dict().items()}
    student = drawn(base)
    lora, told = extracted(base, student, 4096)
    for name, weight in weights_of(lora).items():
        expected = original[name] if name in told.others else student[name]
        torch.testing.assert_close(weight, expected, rtol=0, atol=2e-6, msg=name)
        if name in told.others:  # also where no patch reaches
            left = float((student[name] - original[name]).norm())
            assert told.others[name] == pytest.approx(left, rel=1e-4, abs=1e-6), name
    matrices = {name for name, weight in student.items() if name.endswith(".weight") and weight.ndim in (2, 4)}
    assert {f"{layer}.weight" for layer in told.layers} >= matrices - {n for n in matrices if "embedding" in n}
    assert told.error < 1e-4


def test_errors_are_those_of_the_network_that_comes_out():
    """Told of each layer and of all, against what is measured on the weights that the host makes of it."""
    base = tiny_models.sd15()
    original, student = dict(base.model.diffusion_model.state_dict()), drawn(base)
    original = {name: weight.clone() for name, weight in original.items()}
    lora, told = extracted(base, student, 4)
    held = weights_of(lora)
    lacking, learnt, left_out = 0.0, 0.0, 0.0
    for name, weight in student.items():
        norm, error = float((weight - original[name]).norm()), float((weight - held[name]).norm())
        if name in told.others:
            left_out += norm**2
            assert error == pytest.approx(norm, rel=1e-4) and told.others[name] == pytest.approx(norm, rel=1e-4)
        else:
            lacking, learnt = lacking + error**2, learnt + norm**2
            factors = told.layers[name.removesuffix(".weight")]
            assert (factors.norm, factors.error) == pytest.approx((norm, error), rel=1e-3, abs=1e-5)
            assert factors.rank == min(4, *weight.flatten(1).shape)
    assert told.error == pytest.approx((lacking / learnt) ** 0.5, rel=1e-3)
    assert told.share_of_others == pytest.approx(left_out / (left_out + learnt), rel=1e-3)


def test_the_worst_layers_are_named_and_all_are_in_the_report():
    base = tiny_models.sd15()
    _, told = extracted(base, drawn(base), 4)
    relative = {name: each.error / each.norm for name, each in told.layers.items()}
    worst = sorted(relative, key=relative.get, reverse=True)
    summary, _, table = told.report().partition("\n\n")
    assert re.findall(r"[\w.]+\.[\w.]+(?= \d+ %)", summary.splitlines()[1]) == worst[:3]
    assert [line.split()[-1] for line in table.splitlines()[1:]] == worst
    assert summary.startswith(f"rank 4 on {len(worst)} layers (all linear and convolution layers), ")
    assert all(name in told.others for name in re.search("norms: (.*?)( …)?$", summary)[1].split(", "))


def test_layers_that_have_learnt_nothing_cost_next_to_nothing_and_kinds_without_any_are_left_out():
    """so a student of attention alone is a LoRA on attention, of the rank that each layer needs."""
    base = tiny_models.sd15()
    _, told = extracted(base, drawn(base, only="attn1.to_q.weight"), 8)
    assert told.targets == "attention"
    assert all(("attn" in name or "proj" in name) for name in told.layers)
    assert {each.rank for name, each in told.layers.items() if not name.endswith("attn1.to_q")} == {1}


def test_energy_gives_each_layer_the_rank_that_it_needs():
    """Of a difference of rank 2 in each matrix, 99 % are at most rank 2."""
    base = tiny_models.sd15()
    generator = torch.Generator().manual_seed(7)

    def low(weight: Tensor) -> Tensor:
        flat = weight.flatten(1)
        parts = (torch.randn(side, 2, generator=generator) for side in flat.shape)
        left, right = parts
        return (left @ right.T).view_as(weight) * 0.01

    own = base.model.diffusion_model.state_dict()
    student = {name: weight + (low(weight) if weight.ndim > 1 else 0) for name, weight in own.items()}
    _, told = extracted(base, student, 32, energy=0.9999)
    assert {each.rank for each in told.layers.values()} <= {1, 2}
    assert told.error < 0.011  # the root of 0.0001
    assert told.share_of_others == 0


def test_two_that_are_the_same_are_refused():
    base = tiny_models.sd15()
    with pytest.raises(ValueError, match="^Connect a student as model, and as base"):
        extracted(base, drawn(base, 0.0), 4)


def test_weights_that_are_not_finite_are_refused_by_name():
    base = tiny_models.sd15()
    student = drawn(base)
    student["out.2.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"out\.2\.weight is not finite"):
        extracted(base, student, 4)


def test_only_students_of_this_base_are_taken():
    from sid_pack.nodes.sampling.attached import as_student
    from sid_pack.nodes.sampling.extraction import require_student

    base, other = tiny_models.sd15(), tiny_models.sdxl()
    with pytest.raises(ValueError, match="Extract and Save Lora"):
        require_student(base, base)
    with pytest.raises(ValueError, match="^Connect as base the model that the student was distilled from"):
        require_student(as_student(base, {}, info_of(base)), other)


# In the graph: the demo's students

EXTRACT = {"model": ["student", 0], "base": ["demo", 0]}


def graph_of(rank: int, energy: float = 1.0) -> dict:
    """The demo's LoRA student, and a LoRA made of it, saved and drawn with."""
    generated = node(
        "SiDGenerate", model=["extracted", 0], positive=["positive", 0], seed=5, width=64, height=64, batch_size=2
    )
    generated["inputs"] |= {"steps": 0, "t_init": 0.0, "noise_mode": "as trained"}
    return {
        **demo(),
        "student": node("SiDDemoModel", weights="student, 4 steps"),
        "extracted": node("SiDExtractLoRA", **EXTRACT, rank=rank, energy=energy),
        "saved": node("SiDSaveStudent", model=["extracted", 0], filename_prefix="extracted", precision="float16"),
        "generated": generated,
        **shown(["generated", 0]),
    }


def test_of_a_lora_it_makes_one_that_draws_the_same_and_says_the_same(run_graph):
    """The demo's LoRA is of rank 12, so rank 12 is all of it."""
    graph = graph_of(12)
    result = run_graph(graph)
    assert result.success, result.error
    graph["generated"]["inputs"]["model"] = ["student", 0]
    expected = run_graph(graph).value("generated")["samples"]
    torch.testing.assert_close(result.value("generated")["samples"], expected, rtol=0, atol=2e-3)
    report = result.value("extracted", 1)
    assert report.startswith("rank 12 on 82 layers (all linear and convolution layers)")
    path = Path(result.value("saved"))
    assert path.parent.name == "loras"
    with safe_open(path, "pt") as file:
        told = file.metadata()
        ranks = {len(file.get_tensor(name)) for name in file.keys() if name.endswith("lora_down.weight")}  # noqa: SIM118
    assert max(ranks) == 12
    assert (told["sid.steps"], told["sid.t_init"]) == ("4", "625")
    assert "sid.base_weights" in told


def test_a_lower_rank_draws_other_pictures(run_graph):
    full, low = (run_graph(graph_of(rank)).value("generated")["samples"] for rank in (12, 1))
    assert (full - low).abs().mean() > 0.02
