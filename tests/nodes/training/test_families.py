"""Every family on ComfyUI's true class at tiny size: sampled, guided, differentiated, trained, saved and loaded.

What stands in docs/families.md is what passes here, and CleanStyle's own tests.
"""

import logging
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from oracles import relative_error, stable_diffusion_alphas
from tiny_families import FAMILIES, TOKENS, Tiny
from torch import Tensor

BATCH = 2
KAPPA = 1.5
ITERATIONS = 30
FEWER = {"SSD-1B", "Segmind Vega", "KOALA 700M", "KOALA 1B"}  # large ones, and kin of SDXL
TIME_IN_THOUSANDTHS = {"SD3", "HiDream", "Kandinsky 5", "Kandinsky 5 Image", "Wan 2.1", "Wan 2.2 5B"}
VELOCITY = {"SD2"}
PIXART_BETAS = (0.0001, 0.02)
LORA, FULL = "lora", "full"


@pytest.fixture(params=FAMILIES)
def family(request, comfyui) -> SimpleNamespace:
    """name, tiny, model: as a loader leaves it."""
    tiny: Tiny = FAMILIES[request.param]
    if not tiny.known():
        pytest.skip(f"this ComfyUI has no {tiny.kind}")
    with torch.inference_mode():
        return SimpleNamespace(name=request.param, tiny=tiny, model=tiny.model())


@pytest.fixture
def in_float64(monkeypatch):
    """All that the host makes float32 of is float64, so that a difference of two losses has digits enough."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def level(name: str, t: Tensor) -> tuple[Tensor, Tensor]:
    """α_t and σ_t (B,), from the families' papers."""
    if float(t.max()) <= 1:
        return 1 - t, t
    bars = torch.tensor(stable_diffusion_alphas(), dtype=torch.float64)
    if name.startswith("PixArt"):
        bars = torch.cumprod(1 - torch.linspace(*PIXART_BETAS, 1000, dtype=torch.float64), 0)
    return bars[t.long()].sqrt(), (1 - bars[t.long()]).sqrt()


def clean_of(name: str, network, x_t: Tensor, t: Tensor, cond: dict) -> Tensor:
    """The network's clean prediction by its own formula, without anything of ComfyUI's sampling."""
    alpha, sigma = (c.view(-1, *[1] * (x_t.ndim - 1)).to(x_t.dtype) for c in level(name, t))
    given = {key: value for key, value in cond.items() if key != "c_crossattn" and not key.endswith(" tokens")}
    if name in ("Lumina 2", "Z-Image"):
        given["num_tokens"] = cond["c_crossattn"].shape[1]
    x_in = x_t
    if "c_concat" in given:
        x_in = torch.cat([x_t, given.pop("c_concat")], 1)
    told = t * (1000 if name in TIME_IN_THOUSANDTHS else 1)
    out = network(x_in, told.float(), context=cond["c_crossattn"], transformer_options={}, **given)
    if float(t.max()) <= 1:
        return x_t - sigma * out
    return (alpha * x_t - sigma * out) if name in VELOCITY else (x_t - sigma * out) / alpha


def rows_of(family, seeds: list[int], tokens: int = TOKENS) -> dict:
    from sid_pack.nodes.host.conditioning import conditioning_tensors
    from sid_pack.sid_core.data.conditioning import stack

    latent = torch.zeros(1, *family.tiny.latent)
    return stack([conditioning_tensors(family.model, family.tiny.conditioning(seed, tokens), latent) for seed in seeds])


def noise_like(family, seed: int, batch: int = BATCH) -> Tensor:
    return torch.randn(batch, *family.tiny.latent, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def is_flow(family) -> bool:
    from sid_pack.nodes.host.model import process_of
    from sid_pack.sid_core.method.process import Flow

    return isinstance(process_of(family.model), Flow)


def test_the_sampler_is_a_loop_over_the_bare_network(family):
    """Two steps, with the first noise again at the second; and a guided one, as the teacher is previewed."""
    import comfy.samplers

    from sid_pack.nodes.host.families import family_of
    from sid_pack.nodes.sampling.few_step import FewStepSampler, schedule
    from sid_pack.nodes.sampling.guiders import SiDLSGGuider

    model, network = family.model, family.model.model.diffusion_model
    noise = noise_like(family, 1)
    positive, negative = family.tiny.conditioning(0), family.tiny.conditioning(1)
    if family_of(model).guidance is not None:
        positive[0][1]["guidance"] = 1.0  # as distillation has it; the guider sees to it itself
    with torch.inference_mode():
        plain, guided = (
            comfy.samplers.CFGGuider(model),
            SiDLSGGuider.execute(model, positive, negative, KAPPA).result[0],
        )
        plain.set_conds(positive, negative)
        plain.set_cfg(1.0)
        zeros = torch.zeros_like(noise)
        two, one = (
            guider.sample(noise, zeros, FewStepSampler("fixed"), schedule(model, steps, 0.0), seed=1)
            for guider, steps in ((plain, 2), (guided, 1))
        )
        cond, uncond = rows_of(family, [0, 0]), rows_of(family, [1, 1])
        first, second = (torch.full((BATCH,), t) for t in ((1.0, 0.5) if is_flow(family) else (625.0, 312.0)))

        def noisy(clean: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = (c.view(-1, *[1] * (noise.ndim - 1)).float() for c in level(family.name, t))
            return alpha * clean + sigma * noise

        clean = clean_of(family.name, network, noisy(zeros, first), first, cond)
        other = clean_of(family.name, network, noisy(zeros, first), first, uncond)
        expected = clean_of(family.name, network, noisy(clean, second), second, cond)
        assert relative_error(two, model.model.process_latent_out(expected).float()) < 2e-3
        strong = model.model.process_latent_out(other + KAPPA * (clean - other)).float()
        assert relative_error(one, strong) < 2e-3
    assert relative_error(clean.float(), other.float()) > 1e-3


def roles_of(family, mode: str, recompute: bool = False):
    from sid_pack.nodes.host.model import process_of
    from sid_pack.nodes.sampling.guiders import SiDLSGGuider
    from sid_pack.nodes.training.memory import Savings
    from sid_pack.nodes.training.roles import LoRAOptions, full_roles, lora_roles

    conds = family.tiny.conditioning(0), family.tiny.conditioning(1)
    guider = SiDLSGGuider.execute(family.model, *conds, KAPPA).result[0]
    savings = Savings(BATCH, recompute, can_offload=False)
    if mode == FULL:
        return full_roles(guider, process_of(family.model), savings)
    return lora_roles(guider, process_of(family.model), LoRAOptions(4, 2), savings)


def in_double(roles, mode: str) -> None:
    """Both trained roles, moved apart, since what is equal has nothing to learn."""
    for seed, role in enumerate((roles.student, roles.fake)):
        role.double()
        if mode == FULL:
            role.dtype = torch.float64
        draw = torch.Generator().manual_seed(seed)
        for weight in role.parameters():
            size = 0.1 if mode == LORA else 0.1 * float(weight.data.std(correction=0))
            weight.data += size * torch.randn(weight.shape, generator=draw, dtype=torch.float64)


@dataclass
class Chain:
    """From the student through both scores, and as a discriminator's, to one number, as an iteration's loss goes."""

    family: SimpleNamespace
    adversarial: bool

    def __post_init__(self) -> None:
        flow = is_flow(self.family)
        self.noise, self.more, self.weights = (noise_like(self.family, seed).double() for seed in (2, 3, 4))
        self.t = torch.tensor([0.9, 0.6] if flow else [625, 312])
        self.later = torch.tensor([0.3, 0.7] if flow else [200, 600])
        self.cond, self.uncond = (rows_of(self.family, seeds) for seeds in ([0, 2], [1, 1]))

    def loss(self, roles) -> Tensor:
        from sid_pack.nodes.host.model import process_of

        process, predict = process_of(self.family.model), roles.predict
        x_g = predict.student(self.noise, self.t, self.cond)
        x_t = process.diffuse(x_g, self.more, self.later)
        if self.adversarial:
            y_fake, logits = predict.fake_with_logits(x_t, self.later, self.cond)
        else:
            y_fake, logits = predict.fake(x_t, self.later, self.cond), torch.zeros(1)
        scores = y_fake + predict.teacher(x_t, self.later, self.cond, self.uncond)
        return (self.weights * scores).sum() + logits.square().sum()


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("mode", [LORA, FULL])
def test_gradients_of_both_roles_equal_differences(family, mode):
    """Along a direction in which all of a role's weights change; and recomputed activations change nothing."""
    from sid_pack.nodes.host.families import ADVERSARIAL, family_of
    from sid_pack.nodes.host.weights import with_gradients

    network = family.model.model.diffusion_model
    with torch.inference_mode():
        network.double()
        network.dtype = torch.float64
    with torch.inference_mode(), with_gradients():
        chain = Chain(family, adversarial=ADVERSARIAL not in family_of(family.model).cannot)
        roles = roles_of(family, mode)
        in_double(roles, mode)
        trained = {"student": list(roles.student.parameters()), "fake": list(roles.fake.parameters())}
        every = [weight for weights in trained.values() for weight in weights]
        with roles.ready():
            gradients = torch.autograd.grad(chain.loss(roles), every, allow_unused=True)
        for name, weights in trained.items():
            mine = gradients[: len(weights)] if name == "student" else gradients[-len(weights) :]
            draw = torch.Generator().manual_seed(5)
            direction = [torch.randn(w.shape, generator=draw) * w.detach().std(correction=0) for w in weights]
            slope = sum(float((g * d).sum()) for g, d in zip(mine, direction, strict=True) if g is not None)
            assert slope == pytest.approx(difference(chain, roles, weights, direction), rel=1e-3), name
            assert sum(g is not None and bool(g.any()) for g in mine) > 0.6 * len(mine)  # some lead to text alone
        if mode == LORA:
            again = roles_of(family, mode, recompute=True)
            in_double(again, mode)
            with again.ready():
                same = torch.autograd.grad(
                    chain.loss(again), [*again.student.parameters(), *again.fake.parameters()], allow_unused=True
                )
            for a, b in zip(gradients, same, strict=True):
                assert (a is None and b is None) or relative_error(b, a) < 1e-6


def difference(chain: Chain, roles, weights: list[Tensor], direction: list[Tensor], step: float = 4e-3) -> float:
    """By central differences of two lengths, whose errors of second order cancel out (Richardson)."""

    def moved(by: float) -> float:
        for weight, change in zip(weights, direction, strict=True):
            weight.data += by * change
        with roles.ready(), torch.no_grad():  # as it is differentiated: fused kernels have no float64
            loss = float(chain.loss(roles))
        for weight, change in zip(weights, direction, strict=True):
            weight.data -= by * change
        return loss

    long, short = ((moved(by) - moved(-by)) / (2 * by) for by in (step, step / 2))
    return (4 * short - long) / 3


def test_iterations_teach_the_loras_alone_and_stock_loaders_read_the_student(family, tmp_path, caplog):
    import comfy.lora
    import comfy.sd

    from sid_pack.nodes.host.model import predictor, process_of, signature_of
    from sid_pack.nodes.host.weights import own_copy, with_gradients
    from sid_pack.nodes.sampling.attached import attached_lora
    from sid_pack.nodes.sampling.loras import lora_tensors
    from sid_pack.nodes.sampling.students import load_student
    from sid_pack.sid_core.files.student import StudentInfo
    from sid_pack.sid_core.files.tensors import write_tensors

    model, process = family.model, process_of(family.model)
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    with torch.inference_mode(), with_gradients():
        roles = roles_of(family, LORA)
        first, last = trained(family, roles, 12 if family.name in FEWER else ITERATIONS)
        assert last < 0.97 * first, f"{first} → {last}"
        for role in (roles.student, roles.fake):
            layers = [bool(layer.up.any()) for layer in role.by_layer().values()]
            assert sum(layers) > 0.6 * len(layers)
        x_t, cond = noise_like(family, 7), rows_of(family, [3, 3])
        t = torch.full((BATCH,), 0.8) if is_flow(family) else torch.full((BATCH,), 500)
        with torch.no_grad(), roles.ready():
            live = roles.predict.student(x_t, t, cond)
            plain = roles.predict.teacher(x_t, t, cond, cond)
        tensors = lora_tensors(model, roles.student)
    assert all(torch.equal(value, before[key]) for key, value in model.model.state_dict().items())
    assert relative_error(live, plain) > 1e-3
    info = StudentInfo(2, process.default_t_init, signature_of(model), "run", "lsg")
    write_tensors(tmp_path / "student.safetensors", tensors, info.to_metadata())
    with torch.inference_mode():
        ours = load_student(model, tmp_path / "student.safetensors")
        with caplog.at_level(logging.WARNING):
            stock, _ = comfy.sd.load_lora_for_models(model, None, dict(tensors), 1.0, 0.0)
        assert "not loaded" not in caplog.text and attached_lora(ours).keys() == tensors.keys()
        for student in (ours, stock):
            with with_gradients(), torch.no_grad():
                loaded = predictor(own_copy(student), process)(x_t, t, cond)
            assert relative_error(loaded, live) < 1e-3


def trained(family, roles, iterations: int) -> tuple[float, float]:
    """The fake score's regression before and after so many iterations, on what the untrained student draws."""
    from sid_pack.nodes.host.model import process_of
    from sid_pack.sid_core.data.conditioning import PromptSet, select
    from sid_pack.sid_core.method.guidance import Guidance
    from sid_pack.sid_core.training.distill import Bucket, distill
    from sid_pack.sid_core.training.run import Run
    from sid_pack.sid_core.training.settings import Settings

    process, draws = process_of(family.model), [noise_like(family, seed, 4) for seed in (10, 11)]
    flow = is_flow(family)
    rows, empty = rows_of(family, [0, 2]), rows_of(family, [1])
    conds = [select(rows, torch.tensor([i])) for i in range(2)]
    prompts = PromptSet.of(["a", "b"], conds, empty)
    cond = select(rows, torch.tensor([0, 1, 0, 1]))
    times = torch.tensor([0.3, 0.5, 0.7, 0.9]) if flow else torch.tensor([200, 400, 600, 800])
    with torch.no_grad(), roles.ready():
        x_g = roles.predict.student(draws[0], torch.full((4,), 1.0) if flow else torch.full((4,), 625), cond)

    def regression() -> float:
        with torch.no_grad(), roles.ready():
            y_fake = roles.predict.fake(process.diffuse(x_g, draws[1], times), times, cond)
        error = (y_fake - x_g).square().flatten(1).mean(1)
        return float((error * process.regression_weight(times)).mean())

    settings = Settings(Guidance.lsg(KAPPA), steps=2, batch=BATCH, student_learning_rate=1e-3, fake_learning_rate=2e-2)
    run = Run(roles.student, roles.fake, settings)
    first = regression()
    results = distill(run, roles.predict, [Bucket(family.tiny.latent, prompts)], process, torch.device("cpu"))
    for _ in range(iterations):
        with roles.ready():
            assert next(results).skipped == 0
    return first, regression()


@pytest.mark.parametrize("name", ["Qwen-Image", "SD3", "Lumina 2", "HiDream"])
def test_prompts_of_several_lengths_are_as_each_alone(name, comfyui):
    from sid_pack.nodes.host.conditioning import conditioning_tensors
    from sid_pack.nodes.host.model import predictor, process_of
    from sid_pack.sid_core.data.conditioning import select, stack

    tiny = FAMILIES[name]
    with torch.inference_mode():
        family = SimpleNamespace(name=name, tiny=tiny, model=tiny.model())
        latent = torch.zeros(1, *tiny.latent)
        alone = [
            conditioning_tensors(family.model, tiny.conditioning(seed, tokens), latent)
            for seed, tokens in enumerate((5, 9, 5, 2))
        ]
        x_t, t = noise_like(family, 1, 4), torch.tensor([0.2, 0.4, 0.6, 0.8])
        predict = predictor(family.model.model, process_of(family.model))
        together = predict(x_t, t, stack(alone))
        for i, cond in enumerate(alone):
            row = torch.tensor([i])
            torch.testing.assert_close(together[row], predict(x_t[row], t[row], cond), rtol=1e-4, atol=1e-5)
        longest = select(stack(alone), torch.tensor([3]))
        filled = predict(x_t[3:], t[3:], {"c_crossattn": longest["c_crossattn"]} | without_tokens(longest))
    assert (filled - together[3:]).abs().max() > 1e-4  # filled up, it is another prompt


def without_tokens(cond: dict) -> dict:
    return {name: values for name, values in cond.items() if not name.endswith(" tokens")}
