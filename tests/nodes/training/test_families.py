"""Every family on ComfyUI's true class at tiny size: sampled, guided and differentiated.

What stands in docs/families.md is what passes here, in test_families_learning.py and in CleanStyle's own tests.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from family_runs import BATCH, FULL, KAPPA, LORA, is_flow, noise_like, roles_of, rows_of
from oracles import relative_error, stable_diffusion_alphas
from tiny_families import FAMILIES
from torch import Tensor

TIME_IN_THOUSANDTHS = {"SD3", "HiDream", "Kandinsky 5", "Kandinsky 5 Image", "Wan 2.1", "Wan 2.2 5B"}
TIME_IN_THOUSANDTHS |= {"HunyuanVideo", "HunyuanVideo 1.5", "HunyuanImage 2.1"}
TOLD_TOKENS = {"Lumina 2", "Z-Image", "OmniGen2", "Mochi"}
VELOCITY = {"SD2", "Hunyuan-DiT"}
PIXART_BETAS = (0.0001, 0.02)
HUNYUAN_DIT_BETAS = (0.00085, 0.018)  # of whose roots the steps are even


@pytest.fixture
def in_float64(monkeypatch):
    """All that the host makes float32 of is float64, so that a difference of two losses has digits enough."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    places = torch.meshgrid  # of which Mochi has some in float32
    monkeypatch.setattr(torch, "meshgrid", lambda *each, **how: places(*(one.double() for one in each), **how))
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
    if name == "Hunyuan-DiT":
        roots = torch.linspace(*(beta**0.5 for beta in HUNYUAN_DIT_BETAS), 1000, dtype=torch.float64)
        bars = torch.cumprod(1 - roots**2, 0)
    return bars[t.long()].sqrt(), (1 - bars[t.long()]).sqrt()


def clean_of(name: str, network, x_t: Tensor, t: Tensor, cond: dict) -> Tensor:
    """The network's clean prediction by its own formula, without anything of ComfyUI's sampling."""
    alpha, sigma = (c.view(-1, *[1] * (x_t.ndim - 1)).to(x_t.dtype) for c in level(name, t))
    given = {key: value for key, value in cond.items() if key != "c_crossattn" and not key.endswith(" tokens")}
    if name in TOLD_TOKENS:
        given["num_tokens"] = cond["c_crossattn"].shape[1]
    if name == "Mochi":  # whose filling is hidden by this number
        given["num_tokens"] = int(cond["attention_mask"][0].sum())
    x_in = x_t
    if "c_concat" in given:
        x_in = torch.cat([x_t, given.pop("c_concat")], 1)
    told = t * (1000 if name in TIME_IN_THOUSANDTHS else 1)
    out = network(x_in, told.float(), context=cond["c_crossattn"], transformer_options={}, **given)
    if float(t.max()) <= 1:
        return x_t - sigma * out
    return (alpha * x_t - sigma * out) if name in VELOCITY else (x_t - sigma * out) / alpha


def test_the_sampler_is_a_loop_over_the_bare_network(family):
    """Two steps, with the first noise again at the second; and a guided one, as the teacher is previewed."""
    import comfy.samplers

    from sid_pack.nodes.host.families import family_of
    from sid_pack.nodes.sampling.few_step import FewStepSampler, schedule
    from sid_pack.nodes.sampling.guiders import SiDLSGGuider

    model, network = family.model, family.model.model.diffusion_model
    noise = noise_like(family, 1)
    positive, negative = family.tiny.conditioning(0), family.tiny.conditioning(1)
    if (guidance := family_of(model).guidance) is not None:
        positive[0][1]["guidance"] = guidance  # as distillation has it; the guider sees to it itself
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


@contextmanager
def iteration_in_double(family, mode: str) -> Iterator[tuple]:
    """The chain of an iteration and the roles that it goes through, in float64, within what gradients are open in."""
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
        yield chain, roles


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("mode", [LORA, FULL])
def test_gradients_of_both_roles_equal_differences(family, mode):
    """Along a direction in which all of a role's weights change; and recomputed activations change nothing."""
    with iteration_in_double(family, mode) as (chain, roles):
        trained = {"student": list(roles.student.parameters()), "fake": list(roles.fake.parameters())}
        every = [weight for weights in trained.values() for weight in weights]
        with roles.ready():
            gradients = torch.autograd.grad(chain.loss(roles), every, allow_unused=True)
        for name, weights in trained.items():
            mine = gradients[: len(weights)] if name == "student" else gradients[-len(weights) :]
            draw = torch.Generator().manual_seed(5)
            direction = [torch.randn(w.shape, generator=draw) * w.detach().std(correction=0) for w in weights]
            terms = torch.cat([(g * d).flatten() for g, d in zip(mine, direction, strict=True) if g is not None])
            near = {"rel": 1e-3, "abs": 1e-3 * float(terms.norm())}  # where the terms happen to cancel out
            assert float(terms.sum()) == pytest.approx(difference(chain, roles, weights, direction), **near), name
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


@pytest.mark.usefixtures("in_float64")
def test_both_scores_in_one_forward_are_those_of_separate_ones(family):
    """Their values, and the gradients by what they are given and by the fake score's weights."""
    with iteration_in_double(family, LORA) as (chain, roles):
        x_t, t, cond, uncond = chain.noise.requires_grad_(), chain.later, chain.cond, chain.uncond
        predict, asked = roles.predict, [x_t, *roles.fake.parameters()]

        def gradients(*scores: Tensor) -> tuple[Tensor | None, ...]:
            total = sum((score * (1 + place) * score.detach().cos()).sum() for place, score in enumerate(scores))
            return torch.autograd.grad(total, asked, allow_unused=True)

        with roles.ready():
            for judged in {False, chain.adversarial}:
                conditional = predict.fake_with_logits(x_t, t, cond) if judged else [predict.fake(x_t, t, cond)]
                apart = [predict.fake(x_t, t, uncond), *conditional, predict.teacher(x_t, t, cond, uncond)]
                wanted = gradients(*apart)
                (first, second), logits, teacher = predict.both(x_t, t, [uncond, cond], cond, uncond, judged)
                both = [first, second, *([logits] if judged else []), teacher]
                found = gradients(*both)
                for one, other in zip(both, apart, strict=True):
                    assert relative_error(one, other) < 1e-10
                for one, other in zip(found, wanted, strict=True):
                    assert (one is None and other is None) or relative_error(one, other) < 1e-10


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
