"""Data-free Score identity Distillation: the training iteration, as a generator of step results.

Few-step SiD (arXiv 2505.12674): the student's k-th output is matched for a k drawn uniformly in each iteration, so one
fake score serves the uniform mixture of all its steps. Three roles start equal: the frozen teacher f_φ, the fake
score f_ψ that follows the student's outputs, and the student G_θ.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .data import Cond, PromptSet, replace_rows, select
from .ema import EMA
from .guidance import Guidance, guided
from .losses import fake_score_loss, student_loss
from .process import VP, Process
from .sampling import few_step, step_times

Predictor = Callable[[Tensor, Tensor, Cond], Tensor]


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run learns.

    steps, t_init: how the student samples. alpha: of the student's loss. score_times: the VP training times, both ends
    included, at which scores are compared. Learning rates of both optimizers, Adam's β2 with β1 = 0 and its ε.
    ema_half_life_images: 0 is off. caption_dropout: share of ∅-prompts while the fake score is trained with κ1 ≠ 0.
    """

    guidance: Guidance
    steps: int = 4
    t_init: float | None = None
    batch: int = 32
    student_learning_rate: float = 1e-5
    fake_learning_rate: float = 1e-5
    learning_rate_decay_iterations: int = 0
    alpha: float = 1.0
    score_times: tuple[int, int] = (20, 979)
    caption_dropout: float = 0.1
    ema_half_life_images: float = 50_000
    gradient_norm: float = 0.0
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected 1 or more")
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}; expected 1 or more")
        low, high = self.score_times
        if not 0 <= low <= high <= 999:
            raise ValueError(f"score_times is {low}…{high}; expected a range within 0…999")

    def as_dict(self) -> dict:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class StepResult:
    """What one iteration did. Losses are per element of a latent; skipped: samples left out for being NaN.

    spread, magnitude: of the student's pictures x_g, the standard deviation within the batch, averaged over elements,
    and the root mean square.
    """

    iteration: int
    images: int
    step: int
    student_loss: float
    fake_loss: float
    skipped: int
    spread: float
    magnitude: float


class Stateful(Protocol):
    """Anything with a flat state dict of tensors and plain values, such as a gradient scaler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


class NotFiniteError(RuntimeError):
    """Every sample of a batch was NaN or infinite: the run has diverged."""


@dataclass
class Run:
    """The state of a distillation: networks, their optimizers, the student's average, and how far it is.

    further: what else belongs to the state, by name. fake_loss: the fake score's loss where it has had its half of the
    iteration under way already, so that a run saved in between does not give it that half twice. torn: weights are
    being changed; a run that was stopped there is not to be saved.
    """

    student: nn.Module
    fake: nn.Module
    settings: Settings
    iteration: int = 0
    images: int = 0
    fake_loss: float | None = None
    torn: bool = False
    further: dict[str, Stateful] = field(default_factory=dict)
    student_optimizer: torch.optim.Optimizer = field(init=False)
    fake_optimizer: torch.optim.Optimizer = field(init=False)
    ema: EMA = field(init=False)

    def __post_init__(self) -> None:
        adam = {"betas": (0.0, self.settings.adam_beta2), "eps": self.settings.adam_epsilon}
        self.student_optimizer = torch.optim.Adam(
            self.student.parameters(), lr=self.settings.student_learning_rate, **adam
        )
        self.fake_optimizer = torch.optim.Adam(self.fake.parameters(), lr=self.settings.fake_learning_rate, **adam)
        self.ema = EMA(self.student.parameters(), self.settings.ema_half_life_images)

    def averaged(self) -> dict[str, Tensor]:
        """The state dict of the averaged student, which is the one to keep."""
        names = [name for name, _ in self.student.named_parameters()]
        return self.student.state_dict() | {
            name: average.clone() for name, average in zip(names, self.ema.average, strict=True)
        }

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within it, the student has its averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for parameter, average in zip(self.student.parameters(), self.ema.average, strict=True):
            kept = parameter.detach().clone()
            parameter.data.copy_(average)
            average.copy_(kept)


@dataclass(frozen=True)
class Predictors:
    """How to call the three roles: predictor(x_t, t, cond) → clean prediction (B, C, …).

    `teacher` already has its guidance κ4 in it; it is called with the prompts' cond and the ∅-prompt's.
    """

    teacher: Callable[[Tensor, Tensor, Cond, Cond], Tensor]
    fake: Predictor
    student: Predictor


def generator_for(seed: int, iteration: int, rank: int | None = None) -> torch.Generator:
    """A CPU generator that any resumed run draws the same from; without a rank, the same on every rank."""
    key = struct.pack("<qqq", seed, iteration, -1 if rank is None else rank)
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


def draw_score_times(process: Process, settings: Settings, batch: int, generator: torch.Generator) -> Tensor:
    """(B,) times to compare scores at: VP uniform over score_times; flow sigmoid(N(ln 2, 1.6)) (SiD-DiT)."""
    if isinstance(process, VP):
        low, high = settings.score_times
        return torch.randint(low, high + 1, (batch,), generator=generator)
    return torch.sigmoid(torch.randn(batch, generator=generator) * 1.6 + torch.tensor(2.0).log())


def distill(
    run: Run,
    predict: Predictors,
    prompts: PromptSet,
    process: Process,
    latent_shape: tuple[int, ...],
    device: torch.device,
    *,
    rank: int = 0,
) -> Iterator[StepResult]:
    """Train `run` for ever, one iteration a `next()`; the caller decides when to look, to save and to stop.

    latent_shape: (C, …) of one latent in the network's own scale. Raises NotFiniteError when no sample of a batch is
    finite. The weights are never left in the middle of an optimizer's step.
    """
    settings = run.settings
    times = step_times(settings.steps, process=process, t_init=settings.t_init)
    elements = torch.Size(latent_shape).numel()
    while True:
        _set_learning_rates(run)
        step = int(torch.randint(settings.steps, (), generator=generator_for(settings.seed, run.iteration)))
        draw = generator_for(settings.seed, run.iteration, rank)

        def noise(batch: int = settings.batch, draw: torch.Generator = draw) -> Tensor:
            return torch.randn(batch, *latent_shape, generator=draw).to(device)

        rows = torch.randint(len(prompts), (settings.batch,), generator=draw)
        cond = {name: values.to(device) for name, values in prompts.batch(rows).items()}
        uncond = {name: values.to(device) for name, values in prompts.unconditional(settings.batch).items()}

        x_t, t = _noisy_input(predict.student, times[: step + 1], cond, process, noise)
        x_g = predict.student(x_t, t, cond)
        finite = _finite_samples(x_g)
        if not finite.any():
            raise NotFiniteError(_diverged(run, "the student's pictures are"))
        if not finite.all():
            # Once more without those samples: their gradient is not finite either, and would reach every weight.
            keep = finite.nonzero()[:, 0]
            cond, uncond = select(cond, keep), select(uncond, keep)
            x_g = predict.student(x_t[keep], t[keep], cond)
        batch = len(x_g)

        def noised(x0: Tensor, draw: torch.Generator = draw, batch: int = batch) -> tuple[Tensor, Tensor]:
            t = draw_score_times(process, settings, batch, draw).to(device)
            return process.diffuse(x0, noise(batch), t), t

        dropped = torch.rand(batch, generator=draw) < settings.caption_dropout
        x_t, t = noised(x_g.detach())
        if run.fake_loss is None:
            captions = replace_rows(cond, dropped, uncond)
            y_fake = guided(predict.fake, x_t, t, captions, uncond, settings.guidance.fake_train)
            loss_fake = fake_score_loss(y_fake, x_g.detach(), process.regression_weight(t))
            _update(run, run.fake_optimizer, loss_fake, run.fake, "the fake score's loss is")
            run.fake_loss, run.torn = float(loss_fake.detach()) / elements, False

        x_t, t = noised(x_g)
        run.fake.requires_grad_(False)
        try:
            y_fake = guided(predict.fake, x_t, t, cond, uncond, settings.guidance.fake_score)
            y_teacher = predict.teacher(x_t, t, cond, uncond)
            usable = _finite_samples(y_fake, y_teacher)
            if not usable.any():
                raise NotFiniteError(_diverged(run, "the student's loss is"))
            if not usable.all():
                # What goes back through a score that gave NaN is NaN as well, in that sample alone.
                x_g.register_hook(lambda gradient, usable=usable: _only(gradient, usable))
            weight = None if isinstance(process, VP) else (1 - t[usable])
            loss_student = student_loss(
                x_g[usable], y_teacher[usable], y_fake[usable], alpha=settings.alpha, weight=weight
            )
            _update(run, run.student_optimizer, loss_student, run.student, "the student's loss is")
        finally:
            run.fake.requires_grad_(True)

        run.iteration += 1
        run.images += settings.batch
        run.ema.update(run.student.parameters(), settings.batch, run.images)
        loss_of_fake, run.fake_loss, run.torn = run.fake_loss, None, False
        pictures = x_g.detach().float()
        yield StepResult(
            run.iteration,
            run.images,
            step + 1,
            float(loss_student.detach()) / elements,
            loss_of_fake,
            settings.batch - int(usable.sum()),
            spread=float(pictures.std(0, correction=0).mean()),
            magnitude=float(pictures.square().mean().sqrt()),
        )


def _finite_samples(*predictions: Tensor) -> Tensor:
    """(B,) bool: whether all of a sample is finite, in all of the predictions (B, C, …)."""
    return torch.stack([y.detach().flatten(1).isfinite().all(1) for y in predictions]).all(0)


def _only(gradient: Tensor, samples: Tensor) -> Tensor:
    """The gradient (B, C, …) with zeros for all but these samples, (B,) bool."""
    kept = torch.zeros_like(gradient)
    kept[samples] = gradient[samples]
    return kept


def _noisy_input(
    student: Predictor, times: Tensor, cond: Cond, process: Process, noise: Callable[[], Tensor]
) -> tuple[Tensor, Tensor]:
    """What the student is given at the last of `times`, and that time as (B,); the steps before it without gradient."""
    first = noise()
    t = times[-1].to(first.device).expand(len(first))
    if len(times) == 1:
        return process.diffuse(torch.zeros_like(first), first, t), t
    with torch.no_grad():
        x_t = few_step(
            lambda x_t, t: student(x_t, t, cond), first, times[:-1], process, next_noise=noise, t_end=times[-1]
        )
    return x_t, t


def _update(run: Run, optimizer: torch.optim.Optimizer, loss: Tensor, network: nn.Module, what: str) -> None:
    """One optimizer step on `network`. The loss is checked first, so a diverged run keeps its last good weights."""
    if not loss.isfinite():
        raise NotFiniteError(_diverged(run, what))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for parameter in network.parameters():
        if parameter.grad is not None:
            torch.nan_to_num_(parameter.grad, nan=0.0, posinf=1e5, neginf=-1e5)
    if run.settings.gradient_norm > 0:
        nn.utils.clip_grad_norm_(network.parameters(), run.settings.gradient_norm)
    run.torn = True
    optimizer.step()


def _set_learning_rates(run: Run) -> None:
    """Constant, or falling by half a cosine to zero over `learning_rate_decay_iterations`."""
    factor = 1.0
    if run.settings.learning_rate_decay_iterations:
        progress = min(1.0, run.iteration / run.settings.learning_rate_decay_iterations)
        factor = 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * progress))))
    for optimizer, rate in (
        (run.student_optimizer, run.settings.student_learning_rate),
        (run.fake_optimizer, run.settings.fake_learning_rate),
    ):
        for group in optimizer.param_groups:
            group["lr"] = rate * factor


def _diverged(run: Run, what: str) -> str:
    return (
        f"iteration {run.iteration + 1}: {what} no longer finite. The last good weights are kept. "
        "Lower the learning rates, or raise the batch size; a guidance scale beyond 5 also does this."
    )
