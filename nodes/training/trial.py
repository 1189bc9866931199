"""What a run needs until its very end, tried on one small picture before anything takes long.

Prompts are encoded and networks trained for hours, and a model whose backward pass fails, a layer that has no name in
LoRA files or a VAE of another model would else be found out after that. So each of these things is done once, by the
same code that does it later on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sid_core.data.conditioning import Cond
from ...sid_core.files.student import StudentInfo
from ...sid_core.method.process import VP, Flow
from ...sid_core.method.sampling import step_times
from ...sid_core.training.run import Run
from ...sid_core.training.settings import Settings
from ..host import say
from ..host.conditioning import conditioning_tensors
from ..host.features import require_features
from ..sampling.attached import as_student, with_lora
from ..sampling.guiders import SiDGuider
from ..sampling.loras import lora_tensors
from .memory import Savings, is_out_of_memory, release
from .roles import LoRAOptions, Roles, lora_roles

SMALL = 16  # cells of a side: a gradient fails in a small picture as it does in a large one
EVERY_LAYER = LoRAOptions(1, 1, "all linear and convolution layers")


def require_trainable(model: ModelPatcher, adversarial: bool = False) -> None:
    """Raise ValueError for families that are known not to give right gradients, by the blocks that they are made of.

    adversarial: whether its features are to be a discriminator's as well.
    """
    if adversarial:
        require_features(model)


def try_out(
    guider: SiDGuider,
    teacher: ModelPatcher,
    process: VP | Flow,
    lora: LoRAOptions | None,
    shapes: Sequence[tuple[int, ...]],
    settings: Settings,
    info: StudentInfo,
    adversarial: bool = False,
) -> None:
    """A picture of each size from the student, an iteration's way back to it, and what is handed on at a run's end.

    teacher: the MODEL that the student goes on. lora: None is for the whole network, which is tried on the MODEL's own,
    with its weights open to gradients. shapes: (C, …) of the latents. Call it inside `with_gradients()`. Raises
    ValueError, and ImportError for an optimizer that is not installed. What there is too little memory for is left to
    the run, which knows how to use less.
    """
    model = guider.model_patcher
    first = step_times(settings.steps, process=process, t_init=settings.t_init)[:1]
    ranks = replace(lora, student_rank=1, fake_rank=1) if lora else EVERY_LAYER
    roles = lora_roles(guider, process, ranks, Savings(1, recompute=False, can_offload=False))
    Run(roles.student, roles.fake, settings)
    _require_student(model, teacher, roles, lora, info)
    small = tuple(min(side, SMALL) for side in shapes[0][1:])
    trials = [(_draw, shape) for shape in shapes]
    learn = _learn if lora else _learn_with_all_weights
    trials.append((partial(learn, adversarial=adversarial), (shapes[0][0], *small)))
    for trial, shape in trials:
        fits = False
        try:
            with roles.ready():
                trial(model, roles, process, _Sample.of(guider, first, shape))
            fits = True
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if not fits:
            release()  # here, where the exception no longer holds on to the tensors of its frames


def _require_student(
    model: ModelPatcher, teacher: ModelPatcher, roles: Roles, lora: LoRAOptions | None, info: StudentInfo
) -> None:
    """What the run is to hand on at its end, of the weights that it begins with."""
    if lora:
        with_lora(teacher, lora_tensors(model, roles.student), info)
    else:
        as_student(teacher, model.model.diffusion_model.state_dict(), info)


@dataclass(frozen=True)
class _Sample:
    """One noisy latent (1, C, …) at its time (1,), and the ∅-prompt, which is as good as any other here."""

    x_t: Tensor
    t: Tensor
    cond: Cond

    @classmethod
    def of(cls, guider: SiDGuider, t: Tensor, shape: tuple[int, ...]) -> "_Sample":
        device = guider.model_patcher.load_device
        cond = conditioning_tensors(guider.model_patcher, guider.empty_prompt, torch.zeros(1, *shape))
        x_t = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(device)
        dtype = torch.float32 if t.is_floating_point() else t.dtype  # a flow's float64 is more than some devices have
        return cls(x_t, t.to(device, dtype), {name: values.to(device) for name, values in cond.items()})


def _draw(model: ModelPatcher, roles: Roles, process: VP | Flow, sample: _Sample) -> None:
    size = "x".join(map(str, sample.x_t.shape[1:]))
    advice = (
        "Connect the text encoder that belongs to this model, and a latent of a size that it can draw: one picture of "
        f"{size} latent numbers failed"
    )
    with _refused(lambda reason: f"{advice} ({reason})."), torch.no_grad():
        roles.predict.student(sample.x_t, sample.t, sample.cond)


def _learn(model: ModelPatcher, roles: Roles, process: VP | Flow, sample: _Sample, adversarial: bool) -> None:
    """From the student through both scores and back: what an iteration differentiates."""
    weights = [weight for weight in (*roles.student.parameters(), *roles.network.parameters()) if weight.requires_grad]
    with _refused(lambda reason: _another_model(model, f"its backward pass fails: {reason}")):
        picture = roles.predict.student(sample.x_t, sample.t, sample.cond)
        x_t = process.diffuse(picture, sample.x_t, sample.t)
        scores = roles.predict.fake(x_t, sample.t, sample.cond)
        scores = scores + roles.predict.teacher(x_t, sample.t, sample.cond, sample.cond)
        loss = scores.mean()
        if adversarial:
            loss = loss + roles.predict.discriminator(x_t, sample.t, sample.cond).mean()
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise ValueError(_another_model(model, "no gradient reaches its weights"))


def _learn_with_all_weights(
    model: ModelPatcher, roles: Roles, process: VP | Flow, sample: _Sample, adversarial: bool
) -> None:
    """Its weights are copies while roles are ready, so what is set on them here is gone with these."""
    for weight in roles.network.parameters():
        if weight.is_floating_point() and not weight.is_inference():
            weight.requires_grad_(True)
    _learn(model, roles, process, sample, adversarial)


@contextmanager
def _refused(words: Callable[[str], str]) -> Iterator[None]:
    """Whatever a network raises within it is a ValueError in words; but not Cancel, and a lack of memory."""
    try:
        yield
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(words(say.shown(error) or type(error).__name__)) from error


def _another_model(model: ModelPatcher, reason: str) -> str:
    family = type(model.model.model_config).__name__
    return (
        f"Choose a model of another family (SD1.5, SDXL, SD3): {family} is not supported for training yet, as {reason}."
    )
