"""What the method is tested against: the parity vectors, and networks small enough to know their answers."""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sid_pack.sid_core.data.conditioning import Cond, PromptSet
from sid_pack.sid_core.method.guidance import guided
from sid_pack.sid_core.method.process import Process
from sid_pack.sid_core.training.distill import Bucket, Predictors
from sid_pack.sid_core.training.run import Run
from sid_pack.sid_core.training.settings import Settings

PARITY = Path(__file__).parent / "data" / "parity"


@cache
def parity(name: str) -> tuple[list[dict], dict[str, Tensor]]:
    """The entries of a parity file and its tensors, see data/parity/README.md."""
    return json.loads((PARITY / f"{name}.json").read_text()), load_file(PARITY / f"{name}.safetensors")


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest value; NaN and other shapes are infinitely wrong."""
    if actual.shape != expected.shape:
        return math.inf
    error = (actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    return math.inf if error.isnan() else float(error)


@cache
def stable_diffusion_alphas() -> tuple[float, ...]:
    """ᾱ_t for t = 0 … 999 in plain Python floats."""
    first, last = math.sqrt(0.00085), math.sqrt(0.012)
    alphas, product = [], 1.0
    for t in range(1000):
        product *= 1 - (first + (last - first) * t / 999) ** 2
        alphas.append(product)
    return tuple(alphas)


def progress(name: str, sigma: float) -> float:
    """p, 0 at pure noise and 1 at the image, of a tiny model: "flux", whose shift is 1.15, or one of the SD models."""
    if name == "flux":
        return 1 - sigma / (sigma + math.exp(1.15) * (1 - sigma))
    table = [math.sqrt((1 - alpha) / alpha) for alpha in stable_diffusion_alphas()]
    return 1 - min(range(1000), key=lambda t: abs(table[t] - sigma)) / 999


def suppressed(tokens: Tensor, original: Tensor, k: int, beta: float) -> list[float]:
    """The α of each singular value behind the k-th, after checking that tokens (1, N, D) differ by nothing else."""
    u, values, vt = torch.linalg.svd(original.double(), full_matrices=False)
    gains = torch.einsum("bnr,bnd,brd->br", u, tokens.double(), vt) / values
    rebuilt = u @ (gains * values)[..., None].mul(vt)
    assert relative_error(tokens.double(), rebuilt) <= 1e-5
    torch.testing.assert_close(gains[:, :k], torch.ones_like(gains[:, :k]), rtol=1e-5, atol=0)
    return (-(gains[0, k:] / beta).log() / values[0, k:]).tolist()


class ToyNetwork(nn.Module):
    """A nonlinear network of a few weights: tanh(x W + c U + t b) V, per element of a (B, C, 1, 1) latent."""

    def __init__(self, channels: int = 2, words: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        shapes = {"w": (channels, 5), "u": (words, 5), "b": (5,), "v": (5, channels)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(0.5 * torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)))

    def forward(self, x: Tensor, t: Tensor, word: Tensor) -> Tensor:
        """x: (B, C, 1, 1), t: (B,) of about 0…1, word: (B, words) → shaped as x."""
        hidden = torch.tanh(x.flatten(1) @ self.w + word @ self.u + t[:, None].to(x.dtype) * self.b)
        return (hidden @ self.v).view_as(x)


def toy_prompts(words: int = 3, dtype: torch.dtype = torch.float32) -> PromptSet:
    """One-hot prompts, and a ∅-prompt of zeros."""
    rows = [{"word": row[None]} for row in torch.eye(words, dtype=dtype)]
    return PromptSet.of([f"prompt {i}" for i in range(words)], rows, {"word": torch.zeros(1, words, dtype=dtype)})


def toy_predictor(network: nn.Module, process: Process, time_scale: float = 1e-3):
    """predict(x_t, t, cond) → clean prediction, of a network that returns what `process` says it does."""

    def predict(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return process.clean(network(x_t, t * time_scale, cond["word"]), x_t, t)

    return predict


class ToyDistillation:
    """Three toy networks, a run and its predictors; `Settings` get small defaults that a test can replace."""

    def __init__(self, process: Process, settings: Settings, *, time_scale: float = 1e-3, dtype=torch.float32):
        self.process = process
        self.prompts = toy_prompts(dtype=dtype)
        self.buckets = [Bucket((2, 1, 1), self.prompts)]
        self.teacher = ToyNetwork(seed=1, dtype=dtype).requires_grad_(False)
        self.run = Run(ToyNetwork(seed=2, dtype=dtype), ToyNetwork(seed=3, dtype=dtype), settings)
        teacher = toy_predictor(self.teacher, process, time_scale)
        scale = settings.guidance.teacher
        self.predict = Predictors(
            teacher=lambda x_t, t, cond, uncond: guided(teacher, x_t, t, cond, uncond, scale),
            fake=toy_predictor(self.run.fake, process, time_scale),
            student=toy_predictor(self.run.student, process, time_scale),
        )

    def weights(self) -> list[Tensor]:
        """Copies of the student's and the fake score's weights."""
        return [p.detach().clone() for network in (self.run.student, self.run.fake) for p in network.parameters()]

    def iterations(self):
        """The generator that trains the run."""
        from sid_pack.sid_core.training.distill import distill

        return distill(self.run, self.predict, self.buckets, self.process, torch.device("cpu"))

    def train(self, iterations: int) -> list:
        """Results of that many iterations."""
        results = self.iterations()
        return [next(results) for _ in range(iterations)]


def small(settings: Settings, **changes) -> Settings:
    """`settings` with a batch and learning rates for toys."""
    return replace(settings, **({"batch": 8, "student_learning_rate": 1e-2, "fake_learning_rate": 1e-2} | changes))


class Watch:
    """Wraps a run's predictors and notes each call as (role, whether gradients reach its weights, prompts' rows)."""

    def __init__(self, toy: ToyDistillation):
        self.calls: list[tuple[str, bool, Tensor]] = []
        self.student_outputs: list[tuple[Tensor, Tensor]] = []
        inner = toy.predict

        def fake(x_t, t, cond):
            self.calls.append(("fake", next(toy.run.fake.parameters()).requires_grad, cond["word"]))
            return inner.fake(x_t, t, cond)

        def one_teacher(x_t, t, cond):
            self.calls.append(("teacher", False, cond["word"]))
            return inner.teacher(x_t, t, cond, cond)

        def student(x_t, t, cond):
            clean = inner.student(x_t, t, cond)
            self.calls.append(("student", clean.requires_grad, cond["word"]))
            self.student_outputs.append((x_t, clean))
            return clean

        scale = toy.run.settings.guidance.teacher
        toy.predict = replace(
            inner,
            teacher=lambda x_t, t, cond, uncond: guided(one_teacher, x_t, t, cond, uncond, scale),
            fake=fake,
            student=student,
            at_once=lambda: False,
        )

    def count(self, role: str, trained: bool) -> int:
        return sum(call[:2] == (role, trained) for call in self.calls)


def break_prompt(toy: ToyDistillation, word: int, value: float = math.nan, everywhere: bool = False) -> None:
    """The student's pictures for one prompt (or for all) come out as `value`."""
    student = toy.predict.student

    def broken(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        clean = student(x_t, t, cond)
        bad = torch.ones(len(clean), dtype=torch.bool) if everywhere else cond["word"][:, word] == 1
        return torch.where(bad[:, None, None, None], torch.full_like(clean, value), clean)

    toy.predict = replace(toy.predict, student=broken)
