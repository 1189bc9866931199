"""A distillation's state: what is trained, by which optimizers, its average, and how far it is."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..method.ema import EMA
from .batch import Part
from .ranks import ALONE, Backward, Ranks
from .settings import ADAM, ADAM_8_BIT, Settings, learning_rate_factor
from .shares import Share

# The library's own 65,536 is for losses that are means; these are sums over the elements of a latent. It grows sooner,
# for the student's gradients are a difference of two scores, and small.
LOSS_SCALE = {"init_scale": 256.0, "growth_interval": 100}


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
    fake_updated, fake_loss, discriminator_loss: how many of its updates the fake score has had in the iteration under
    way, and the last losses, so that a run saved in between does not give it these twice. torn: weights are being
    changed; a run that was stopped there is not to be saved. further: what else belongs to the state, by name. ranks:
    the processes that train it together; the settings' batch is each one's own.
    """

    student: nn.Module
    fake: nn.Module
    settings: Settings
    loss_scaling: bool = False
    iteration: int = 0
    images: int = 0
    fake_updated: int = 0
    fake_loss: float = 0.0
    discriminator_loss: float | None = None
    torn: bool = False
    further: dict[str, Stateful] = field(default_factory=dict)
    ranks: Ranks = ALONE
    student_optimizer: torch.optim.Optimizer = field(init=False)
    fake_optimizer: torch.optim.Optimizer = field(init=False)
    student_scaler: torch.amp.GradScaler = field(init=False)
    fake_scaler: torch.amp.GradScaler = field(init=False)
    ema: EMA = field(init=False)
    student_backward: Backward = field(init=False)
    fake_backward: Backward = field(init=False)

    def __post_init__(self) -> None:
        self.student_backward, self.fake_backward = (Backward(self.ranks, role) for role in (self.student, self.fake))
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

    def student_update(self, at_once: bool = False) -> "Gradients":
        """The student's next; at_once: see `Backward`."""
        loss = "the student's loss is"
        return Gradients(
            self, self.student, self.student_optimizer, self.student_scaler, self.student_backward, loss, at_once
        )

    def fake_update(self, at_once: bool = False) -> "Gradients":
        loss = "the fake score's loss is"
        return Gradients(self, self.fake, self.fake_optimizer, self.fake_scaler, self.fake_backward, loss, at_once)

    @property
    def batch(self) -> int:
        """Pictures of an iteration, those of all ranks."""
        return self.settings.batch * self.ranks.size

    def averaged(self) -> dict[str, Tensor]:
        """The state dict of the averaged student, which is the one to keep; in parts where the networks are."""
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
            "Install the package bitsandbytes with ComfyUI's Python (python -m pip install bitsandbytes), or set "
            f"optimizer to {ADAM!r}: {ADAM_8_BIT!r} takes it ({error})."
        ) from error
    return Adam8bit


class Gradients:
    """One optimizer step on a network, its gradients gathered over micro-batches, and averaged over the run's ranks.

    A loss is checked before it is used, so a diverged run keeps its last good weights. backward: does
    that (see there for at_once).
    """

    def __init__(
        self,
        run: Run,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        backward: Backward,
        what: str,
        at_once: bool,
    ):
        self.run, self.network, self.optimizer, self.scaler = run, network, optimizer, scaler
        self.backward, self.what, self.at_once = backward, what, at_once
        self.loss, self.samples, self.adversarial = 0.0, 0, None
        optimizer.zero_grad(set_to_none=True)

    def gather(self, parts: Sequence[Part], share_of: Callable[[Part], Share]) -> None:
        """Take in what each micro-batch adds; after it, numbers and gradients are those of all ranks."""
        for part in parts[:-1]:
            loss = self._taken(share_of(part))
            if self.run.ranks.in_step:
                self.run.ranks.agree()  # before the others begin a pass that this one would not come to
            self.backward.alone(loss)
        loss = self._taken(share_of(parts[-1])) if parts else None
        judged = self.adversarial is not None
        told = self.run.ranks.agree(self.loss, self.samples, self.adversarial or 0.0, judged)
        self.loss, self.samples = told.sums[0], round(told.sums[1])
        self.adversarial = told.sums[2] if told.sums[3] else None
        self.backward.together(loss, self.at_once)

    def _taken(self, share: Share) -> Tensor | None:
        """Its loss, to go back from; None without a sample, unless the ranks are in step."""
        if share.samples == 0 and not self.run.ranks.in_step:
            return None
        told = [share.loss, share.score, *([] if share.adversarial is None else [share.adversarial])]
        # In one go: each look waits for the GPU.
        loss, score, *adversarial = torch.stack([each.detach() for each in told]).tolist()
        if not math.isfinite(loss):
            raise NotFiniteError(diverged(self.run, self.what))
        self.loss += score * share.samples
        self.samples += share.samples
        if adversarial:
            self.adversarial = (self.adversarial or 0.0) + adversarial[0] * share.samples
        return self.scaler.scale(share.loss * (share.samples / self.run.settings.batch))

    def told(self) -> float | None:
        """The mean of the shares' adversarial losses; None where they have none."""
        return None if self.adversarial is None else self.adversarial / self.samples

    def apply(self) -> float:
        """Do the step; → the mean of SiD's own loss. The run is torn until the caller has noted it down."""
        if self.samples == 0:
            raise NotFiniteError(diverged(self.run, self.what))
        self.scaler.unscale_(self.optimizer)
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                torch.nan_to_num_(parameter.grad, nan=0.0, posinf=1e5, neginf=-1e5)
                if self.samples < self.run.batch:
                    parameter.grad *= self.run.batch / self.samples
        if self.run.settings.gradient_norm > 0:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.run.settings.gradient_norm)
        self.run.torn = True
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.loss / self.samples


def set_learning_rates(run: Run) -> None:
    factor = learning_rate_factor(run.settings, run.iteration)
    for optimizer, rate in (
        (run.student_optimizer, run.settings.student_learning_rate),
        (run.fake_optimizer, run.settings.fake_learning_rate),
    ):
        for group in optimizer.param_groups:
            group["lr"] = rate * factor


def diverged(run: Run, what: str) -> str:
    return (
        "Lower the learning rates, or raise batch_size, or lower a guidance_scale that is beyond 5: in iteration "
        f"{run.iteration + 1} {what} no longer finite. The last good weights are kept."
    )
