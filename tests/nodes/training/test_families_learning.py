"""Every family on ComfyUI's true class at tiny size: trained as LoRA and whole, gone on with, saved and loaded."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from family_runs import BATCH, FULL, KAPPA, LORA, is_flow, made, noise_like, roles_of, rows_of
from oracles import relative_error
from tiny_families import FAMILIES
from torch import Tensor, nn

ITERATIONS = {LORA: 8, FULL: 5}  # few, at rates by which they are seen
FAKE_RATES = {LORA: 2e-2, FULL: 3e-4}
SMALLER = {("Z-Image", LORA): 2e-3, ("Hunyuan-DiT", LORA): 5e-3, ("Hunyuan-DiT", FULL): 3e-5}
LONGER = {("FLUX.2", LORA): 30}
STOPPED = 2  # iterations before the end
IDENTITY = {"base": "tiny"}
# ComfyUI tells these from others by widths that a tiny network has not.
KNOWN_BY_WIDTH = {"SD1.5", "SD2", "SDXL", "SSD-1B", "Segmind Vega", "KOALA 700M", "KOALA 1B", "AuraFlow", "Z-Image"}
KNOWN_BY_WIDTH |= {"HunyuanVideo 1.5", "Kandinsky 5 Image"}


@dataclass(repr=False)
class Seen:
    """Of a run at one time: the fake score's regression, what teacher and student predict, and both roles' weights."""

    regression: float
    teacher: Tensor
    student: Tensor
    weights: dict[str, dict[str, Tensor]]


@dataclass(repr=False)
class Learning:
    """One family in one mode, its run, and what is needed to look at it."""

    family: SimpleNamespace
    mode: str
    roles: Any = field(init=False)
    run: Any = field(init=False)

    def __post_init__(self) -> None:
        from sid_pack.nodes.host.model import process_of
        from sid_pack.sid_core.data.conditioning import PromptSet, select

        self.process = process_of(self.family.model)
        self.roles, self.run = self.begun()
        self.draws = [noise_like(self.family, seed, 4) for seed in (10, 11)]
        flow, rows, empty = is_flow(self.family), rows_of(self.family, [0, 2]), rows_of(self.family, [1])
        self.prompts = PromptSet.of(["a", "b"], [select(rows, torch.tensor([i])) for i in range(2)], empty)
        self.cond = select(rows, torch.tensor([0, 1, 0, 1]))
        self.times = torch.tensor([0.3, 0.5, 0.7, 0.9]) if flow else torch.tensor([200, 400, 600, 800])
        with torch.no_grad(), self.roles.ready():  # what the untrained student draws
            self.x_g = self.roles.predict.student(
                self.draws[0], torch.full((4,), 1.0) if flow else torch.full((4,), 625), self.cond
            )

    def begun(self):
        """New roles, and their run before its first iteration."""
        from sid_pack.sid_core.method.guidance import Guidance
        from sid_pack.sid_core.training.run import Run
        from sid_pack.sid_core.training.settings import Settings

        roles = roles_of(self.family, self.mode)
        rate = SMALLER.get((self.family.name, self.mode), FAKE_RATES[self.mode])
        rates = {"student_learning_rate": 1e-3, "fake_learning_rate": rate}
        return roles, Run(roles.student, roles.fake, Settings(Guidance.lsg(KAPPA), steps=2, batch=BATCH, **rates))

    def train(self, roles, run, iterations: int) -> None:
        from sid_pack.sid_core.training.distill import Bucket, distill

        bucket = Bucket(self.family.tiny.latent, self.prompts)
        results = distill(run, roles.predict, [bucket], self.process, torch.device("cpu"))
        for _ in range(iterations):
            with roles.ready():
                assert next(results).skipped == 0

    def seen(self) -> Seen:
        x_t, predict = self.process.diffuse(self.x_g, self.draws[1], self.times), self.roles.predict
        with torch.no_grad(), self.roles.ready():
            error = (predict.fake(x_t, self.times, self.cond) - self.x_g).square().flatten(1).mean(1)
            return Seen(
                float((error * self.process.regression_weight(self.times)).mean()),
                predict.teacher(x_t, self.times, self.cond, self.cond),
                predict.student(x_t, self.times, self.cond),
                {"student": state_of(self.roles.student), "fake": state_of(self.roles.fake)},
            )

    def predicted_by(self, model) -> Tensor:
        """What a MODEL says of that which `seen` has the student's prediction of."""
        from sid_pack.nodes.host.model import predictor
        from sid_pack.nodes.host.weights import own_copy, with_gradients

        x_t = self.process.diffuse(self.x_g, self.draws[1], self.times)
        with with_gradients(), torch.no_grad():
            return predictor(own_copy(model), self.process)(x_t, self.times, self.cond)

    def saved(self) -> dict[str, Tensor]:
        """The student's tensors as its file has them."""
        from sid_pack.nodes.sampling.loras import lora_tensors
        from sid_pack.nodes.sampling.students import PREFIX

        if self.mode == LORA:
            return lora_tensors(self.family.model, self.roles.student)
        return {PREFIX + name: value for name, value in state_of(self.roles.student).items()}


@dataclass(repr=False)
class Learned:
    """model: its weights before. before, after: of the run. unbroken, gone_on: its whole state at the end, and that of
    one that was stopped and went on. student: its file."""

    learning: Learning
    model: dict[str, Tensor]
    before: Seen
    after: Seen
    unbroken: Any
    gone_on: Any
    student: Path

    @property
    def model_now(self) -> dict[str, Tensor]:
        return self.learning.family.model.model.state_dict()


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


@pytest.fixture(
    scope="module",
    params=[pytest.param((name, mode), id=f"{name}-{mode}") for name in FAMILIES for mode in (LORA, FULL)],
)
def learned(request, comfyui, tmp_path_factory) -> Learned:
    from sid_pack.nodes.host.model import signature_of
    from sid_pack.nodes.host.weights import with_gradients
    from sid_pack.sid_core.files.run_folder import RunFolder
    from sid_pack.sid_core.files.student import StudentInfo
    from sid_pack.sid_core.files.tensors import write_tensors
    from sid_pack.sid_core.training.run_state import checkpoint_of, restore

    name, mode = request.param
    family, place = made(name), tmp_path_factory.mktemp("run")
    if family is None:
        pytest.skip(f"this ComfyUI has no {FAMILIES[name].kind}")
    model = {key: value.clone() for key, value in family.model.model.state_dict().items()}
    with torch.inference_mode(), with_gradients(), RunFolder(place) as folder:
        learning = Learning(family, mode)
        before = learning.seen()
        learning.train(learning.roles, learning.run, LONGER.get((name, mode), ITERATIONS[mode]) - STOPPED)
        folder.save(checkpoint_of(learning.run, IDENTITY))
        learning.train(learning.roles, learning.run, STOPPED)
        roles, run = learning.begun()
        folder.resume(lambda state: restore(run, state, IDENTITY))
        learning.train(roles, run, STOPPED)
        info = StudentInfo(2, learning.process.default_t_init, signature_of(family.model), "run", "lsg")
        write_tensors(place / "student.safetensors", learning.saved(), info.to_metadata())
        return Learned(
            learning,
            model,
            before,
            learning.seen(),
            checkpoint_of(learning.run, IDENTITY),
            checkpoint_of(run, IDENTITY),
            place / "student.safetensors",
        )


def test_the_fake_score_learns(learned):
    """A little, in so few iterations; uphill it would be above what it was."""
    assert learned.after.regression < learned.before.regression


def test_both_roles_change_and_nothing_else(learned):
    """Whatever has gradients may change; the MODEL, which is the user's, and the teacher stay as they are."""
    assert all(torch.equal(value, learned.model[key]) for key, value in learned.model_now.items())
    assert torch.equal(learned.after.teacher, learned.before.teacher)
    assert relative_error(learned.after.student, learned.before.student) > 1e-3
    for role, weights in learned.after.weights.items():
        changed = [not torch.equal(value, learned.before.weights[role][name]) for name, value in weights.items()]
        assert sum(changed) > 0.5 * len(changed), role  # some lead to text alone
    if learned.learning.mode == LORA:
        for role in (learned.learning.roles.student, learned.learning.roles.fake):
            layers = [bool(layer.up.any()) for layer in role.by_layer().values()]
            assert sum(layers) > 0.6 * len(layers)


def test_a_run_that_was_stopped_goes_on_bitwise(learned):
    a, b = learned.unbroken, learned.gone_on
    assert a.counters == b.counters and a.values == b.values and a.tensors.keys() == b.tensors.keys()
    different = [name for name, value in a.tensors.items() if not torch.equal(value, b.tensors[name])]
    assert not different


def test_the_packs_loader_gives_what_was_trained(learned):
    from sid_pack.nodes.sampling.attached import attached_lora
    from sid_pack.nodes.sampling.students import load_student

    with torch.inference_mode():
        student = load_student(learned.learning.family.model, learned.student)
        assert (attached_lora(student) is not None) == (learned.learning.mode == LORA)
        assert relative_error(learned.learning.predicted_by(student), learned.after.student) < 1e-3


def test_what_is_saved_of_a_loaded_student_is_all_that_was_trained(learned):
    """Also what ComfyUI's patches don't reach, such as modulation tables."""
    from sid_pack.nodes.sampling.students import load_student, student_tensors
    from sid_pack.sid_core.files.tensors import read_tensors

    with torch.inference_mode():
        student = load_student(learned.learning.family.model, learned.student)
        _, again = student_tensors(student, torch.float32, merge=False)
    trained, _ = read_tensors(learned.student)
    assert again.keys() == trained.keys()
    assert not [name for name, value in trained.items() if not torch.equal(again[name], value.float())]


def test_comfyuis_loader_gives_what_was_trained(learned, monkeypatch, caplog):
    with torch.inference_mode(), caplog.at_level(logging.INFO):
        load = stock_lora if learned.learning.mode == LORA else stock_diffusion_model
        student = load(learned, monkeypatch)
        assert relative_error(learned.learning.predicted_by(student), learned.after.student) < 1e-3
    assert not [said for said in ("not loaded", "missing", "unexpected", "left over keys") if said in caplog.text]


def stock_lora(learned: Learned, monkeypatch):
    import comfy.sd
    import comfy.utils

    tensors = comfy.utils.load_torch_file(str(learned.student), safe_load=True)
    return comfy.sd.load_lora_for_models(learned.learning.family.model, None, tensors, 1.0, 0.0)[0]


def stock_diffusion_model(learned: Learned, monkeypatch):
    """As Load Diffusion Model does it, but for the sizes of a tiny network, which ComfyUI doesn't find but knows."""
    import comfy.model_detection
    import comfy.sd

    family, found = learned.learning.family, comfy.model_detection.model_config_from_unet
    config = family.model.model.model_config

    def told(tensors: dict, prefix: str, *args, **kwargs):
        kind = found(tensors, prefix, *args, **kwargs)
        assert family.name in KNOWN_BY_WIDTH or type(kind).__name__ == family.tiny.kind
        return type(config)(dict(config.unet_config))

    monkeypatch.setattr(comfy.model_detection, "model_config_from_unet", told)
    return comfy.sd.load_diffusion_model(str(learned.student), {"dtype": torch.float32})
