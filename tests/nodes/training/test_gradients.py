"""One iteration's gradients on ComfyUI's UNet, against the paper's formulas in ε and x_t, and against differences.

The toys of tests/sid_core/test_distill.py have no attention, no norms and no skip connections; here, a true SD1.5 UNet
of small size has its weights handed in as arguments, and nothing of sid_core computes anything but the random numbers.
"""

import copy
from dataclasses import dataclass, field
from functools import cached_property

import pytest
import tiny_models
import torch
from oracles import relative_error, stable_diffusion_alphas
from torch import Tensor, nn
from torch.func import functional_call

from sid_pack.sid_core.data.conditioning import PromptSet
from sid_pack.sid_core.method.guidance import Guidance, guided
from sid_pack.sid_core.method.process import VP
from sid_pack.sid_core.training.distill import Bucket, Predictors, distill, generator_for
from sid_pack.sid_core.training.run import Run
from sid_pack.sid_core.training.settings import Settings

SHAPE = (4, 8, 8)
BATCH = 3
SEED = 1  # draws the second of two steps, and drops some but not all captions
DROPOUT = 0.4
FAKE_LEARNING_RATE = 1e-3
STRATEGIES = {"lsg": Guidance.lsg(1.5), "zero_cfg": Guidance.zero_cfg()}
SCALES = {"lsg": (1.5, 1.5, 1.5), "zero_cfg": (0.0, 0.0, 1.0)}  # κ1, κ2 = κ3, κ4 of the paper's table
Weights = dict[str, Tensor]


@pytest.fixture
def model(comfyui):
    return tiny_models.sd15()


@pytest.fixture
def in_float64(model):
    """Random numbers and everything else without a dtype of its own; the model has been made before."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def three_networks(model) -> dict[str, nn.Module]:
    """Teacher, fake score and student, in float64, and apart: when they are equal there is nothing to learn."""
    networks = {}
    for seed, role in enumerate(("teacher", "fake", "student")):
        networks[role] = copy.deepcopy(model.model.diffusion_model).double().requires_grad_(True)
        networks[role].dtype = torch.float64
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in networks[role].parameters():
                weight += 0.02 * torch.randn(weight.shape, generator=generator)
    networks["teacher"].requires_grad_(False)
    return networks


def prompts() -> PromptSet:
    rows = [{"c_crossattn": tiny_models.conditioning(seed)[0][0].double()} for seed in range(4)]
    return PromptSet.of(["a", "b", "c"], rows[:3], rows[3])


def settings_for(strategy: str) -> Settings:
    return Settings(
        STRATEGIES[strategy],
        steps=2,
        batch=BATCH,
        fake_learning_rate=FAKE_LEARNING_RATE,
        caption_dropout=DROPOUT,
        seed=SEED,
    )


class Draws:
    """The random numbers of the first iteration, in the order in which a run promises to draw them."""

    def __init__(self) -> None:
        assert int(torch.randint(2, (), generator=generator_for(SEED, 0))) == 1
        draw = generator_for(SEED, 0, 0)

        def noise() -> Tensor:
            return torch.randn(BATCH, *SHAPE, generator=draw)

        chosen = prompts()
        self.words = chosen.cond["c_crossattn"][torch.randint(3, (BATCH,), generator=draw)]
        self.empty = chosen.uncond["c_crossattn"]
        self.first, self.second = noise(), noise()
        self.dropped = torch.rand(BATCH, generator=draw) < DROPOUT
        assert 0 < int(self.dropped.sum()) < BATCH
        self.fake_times, self.fake_noise = torch.randint(20, 980, (BATCH,), generator=draw), noise()
        self.student_times, self.student_noise = torch.randint(20, 980, (BATCH,), generator=draw), noise()


@dataclass
class SecondImplementation:
    """SiD's two losses of the first iteration, as functions of the weights of one network."""

    network: nn.Module
    weights: dict[str, Weights]
    scales: tuple[float, float, float]
    draws: Draws = field(default_factory=Draws)

    def noise_in(self, weights: Weights, x_t: Tensor, t: Tensor, words: Tensor, scale: float) -> Tensor:
        """ε̂ with guidance: always of a doubled batch, the empty prompt first."""
        both = torch.cat([self.draws.empty.expand_as(words), words])
        given = {"context": both, "transformer_options": {}}
        predicted = functional_call(self.network, weights, (torch.cat([x_t, x_t]), torch.cat([t, t])), given)
        without, with_words = predicted.chunk(2)
        return (1 - scale) * without + scale * with_words

    def picture(self, weights: Weights) -> Tensor:
        """x_g after two steps, t = 625 and 312; where the second begins does not depend on `weights`."""
        return self.step(weights, self.second_input, 312)

    def step(self, weights: Weights, x_t: Tensor, t: int) -> Tensor:
        signal, noise = levels(torch.tensor([t]))
        predicted = self.noise_in(weights, x_t, torch.full((BATCH,), t), self.draws.words, 1.0)
        return (x_t - noise * predicted) / signal

    @cached_property
    def second_input(self) -> Tensor:
        with torch.no_grad():
            first = self.step(self.weights["student"], levels(torch.tensor([625]))[1] * self.draws.first, 625)
        signal, noise = levels(torch.tensor([312]))
        return signal * first + noise * self.draws.second

    def fake_loss(self, weights: Weights) -> Tensor:
        """Σ (ε̂_ψ - ε)², the mean of the batch."""
        draws = self.draws
        signal, noise = levels(draws.fake_times)
        x_t = signal * self.picture(self.weights["student"]).detach() + noise * draws.fake_noise
        words = torch.where(draws.dropped[:, None, None], draws.empty, draws.words)
        predicted = self.noise_in(weights, x_t, draws.fake_times, words, self.scales[0])
        return (predicted - draws.fake_noise).square().sum() / BATCH

    def student_loss(self, weights: Weights, fake: Weights, mean_distance: Tensor | None = None) -> Tensor:
        """(y_φ - y_ψ)(y_ψ - x_g) / mean|x_g - y_φ|, in terms of r = x_t - α x_g = σ ε and of the σ ε̂ of both."""
        draws = self.draws
        signal, noise = levels(draws.student_times)
        x_t = signal * self.picture(weights) + noise * draws.student_noise
        by_fake = noise * self.noise_in(fake, x_t, draws.student_times, draws.words, self.scales[1])
        by_teacher = noise * self.noise_in(
            self.weights["teacher"], x_t, draws.student_times, draws.words, self.scales[2]
        )
        added = noise * draws.student_noise
        if mean_distance is None:
            mean_distance = ((added - by_teacher) / signal).abs().mean((1, 2, 3), keepdim=True).detach()
            self.mean_distance = mean_distance
        product = (by_fake - by_teacher) * (added - by_fake) / signal**2
        return (product / mean_distance).sum() / BATCH


def levels(t: Tensor) -> tuple[Tensor, Tensor]:
    """α_t and σ_t for latents."""
    bars = torch.tensor([stable_diffusion_alphas()[int(time)] for time in t])[:, None, None, None]
    return bars.sqrt(), (1 - bars).sqrt()


def expected_gradients(second: SecondImplementation) -> dict[str, Weights]:
    """Of both roles; the student's with the fake score as Adam's first step leaves it."""

    def gradients(loss, weights: Weights) -> Weights:
        leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
        return dict(zip(leaves, torch.autograd.grad(loss(leaves), list(leaves.values())), strict=True))

    fake = gradients(second.fake_loss, second.weights["fake"])
    followed = after_adam(second.weights["fake"], fake)
    student = gradients(lambda weights: second.student_loss(weights, followed), second.weights["student"])
    return {"fake": fake, "student": student}


def after_adam(weights: Weights, gradients: Weights) -> Weights:
    """Adam's first step with β1 = 0: every weight moves by g / (|g| + 1e-8) learning rates."""
    return {
        name: weight - FAKE_LEARNING_RATE * gradients[name] / (gradients[name].abs() + 1e-8)
        for name, weight in weights.items()
    }


def second_implementation(networks: dict[str, nn.Module], strategy: str) -> SecondImplementation:
    """On copies, for the run is going to change its networks."""
    weights = {
        role: {name: weight.detach().clone() for name, weight in network.named_parameters()}
        for role, network in networks.items()
    }
    return SecondImplementation(copy.deepcopy(networks["teacher"]), weights, SCALES[strategy])


def gradients_of_distill(student: nn.Module, fake: nn.Module, predict: Predictors, strategy: str) -> dict[str, Weights]:
    """What the first iteration of `distill` leaves in the networks' weights."""
    run = Run(student, fake, settings_for(strategy))
    result = next(distill(run, predict, [Bucket(SHAPE, prompts())], VP.stable_diffusion("eps"), torch.device("cpu")))
    assert (result.step, result.skipped) == (2, 0)
    return {
        role: {name: weight.grad for name, weight in network.named_parameters()}
        for role, network in (("fake", fake), ("student", student))
    }


def bare_predictors(networks: dict[str, nn.Module], strategy: str) -> Predictors:
    """The networks themselves in float64, with the method's own formulas around them."""
    process = VP.stable_diffusion("eps")

    def predictor(network: nn.Module):
        return lambda x_t, t, cond: process.clean(network(x_t, t, context=cond["c_crossattn"]), x_t, t)

    teacher, scale = predictor(networks["teacher"]), STRATEGIES[strategy].teacher
    return Predictors(
        lambda x_t, t, cond, uncond: guided(teacher, x_t, t, cond, uncond, scale),
        predictor(networks["fake"]),
        predictor(networks["student"]),
    )


def assert_agree(actual: Weights, expected: Weights, tolerance: float) -> None:
    """Tensor by tensor, relative to each one's largest gradient, where it is not lost in the rounding of all."""
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = torch.maximum(gradient.abs().max(), 1e-5 * largest)
        error = (actual[name].double() - gradient).abs().max() / scale
        assert error < tolerance, f"{name}: {error:.1e}"


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_of_both_roles_equal_a_second_implementation(model, strategy):
    networks = three_networks(model)
    expected = expected_gradients(second_implementation(networks, strategy))
    predict = bare_predictors(networks, strategy)
    actual = gradients_of_distill(networks["student"], networks["fake"], predict, strategy)
    for role in ("fake", "student"):
        assert_agree(actual[role], expected[role], 1e-9)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_of_both_roles_equal_differences_of_the_losses(model, strategy):
    """Along directions in which all weights change, without any automatic differentiation on the other side."""
    networks = three_networks(model)
    second = second_implementation(networks, strategy)
    predict = bare_predictors(networks, strategy)
    actual = gradients_of_distill(networks["student"], networks["fake"], predict, strategy)
    followed = after_adam(second.weights["fake"], actual["fake"])
    with torch.no_grad():
        second.student_loss(second.weights["student"], followed)
        fixed = second.mean_distance
        losses = {
            "fake": second.fake_loss,
            "student": lambda weights: second.student_loss(weights, followed, fixed),
        }
        for role, loss in losses.items():
            for seed in range(2):
                generator = torch.Generator().manual_seed(seed)
                direction = {
                    name: torch.randn(weight.shape, generator=generator)
                    for name, weight in second.weights[role].items()
                }
                slope = sum(float((actual[role][name] * step).sum()) for name, step in direction.items())
                assert slope == pytest.approx(difference(loss, second.weights[role], direction), rel=1e-7)


def difference(loss, weights: Weights, direction: Weights, step: float = 1e-5) -> float:
    """The slope of `loss` along `direction`, by central differences of two widths, which cancels the third order."""

    def moved(by: float) -> float:
        return float(loss({name: weight + by * direction[name] for name, weight in weights.items()}))

    narrow, wide = ((moved(h) - moved(-h)) / (2 * h) for h in (step, 2 * step))
    return (4 * narrow - wide) / 3


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_through_the_host_are_the_same_in_float32(model, strategy):
    """As SiDDistill calls the networks: ComfyUI scales the input, looks the time up and makes the clean image."""
    from sid_pack.nodes.host.model import predictor, process_of
    from sid_pack.nodes.host.weights import own_copy

    networks = three_networks(model)
    expected = expected_gradients(second_implementation(networks, strategy))
    process = process_of(model)
    hosts = {role: own_copy(model, torch.float32) for role in networks}
    for role, host in hosts.items():
        host.diffusion_model.load_state_dict(networks[role].state_dict())
        host.diffusion_model.requires_grad_(role != "teacher")
    predictors = {role: predictor(host, process) for role, host in hosts.items()}
    scale = STRATEGIES[strategy].teacher
    predict = Predictors(
        lambda x_t, t, cond, uncond: guided(predictors["teacher"], x_t, t, cond, uncond, scale),
        predictors["fake"],
        predictors["student"],
    )
    student, fake = hosts["student"].diffusion_model, hosts["fake"].diffusion_model
    actual = gradients_of_distill(student, fake, predict, strategy)
    for role in ("fake", "student"):
        together = [
            torch.cat([g[role][name].double().flatten() for name in expected[role]]) for g in (actual, expected)
        ]
        assert relative_error(*together) < 1e-3
