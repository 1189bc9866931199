"""Data-free Score identity Distillation: the training iteration, as a generator of step results.

Few-step SiD (arXiv 2505.12674): the student's k-th output is matched for a k drawn uniformly in each iteration, so one
fake score serves the uniform mixture of all its steps. Three roles start equal: the frozen teacher f_φ, the fake
score f_ψ that follows the student's outputs, and the student G_θ.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .data import Cond, EncodedPrompts, replace_rows, select
from .ema import EMA
from .guidance import Guidance, guided
from .losses import fake_score_loss, student_loss
from .process import VP, Process
from .sampling import few_step, step_times

# The library's own 65,536 is for losses that are means; these are sums over the elements of a latent. It grows sooner,
# for the student's gradients are a difference of two scores, and small.
LOSS_SCALE = {"init_scale": 256.0, "growth_interval": 100}
ADAM, ADAM_8_BIT = "Adam", "Adam, 8 bits"
OPTIMIZERS = (ADAM, ADAM_8_BIT)
PUBLISHED, BY_ERROR, BY_SNR, BY_ROOT_SNR = "as published", "1/error", "snr", "sqrt(snr)"
WEIGHTINGS = (PUBLISHED, BY_ERROR, BY_SNR, BY_ROOT_SNR)
Predictor = Callable[[Tensor, Tensor, Cond], Tensor]


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run learns.

    steps, t_init: how the student samples. alpha, weighting: of the student's loss (`time_weight`). score_times: the
    VP training times, both ends included, at which scores are compared. Learning rates of both optimizers (see
    `learning_rate_factor`), Adam's β2 with β1 = 0 and its ε. fake_updates: of the fake score for each of the student's
    (SiD: 1; DMD2, arXiv 2405.14867: 5 to 10). ema_half_life_images: 0 is off. caption_dropout: share of ∅-prompts while
    the fake score is trained with κ1 ≠ 0. gradient_norm: to clip to; 0 is off.
    """

    guidance: Guidance
    steps: int = 4
    t_init: float | None = None
    batch: int = 32
    student_learning_rate: float = 1e-5
    fake_learning_rate: float = 1e-5
    learning_rate_decay_iterations: int = 0
    warm_up_iterations: int = 0
    fake_updates: int = 1
    alpha: float = 1.0
    weighting: str = PUBLISHED
    score_times: tuple[int, int] = (20, 979)
    caption_dropout: float = 0.1
    ema_half_life_images: float = 50_000
    gradient_norm: float = 0.0
    optimizer: str = ADAM
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected 1 or more")
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}; expected 1 or more")
        if self.fake_updates < 1:
            raise ValueError(f"fake_updates is {self.fake_updates}; expected 1 or more")
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting is {self.weighting!r}; expected one of {', '.join(WEIGHTINGS)}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}; expected one of {', '.join(OPTIMIZERS)}")
        low, high = self.score_times
        if not 0 <= low <= high <= 999:
            raise ValueError(f"score_times is {low}…{high}; expected a range within 0…999")

    def as_dict(self) -> dict:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class StepResult:
    """What one iteration did.

    images: of all iterations so far. step: which of the student's steps was trained, from 1. Losses are per element of
    a latent. skipped: samples left out for being NaN. spread: the standard deviation across the batch's pictures, mean
    over elements; magnitude: their root mean square, both in the network's own scale.
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

    student, fake: their trained parameters are float32. loss_scaling: for networks that compute in float16, whose
    gradients would else vanish; a step whose scaled gradients overflow is left out, and the scale lowered.
    fake_updated, fake_loss: how many of its updates the fake score has had in the iteration under way, and the last
    loss, so that a run saved in between does not give it these twice. torn: weights are being changed; a run that was
    stopped there is not to be saved. further: what else belongs to the state, by name.
    """

    student: nn.Module
    fake: nn.Module
    settings: Settings
    loss_scaling: bool = False
    iteration: int = 0
    images: int = 0
    fake_updated: int = 0
    fake_loss: float = 0.0
    torn: bool = False
    further: dict[str, Stateful] = field(default_factory=dict)
    student_optimizer: torch.optim.Optimizer = field(init=False)
    fake_optimizer: torch.optim.Optimizer = field(init=False)
    student_scaler: torch.amp.GradScaler = field(init=False)
    fake_scaler: torch.amp.GradScaler = field(init=False)
    ema: EMA = field(init=False)

    def __post_init__(self) -> None:
        self.student_optimizer, self.fake_optimizer = (
            _optimizer(self.settings)(
                network.parameters(),
                lr=rate,
                betas=(0.0, self.settings.adam_beta2),
                eps=self.settings.adam_epsilon,
            )
            for network, rate in (
                (self.student, self.settings.student_learning_rate),
                (self.fake, self.settings.fake_learning_rate),
            )
        )
        device = next(self.student.parameters()).device.type
        self.student_scaler, self.fake_scaler = (
            torch.amp.GradScaler(device, **LOSS_SCALE, enabled=self.loss_scaling) for _ in range(2)
        )
        if self.loss_scaling:
            self.further |= {"student_scaler": self.student_scaler, "fake_scaler": self.fake_scaler}
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


def _optimizer(settings: Settings) -> Callable[..., torch.optim.Optimizer]:
    """Raises ImportError where the 8-bit one's library is not installed."""
    if settings.optimizer == ADAM:
        return torch.optim.Adam
    try:
        from bitsandbytes.optim import Adam8bit
    except ImportError as error:
        raise ImportError(
            f"the optimizer {ADAM_8_BIT!r} takes the package bitsandbytes ({error}). Install it with ComfyUI's Python: "
            f"python -m pip install bitsandbytes. Or choose {ADAM!r}."
        ) from error
    return Adam8bit


@dataclass(frozen=True)
class Bucket:
    """One size of picture: (C, …) of its latents in the network's own scale, and the prompts encoded for it."""

    latent_shape: tuple[int, ...]
    prompts: EncodedPrompts


@dataclass(frozen=True)
class Predictors:
    """How to call the three roles: predictor(x_t, t, cond) → clean prediction (B, C, …).

    `teacher` already has its guidance κ4 in it; it is called with the prompts' cond and the ∅-prompt's.
    """

    teacher: Callable[[Tensor, Tensor, Cond, Cond], Tensor]
    fake: Predictor
    student: Predictor


def generator_for(seed: int, iteration: int, rank: int | None = None, update: int = 0) -> torch.Generator:
    """A CPU generator that any resumed run draws the same from; without a rank, the same on every rank.

    update: counts what an iteration draws anew.
    """
    key = struct.pack("<qqq", seed, iteration, -1 if rank is None else rank) + bytes(update)
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
    prompts: EncodedPrompts,
    process: Process,
    latent_shape: tuple[int, ...],
    device: torch.device,
    *,
    rank: int = 0,
    micro_batch: int | None = None,
    more_sizes: Sequence[Bucket] = (),
) -> Iterator[StepResult]:
    """Train `run` for ever, one iteration a `next()`; the caller decides when to look, to save and to stop.

    latent_shape: (C, …) of one latent in the network's own scale. micro_batch: at most so many samples go through a
    network at once, and their gradients are summed; what is learnt is the same, for less memory and, as the student's
    last step is then computed twice, somewhat more time. more_sizes: an iteration's pictures are all of one size, drawn
    from these and the first alike, the same on every rank. Raises NotFiniteError when no sample of a batch is finite.
    The weights are never left in the middle of an optimizer's step.
    """
    settings = run.settings
    times = step_times(settings.steps, process=process, t_init=settings.t_init)
    buckets = [Bucket(latent_shape, prompts), *more_sizes]
    while True:
        _set_learning_rates(run)
        of_all_ranks = generator_for(settings.seed, run.iteration)
        step = int(torch.randint(settings.steps, (), generator=of_all_ranks))
        bucket = buckets[int(torch.randint(len(buckets), (), generator=of_all_ranks))]
        elements = torch.Size(bucket.latent_shape).numel()
        split = torch.arange(settings.batch).split(micro_batch or settings.batch)
        # One part's graph serves both updates; those of several would be in memory at once.
        reuse = len(split) == 1
        for update in reversed(range(settings.fake_updates)):
            done = update >= settings.fake_updates - run.fake_updated
            if done and update > 0:
                continue
            draw = generator_for(settings.seed, run.iteration, rank, update)
            draws = _draw(run, step, bucket, process, draw)
            parts = [
                _part(draws.select(rows), predict, bucket.prompts, times[: step + 1], process, device) for rows in split
            ]
            parts = [found for part in parts if (found := part.generate(predict, reuse and update == 0))]
            if not parts:
                raise NotFiniteError(_diverged(run, "the student's pictures are"))
            if done:
                continue
            gradients = _Gradients(run, run.fake, run.fake_optimizer, run.fake_scaler, "the fake score's loss is")
            for part in parts:
                gradients.add(_fake_loss(part, predict, process, settings), len(part))
            run.fake_loss = gradients.apply() / elements
            run.fake_updated, run.torn = run.fake_updated + 1, False

        pictures = torch.cat([part.x_g.detach() for part in parts])
        gradients = _Gradients(run, run.student, run.student_optimizer, run.student_scaler, "the student's loss is")
        run.fake.requires_grad_(False)
        try:
            for part in parts:
                if not reuse:
                    part.x_g = predict.student(part.x_t, part.t, part.cond)
                gradients.add(*_student_loss(part, predict, process, settings))
            loss_student = gradients.apply()
        finally:
            run.fake.requires_grad_(True)

        run.iteration += 1
        run.images += settings.batch
        run.ema.update(run.student.parameters(), settings.batch, run.images)
        run.fake_updated, run.torn = 0, False
        yield StepResult(
            run.iteration,
            run.images,
            step + 1,
            loss_student / elements,
            run.fake_loss,
            settings.batch - gradients.samples,
            float(pictures.std(0, correction=0).mean()),
            float(pictures.square().mean().sqrt()),
        )


@dataclass(frozen=True)
class _Draws:
    """All that an iteration leaves to chance, (B, …) each, so that a micro-batch takes its rows of it.

    noises: one for each of the student's steps. dropped: whose caption the fake score is trained without. The times and
    noises at which both scores are looked at: once to train the fake score, once for the student's loss.
    """

    prompts: Tensor
    noises: tuple[Tensor, ...]
    dropped: Tensor
    fake_times: Tensor
    fake_noise: Tensor
    student_times: Tensor
    student_noise: Tensor

    def select(self, rows: Tensor) -> "_Draws":
        values = {name: value for name, value in vars(self).items() if name != "noises"}
        noises = tuple(noise[rows] for noise in self.noises)
        return _Draws(noises=noises, **{name: value[rows] for name, value in values.items()})


def _draw(run: Run, step: int, bucket: Bucket, process: Process, draw: torch.Generator) -> _Draws:
    batch = run.settings.batch

    def noise() -> Tensor:
        return torch.randn(batch, *bucket.latent_shape, generator=draw)

    return _Draws(
        torch.randint(len(bucket.prompts), (batch,), generator=draw),
        tuple(noise() for _ in range(step + 1)),
        torch.rand(batch, generator=draw) < run.settings.caption_dropout,
        draw_score_times(process, run.settings, batch, draw),
        noise(),
        draw_score_times(process, run.settings, batch, draw),
        noise(),
    )


@dataclass
class _Part:
    """A micro-batch: its draws, conditioning, the student's last input x_t at t (B,), and its picture x_g."""

    draws: _Draws
    cond: Cond
    uncond: Cond
    x_t: Tensor
    t: Tensor
    x_g: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x_t)

    def generate(self, predict: Predictors, with_gradient: bool) -> "_Part | None":
        """Those of the samples whose picture is finite, with it; None without any."""
        with torch.set_grad_enabled(with_gradient):
            self.x_g = predict.student(self.x_t, self.t, self.cond)
            finite = _finite_samples(self.x_g)
            if finite.all():
                return self
            if not finite.any():
                return None
            keep = finite.nonzero()[:, 0]
            conds = select(self.cond, keep), select(self.uncond, keep)
            part = _Part(self.draws.select(keep.cpu()), *conds, self.x_t[keep], self.t[keep])
            # Once more without the others: their gradient is not finite either, and would reach every weight.
            part.x_g = predict.student(part.x_t, part.t, part.cond) if with_gradient else self.x_g[keep]
            return part


def _part(
    draws: _Draws, predict: Predictors, prompts: EncodedPrompts, times: Tensor, process: Process, device: torch.device
) -> _Part:
    cond = {name: values.to(device) for name, values in prompts.batch(draws.prompts).items()}
    uncond = {name: values.to(device) for name, values in prompts.unconditional(len(draws.prompts)).items()}
    noises = [noise.to(device) for noise in draws.noises]
    return _Part(draws, cond, uncond, *_noisy_input(predict.student, times, cond, process, noises))


def _fake_loss(part: _Part, predict: Predictors, process: Process, settings: Settings) -> Tensor:
    """The mean over the samples of the fake score's regression onto the student's pictures."""
    x_g, t = part.x_g.detach(), part.draws.fake_times.to(part.x_t.device)
    x_t = process.diffuse(x_g, part.draws.fake_noise.to(x_g.device), t)
    cond = replace_rows(part.cond, part.draws.dropped, part.uncond)
    y_fake = guided(predict.fake, x_t, t, cond, part.uncond, settings.guidance.fake_train)
    return fake_score_loss(y_fake, x_g, process.regression_weight(t))


def _student_loss(part: _Part, predict: Predictors, process: Process, settings: Settings) -> tuple[Tensor, int]:
    """The mean over the samples for which both scores are finite, and how many these are."""
    x_g, t = part.x_g, part.draws.student_times.to(part.x_t.device)
    x_t = process.diffuse(x_g, part.draws.student_noise.to(x_g.device), t)
    y_fake = guided(predict.fake, x_t, t, part.cond, part.uncond, settings.guidance.fake_score)
    y_teacher = predict.teacher(x_t, t, part.cond, part.uncond)
    usable = _finite_samples(y_fake, y_teacher)
    if not usable.all():
        # What goes back through a score that gave NaN is NaN as well, in that sample alone.
        x_g.register_hook(lambda gradient: _only(gradient, usable))
    weight = time_weight(settings.weighting, process, t[usable])
    loss = student_loss(x_g[usable], y_teacher[usable], y_fake[usable], alpha=settings.alpha, weight=weight)
    return loss, int(usable.sum())


class _Gradients:
    """One optimizer step on a network, its gradients gathered over micro-batches.

    A loss is checked before it is used, so a diverged run keeps its last good weights.
    """

    def __init__(
        self,
        run: Run,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        what: str,
    ):
        self.run, self.network, self.optimizer, self.scaler, self.what = run, network, optimizer, scaler, what
        self.loss, self.samples = 0.0, 0
        optimizer.zero_grad(set_to_none=True)

    def add(self, loss: Tensor, samples: int) -> None:
        """Take in the mean loss over so many samples."""
        if samples == 0:
            return
        if not loss.isfinite():
            raise NotFiniteError(_diverged(self.run, self.what))
        self.scaler.scale(loss * (samples / self.run.settings.batch)).backward()
        self.loss += float(loss.detach()) * samples
        self.samples += samples

    def apply(self) -> float:
        """Do the step; → the mean loss over all samples. The run is torn until the caller has noted it down."""
        if self.samples == 0:
            raise NotFiniteError(_diverged(self.run, self.what))
        self.scaler.unscale_(self.optimizer)
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                torch.nan_to_num_(parameter.grad, nan=0.0, posinf=1e5, neginf=-1e5)
                if self.samples < self.run.settings.batch:
                    parameter.grad *= self.run.settings.batch / self.samples
        if self.run.settings.gradient_norm > 0:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.run.settings.gradient_norm)
        self.run.torn = True
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.loss / self.samples


def time_weight(weighting: str, process: Process, t: Tensor) -> Tensor | None:
    """The student's loss weight (B,) at times t (B,); None is 1/error, which `student_loss` finds itself.

    As published: 1/error for VP (SiD-LSG), 1 - t for flow; snr = (α/σ)² and its root are SiD-DiT's (arXiv 2509.25127).
    """
    if weighting == BY_ERROR or (weighting == PUBLISHED and isinstance(process, VP)):
        return None
    if weighting == PUBLISHED:
        return 1 - t
    alpha, sigma = process.coefficients(t)
    return alpha / sigma if weighting == BY_ROOT_SNR else (alpha / sigma) ** 2


def _finite_samples(*predictions: Tensor) -> Tensor:
    """(B,) bool: whether all of a sample is finite, in all of the predictions (B, C, …)."""
    return torch.stack([y.detach().flatten(1).isfinite().all(1) for y in predictions]).all(0)


def _only(gradient: Tensor, samples: Tensor) -> Tensor:
    """The gradient (B, C, …) with zeros for all but these samples, (B,) bool."""
    kept = torch.zeros_like(gradient)
    kept[samples] = gradient[samples]
    return kept


def _noisy_input(
    student: Predictor, times: Tensor, cond: Cond, process: Process, noises: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """What the student is given at the last of `times`, and that time as (B,); the steps before it without gradient."""
    first, *others = noises
    t = times[-1].to(first.device).expand(len(first))
    if not others:
        return process.diffuse(torch.zeros_like(first), first, t), t
    following = iter(others)
    with torch.no_grad():
        x_t = few_step(
            lambda x_t, t: student(x_t, t, cond),
            first,
            times[:-1],
            process,
            next_noise=lambda: next(following),
            t_end=times[-1],
        )
    return x_t, t


def learning_rate_factor(settings: Settings, iteration: int) -> float:
    """Of both learning rates: linearly up over the warm-up; then constant, or half a cosine down to zero at the end of
    `learning_rate_decay_iterations`, which the warm-up is part of."""
    factor = min(1.0, (iteration + 1) / (settings.warm_up_iterations + 1))
    if settings.learning_rate_decay_iterations:
        progress = min(1.0, iteration / settings.learning_rate_decay_iterations)
        factor *= 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * progress))))
    return factor


def _set_learning_rates(run: Run) -> None:
    factor = learning_rate_factor(run.settings, run.iteration)
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
