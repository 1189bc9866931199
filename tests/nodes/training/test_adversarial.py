"""The adversarial term on ComfyUI's own UNet and DiT: the features it judges by, and both roles' gradients.

The gradients are held against a second implementation: features by hooks and formulas of its own, torch's
BCEWithLogitsLoss, and one autograd.grad over the whole loss, with weights that are handed in as arguments.
"""

import copy
import math
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import tiny_models
import torch
from oracles import stable_diffusion_alphas
from torch import Tensor, nn
from torch.func import functional_call

from sid_pack.sid_core.data.conditioning import PromptSet, select
from sid_pack.sid_core.method.discriminator import pooled
from sid_pack.sid_core.method.guidance import Guidance, guided
from sid_pack.sid_core.method.process import VP, Flow
from sid_pack.sid_core.training.distill import Bucket, Predictors, distill, generator_for
from sid_pack.sid_core.training.recompute import checkpointed
from sid_pack.sid_core.training.run import Run
from sid_pack.sid_core.training.settings import Settings

BATCH, DROPOUT = 3, 0.4
LAMBDA, DISCRIMINATOR = 0.7, 1.3
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Kind:
    """A family: how its model is made, what its latents are, and what its network is called with."""

    make: str
    channels: int
    guidance: Guidance
    scales: tuple[float, float, float]

    @property
    def process(self) -> VP | Flow:
        return Flow() if self.make == "sd3" else VP.stable_diffusion("eps")

    def call(self, network: nn.Module, x_t: Tensor, t: Tensor, cond: dict[str, Tensor], weights: Weights | None = None):
        given = {"context": cond["c_crossattn"], "transformer_options": {}}
        if self.make == "sd3":
            t, given = 1000 * t, given | {"y": cond["y"]}
        if weights is None:
            return network(x_t, t, **given)
        return functional_call(network, weights, (x_t, t), given)


KINDS = {
    "unet, lsg": Kind("sd15", 4, Guidance.lsg(1.5), (1.5, 1.5, 1.5)),
    "unet, zero": Kind("sd15", 4, Guidance.zero_cfg(), (0.0, 0.0, 1.0)),
    "dit, anti": Kind("sd3", 16, Guidance.anti_cfg(-1.0), (-1.0, -1.0, 1.0)),
}


@pytest.fixture(params=KINDS)
def kind(request, comfyui) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def networks(kind):
    """Teacher, fake score and student, in float64, and apart; everything without a dtype of its own is float64 too."""
    model = getattr(tiny_models, kind.make)().model.diffusion_model
    made = {}
    for seed, role in enumerate(("teacher", "fake", "student")):
        made[role] = copy.deepcopy(model).double().requires_grad_(True)
        made[role].dtype = torch.float64
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in made[role].parameters():
                weight += 0.02 * torch.randn(weight.shape, generator=generator)
    made["teacher"].requires_grad_(False)
    torch.set_default_dtype(torch.float64)
    yield made
    torch.set_default_dtype(torch.float32)


def row(seed: int) -> dict[str, Tensor]:
    ((text, more),) = tiny_models.conditioning(seed)
    return {"c_crossattn": text.double(), "y": more["pooled_output"].double()}


def prompts() -> PromptSet:
    return PromptSet.of(["a", "b", "c"], [row(i) for i in range(3)], row(3))


class Pictures:
    """Five pairs with captions of their own."""

    def __init__(self, channels: int):
        draw = torch.Generator().manual_seed(8)
        self.latents = torch.randn(5, channels, 8, 8, generator=draw, dtype=torch.float64)
        self.cond = PromptSet.of(list("vwxyz"), [row(10 + i) for i in range(5)], row(3)).cond

    def __len__(self) -> int:
        return 5

    def batch(self, rows: Tensor):
        return self.latents[rows], select(self.cond, rows)


def settings_for(kind: Kind, seed: int) -> Settings:
    return Settings(
        kind.guidance,
        steps=1,
        batch=BATCH,
        fake_learning_rate=0.0,  # so that both roles' losses are of the same fake score
        student_learning_rate=1e-5,
        caption_dropout=DROPOUT,
        seed=seed,
        adversarial_weight=LAMBDA,
        discriminator_weight=DISCRIMINATOR,
        adversarial_warm_up=0,
    )


class Draws:
    """The random numbers of the first iteration, those of the real pictures last."""

    def __init__(self, kind: Kind, seed: int):
        draw = generator_for(seed, 0, 0)
        self.shape = (kind.channels, 8, 8)

        def noise() -> Tensor:
            return torch.randn(BATCH, *self.shape, generator=draw)

        def times() -> Tensor:
            if kind.make == "sd3":
                return torch.sigmoid(math.log(2) + 1.6 * torch.randn(BATCH, generator=draw))
            return torch.randint(20, 980, (BATCH,), generator=draw)

        chosen = prompts()
        self.cond = select(chosen.cond, torch.randint(3, (BATCH,), generator=draw))
        self.empty = chosen.unconditional(BATCH)
        self.first = noise()
        self.dropped = torch.rand(BATCH, generator=draw) < DROPOUT
        self.fake_times, self.fake_noise = times(), noise()
        self.student_times, self.student_noise = times(), noise()
        self.real = torch.randint(5, (BATCH,), generator=draw)


@dataclass
class SecondImplementation:
    kind: Kind
    networks: dict[str, nn.Module]
    draws: Draws

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if self.kind.make == "sd3":
            alpha, sigma = 1 - t, t
        else:
            bars = torch.tensor([stable_diffusion_alphas()[int(time)] for time in t])
            alpha, sigma = bars.sqrt(), (1 - bars).sqrt()
        return alpha[:, None, None, None], sigma[:, None, None, None]

    def clean(self, role: str, weights: Weights | None, x_t: Tensor, t: Tensor, cond: dict) -> Tensor:
        predicted = self.kind.call(self.networks[role], x_t, t, cond, weights)
        alpha, sigma = self.levels(t)
        return x_t - sigma * predicted if self.kind.make == "sd3" else (x_t - sigma * predicted) / alpha

    def guided(self, role: str, weights: Weights | None, x_t: Tensor, t: Tensor, cond: dict, scale: float) -> Tensor:
        without, with_words = (self.clean(role, weights, x_t, t, words) for words in (self.draws.empty, cond))
        return (1 - scale) * without + scale * with_words

    def logits(self, weights: Weights | None, x_t: Tensor, t: Tensor, cond: dict) -> Tensor:
        """UNet: what the first block on the way up is given, but for the skip. DiT: the last layer's formula."""
        network, seen = self.networks["fake"], []
        last = network.final_layer if self.kind.make == "sd3" else network.output_blocks[0][0]
        hook = last.register_forward_pre_hook(lambda module, inputs: seen.append((module, inputs)))
        try:
            self.kind.call(network, x_t, t, cond, weights)
        finally:
            hook.remove()
        ((module, (h, c, *_)),) = seen
        if self.kind.make == "sd15":
            middle = network.middle_block[-1].out_channels
            return h[:, :middle].mean(dim=1)
        layer = {name.removeprefix("final_layer."): weight for name, weight in (weights or {}).items()}
        modulation = [layer.get(f"adaLN_modulation.1.{part}") for part in ("weight", "bias")]
        if weights is None:
            modulation = [module.adaLN_modulation[1].weight, module.adaLN_modulation[1].bias]
        shift, scale = nn.functional.linear(nn.functional.silu(c), *modulation).chunk(2, dim=1)
        normed = (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
        return (normed * (1 + scale[:, None]) + shift[:, None]).mean(dim=1)

    def picture(self, weights: Weights | None) -> Tensor:
        """x_g of the only step."""
        t = torch.ones(BATCH) if self.kind.make == "sd3" else torch.full((BATCH,), 625)
        return self.clean("student", weights, self.levels(t)[1] * self.draws.first, t, self.draws.cond)

    def fake_loss(self, weights: Weights, pictures: Pictures) -> Tensor:
        draws = self.draws
        t, noise = draws.fake_times, draws.fake_noise
        alpha, sigma = self.levels(t)
        generated = self.picture(None).detach()
        x_t = alpha * generated + sigma * noise
        words = {
            name: torch.where(draws.dropped.view(-1, *[1] * (values.ndim - 1)), draws.empty[name], values)
            for name, values in draws.cond.items()
        }
        y_fake = self.guided("fake", weights, x_t, t, words, self.kind.scales[0])
        weight = 1 / sigma**2 if self.kind.make == "sd3" else (alpha / sigma) ** 2
        regression = (weight * (y_fake - generated) ** 2).sum() / BATCH
        real, captions = pictures.batch(draws.real)
        said_of_real = self.logits(weights, alpha * real + sigma * noise, t, captions)
        said_of_generated = self.logits(weights, x_t, t, draws.cond)
        bce = nn.BCEWithLogitsLoss()
        judged = bce(said_of_real.clamp(-10, 10), torch.ones_like(said_of_real))
        judged = judged + bce(said_of_generated.clamp(-10, 10), torch.zeros_like(said_of_generated))
        return regression + DISCRIMINATOR * math.prod(draws.shape) * judged / 2

    def student_loss(self, weights: Weights) -> Tensor:
        draws = self.draws
        t = draws.student_times
        alpha, sigma = self.levels(t)
        x_g = self.picture(weights)
        x_t = alpha * x_g + sigma * draws.student_noise
        y_fake = self.guided("fake", None, x_t, t, draws.cond, self.kind.scales[1])
        y_teacher = self.guided("teacher", None, x_t, t, draws.cond, self.kind.scales[2])
        weight = 1 - t if self.kind.make == "sd3" else 1 / (x_g - y_teacher).abs().mean((1, 2, 3)).detach()
        score = ((y_teacher - y_fake) * (y_fake - x_g)).sum((1, 2, 3)) * weight
        logits = self.logits(None, x_t, t, draws.cond)
        bce = nn.BCEWithLogitsLoss(reduction="none")(logits.clamp(-10, 10), torch.ones_like(logits))
        deception = bce.flatten(1).mean(1) * weight * math.prod(draws.shape)
        return (0.5 * score + 0.5 * LAMBDA * deception).sum() / BATCH

    def gradients(self, role: str, loss) -> Weights:
        leaves = {name: w.detach().clone().requires_grad_() for name, w in self.networks[role].named_parameters()}
        found = torch.autograd.grad(loss(leaves), list(leaves.values()), allow_unused=True)
        return {name: found for name, found in zip(leaves, found, strict=True) if found is not None}


def predictors(kind: Kind, networks: dict[str, nn.Module]) -> Predictors:
    from sid_pack.nodes.training.roles import judges

    process = kind.process

    def predictor(network: nn.Module):
        return lambda x_t, t, cond: process.clean(kind.call(network, x_t, t, cond), x_t, t)

    teacher, fake = predictor(networks["teacher"]), predictor(networks["fake"])
    return Predictors(
        lambda x_t, t, cond, uncond: guided(teacher, x_t, t, cond, uncond, kind.scales[2]),
        fake,
        predictor(networks["student"]),
        *judges(networks["fake"], fake),
    )


def test_gradients_of_both_roles_equal_a_second_implementation(kind, networks):
    # Some captions are dropped, but not all.
    seed = next(seed for seed in range(100) if 0 < int(Draws(kind, seed).dropped.sum()) < BATCH)
    draws, pictures = Draws(kind, seed), Pictures(kind.channels)
    second = SecondImplementation(kind, copy.deepcopy(networks), draws)
    expected = {
        "fake": second.gradients("fake", lambda weights: second.fake_loss(weights, pictures)),
        "student": second.gradients("student", second.student_loss),
    }
    run = Run(networks["student"], networks["fake"], settings_for(kind, seed))
    buckets = [Bucket(draws.shape, prompts(), pictures)]
    result = next(distill(run, predictors(kind, networks), buckets, kind.process, torch.device("cpu")))
    assert result.skipped == 0 and 0 < result.discriminator_loss < 10 and 0 < result.adversarial_loss < 10
    for role, gradients in expected.items():
        largest = max(gradient.abs().max() for gradient in gradients.values())
        actual = {n: w.grad for n, w in networks[role].named_parameters() if w.grad is not None}
        assert gradients.keys() <= actual.keys()
        assert all(not actual[name].any() for name in actual.keys() - gradients.keys())
        for name, gradient in gradients.items():
            error = (actual[name] - gradient).abs().max() / torch.maximum(gradient.abs().max(), 1e-5 * largest)
            assert error < 1e-8, f"{role} {name}: {error:.1e}"
    assert all(weight.grad is None for weight in networks["teacher"].parameters())


# The features, by themselves.

FAMILIES = ("sd15", "sdxl", "sd3", "flux")


@pytest.fixture(params=FAMILIES)
def model(request, comfyui):
    with torch.inference_mode():  # as the loaders do
        return getattr(tiny_models, request.param)()


def predicted(model, network_of=None):
    """(predict, x_t, t, cond) of the host's own call."""
    from sid_pack.nodes.host.conditioning import conditioning_tensors
    from sid_pack.nodes.host.model import predictor, process_of

    channels = model.get_model_object("latent_format").latent_channels
    x_t = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(1))
    cond = conditioning_tensors(model, tiny_models.conditioning(0), x_t)
    cond = {name: values.expand(2, *values.shape[1:]).clone() for name, values in cond.items()}
    process = process_of(model)
    t = torch.full((2,), 0.4) if isinstance(process, Flow) else torch.full((2,), 400)
    return predictor(network_of or model.model, process), x_t, t, cond


def test_features_are_what_the_rest_of_the_network_works_on(model):
    """Zero them, and the skip connections or the projection's bias are all that is left; and both ways agree."""
    from sid_pack.nodes.host.features import watched
    from sid_pack.nodes.training.roles import judges

    network = model.model.diffusion_model
    predict, x_t, t, cond = predicted(model)
    with torch.no_grad():
        clean = predict(x_t, t, cond)
        alone, both = judges(network, predict)
        same, logits = both(x_t, t, cond)
        assert torch.equal(same, clean)
        assert torch.equal(alone(x_t, t, cond), logits)
        seen: list[Tensor] = []
        with watched(network, seen.append):
            predict(x_t, t, cond)
        (features,) = seen
        assert torch.equal(pooled(features), logits)
        assert logits.shape[0] == 2 and float(logits.std()) > 1e-6
        assert logits.ndim == (3 if hasattr(network, "middle_block") else 2)  # a map, or a number for each width
        features_used(network, features, predict(x_t, t, cond), x_t)
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()]
    assert not any(hooks)


def features_used(network: nn.Module, features: Tensor, clean: Tensor, x_t: Tensor) -> None:
    """A UNet's map is of the lowest resolution, a token's width that of the layer that makes the patch of it."""
    if hasattr(network, "middle_block"):
        assert features.shape[1] == network.middle_block[-1].out_channels
        lowest = 8 // 2 ** (len(network.channel_mult) - 1)
        assert features.shape[2:] == (lowest, lowest)
        return
    patches = network.final_layer.linear(features)
    assert features.ndim == 3 and patches.shape[1] == 16  # 2x2 of 8x8
    velocity = (x_t - clean) / 0.4
    largest, expected = velocity.abs().max(), patches.abs().max()
    assert float((largest - expected).abs() / expected) < 1e-3


def test_features_and_their_gradients_are_the_same_with_recomputed_activations(model):
    from sid_pack.nodes.host.differentiable import changes_in_place, differentiable
    from sid_pack.nodes.host.weights import own_copy, with_gradients
    from sid_pack.nodes.training.roles import judges

    with torch.inference_mode(), with_gradients():
        copied = own_copy(model, torch.float32)
        network = copied.diffusion_model.requires_grad_(True)
        predict, x_t, t, cond = predicted(model, copied)
        x_t = x_t.clone().requires_grad_()
        in_place = changes_in_place(network)
        found = []
        for recompute in (False, True):
            for judge in judges(network, predict):
                with (
                    differentiable(in_place),
                    checkpointed(network, changes_in_place=in_place) if recompute else nullcontext(),
                ):
                    found.append(gradients_of(judge(x_t, t, cond), network, x_t))
    # Where blocks change tensors in place, sums are in another order.
    tolerance = {"rtol": 1e-4, "atol": 1e-7} if in_place else {"rtol": 0, "atol": 0}
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], **tolerance)
    assert all(value.any() for value in found[0][:2])


def gradients_of(told, network: nn.Module, x_t: Tensor) -> list[Tensor]:
    logits = told[1] if isinstance(told, tuple) else told
    weights = [x_t, *network.parameters()]
    gradients = torch.autograd.grad(logits.square().sum(), weights, allow_unused=True)
    return [logits.detach(), *(g for g in gradients if g is not None)]


def test_the_fake_scores_lora_is_the_discriminator(comfyui):
    """Gradients reach its own adapters before the features, and neither the student's, nor the base."""
    from sid_pack.nodes.host.weights import with_gradients
    from sid_pack.nodes.sampling.guiders import SiDGuider
    from sid_pack.nodes.training.memory import Savings
    from sid_pack.nodes.training.roles import LoRAOptions, lora_roles

    with torch.inference_mode():
        model = tiny_models.sd15()
        guider = SiDGuider(model, Guidance.zero_cfg(), None, 0.0)
        guider.set_conds(tiny_models.conditioning(0), tiny_models.conditioning(1))
        with with_gradients():
            process = VP.stable_diffusion("eps")
            roles = lora_roles(guider, process, LoRAOptions(2, 2), Savings(1, recompute=True, can_offload=False))
            with torch.no_grad():
                for weight in roles.fake.parameters():
                    weight.normal_(std=0.2, generator=torch.Generator().manual_seed(3))
            _, x_t, t, cond = predicted(model)
            with roles.ready():
                clean, logits = roles.predict.fake_with_logits(x_t, t, cond)
                alone = roles.predict.discriminator(x_t, t, cond)
                assert torch.equal(alone, logits)
                assert torch.equal(clean, roles.predict.fake(x_t, t, cond))
                alone.sum().backward()
            reached = {name for name, w in roles.fake.named_parameters() if w.grad is not None and w.grad.any()}
    before, after = ({n for n in dict(roles.fake.named_parameters()) if part in n} for part in ("input", "output"))
    assert before <= reached and not after & reached
    assert all(weight.grad is None for weight in (*roles.student.parameters(), *roles.network.parameters()))


def test_an_architecture_without_known_features_is_refused_by_name(comfyui):
    from sid_pack.nodes.training.trial import require_trainable

    class Unknown(nn.Module):
        pass

    with torch.inference_mode():
        model = tiny_models.sd15()
        bottomless = tiny_models.sd15(transformer_depth_middle=-2)
    require_trainable(model, adversarial=True)
    require_trainable(bottomless)
    with pytest.raises(ValueError, match=r"^Take the images off SiD Distill.*UNetModel"):
        require_trainable(bottomless, adversarial=True)
    model.model.diffusion_model = Unknown()
    with pytest.raises(ValueError, match=r"^Take the images off SiD Distill.*Unknown"):
        require_trainable(model, adversarial=True)
