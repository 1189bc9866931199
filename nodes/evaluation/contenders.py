"""What is compared: a guided teacher, or a student in so many steps, each as something that draws pictures."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..host.fingerprints import digest_of, is_digested
from ..host.model import process_of, sigmas_for
from ..sampling.attached import student_info
from ..sampling.few_step import AUTO, FewStepSampler
from ..sampling.guiders import SiDGuider
from ..sampling.patches import on_predictions, on_the_run

SAMPLING = "model_sampling"


@dataclass(frozen=True)
class Contender:
    """models: the MODELs that its forwards go through. identity: digest of all that decides its pictures but prompts
    and noise; None where something on a MODEL has none. unknown: the names of these."""

    label: str
    steps: int
    guider: comfy.samplers.CFGGuider
    sampler: comfy.samplers.KSAMPLER
    sigmas: Tensor
    models: tuple[ModelPatcher, ...]
    settings: tuple
    is_teacher: bool = False
    unknown: list[str] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """Forwards an image, about: for the time that is left."""
        guided = isinstance(self.guider, SiDGuider) and self.guider.cfg not in (0, 1)
        return self.steps * (1 + guided) * len(self.models)

    @property
    def identity(self) -> str | None:
        if self.unknown:
            return None
        samplings = [model.get_model_object(SAMPLING) for model in self.models]
        kinds = [[kind.__name__ for kind in type(sampling).__mro__] for sampling in samplings]
        return digest_of(list(self.models), kinds, self.sigmas, list(self.settings))

    def draw(self, conditioning: list, noise: Tensor, seed: int) -> tuple[Tensor, float]:
        """Latents (B, C, …) of prompts, one for each or one for all, and how many forwards an image took."""
        guider = copy.copy(self.guider)
        guider.original_conds = {}
        negative = self.guider.empty_prompt if isinstance(guider, SiDGuider) else conditioning
        guider.set_conds(conditioning, negative)
        with counted_forwards(self.models) as forwards:
            latents = guider.sample(
                noise, torch.zeros_like(noise), self.sampler, self.sigmas, disable_pbar=True, seed=seed
            )
        return latents, sum(forwards) / len(noise)


@contextmanager
def counted_forwards(models: tuple[ModelPatcher, ...]) -> Iterator[list[int]]:
    """Gathers how many samples went through the networks, forward by forward."""
    seen: list[int] = []

    def note(_module, args, kwargs) -> None:
        x = args[0] if args else next(value for value in kwargs.values() if isinstance(value, Tensor))
        seen.append(len(x))

    hooks = [model.model.diffusion_model.register_forward_pre_hook(note, with_kwargs=True) for model in models]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def teacher(guider: object, steps: int, sampler_name: str, scheduler: str) -> Contender:
    """A SiD guider with one of the host's samplers and schedulers. Raises ValueError for other guiders."""
    if not isinstance(guider, SiDGuider):
        raise ValueError(
            "Connect SiD LSG Guider, SiD Zero-CFG Guider or SiD Anti-CFG Guider as teacher; with SiD LSG Guider, "
            f"guidance_scale is the CFG. This is a {type(guider).__name__}."
        )
    model = guider.model_patcher
    process_of(model)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object(SAMPLING), scheduler, steps)
    empty = guider.empty_prompt
    unheard = sorted({key for _, more in empty for key, value in more.items() if not is_digested(value)})
    return Contender(
        label=f"teacher, {_in_steps(steps)}",
        steps=steps,
        guider=guider,
        sampler=comfy.samplers.sampler_object(sampler_name),
        sigmas=sigmas,
        models=(model, guider.weaker) if guider.weaker else (model,),
        settings=("teacher", guider.guidance.teacher, guider.strength, sampler_name, empty),
        is_teacher=True,
        unknown=_unknown(model) + (_unknown(guider.weaker) if guider.weaker else []) + unheard,
    )


def student(model: ModelPatcher, steps: int, name: str) -> Contender:
    """A MODEL with SiD Sampler at CFG 1. steps: 0 is what it says of itself. ValueError: it says nothing."""
    info = student_info(model)
    if steps == 0 and info is None:
        raise ValueError(
            f"Set steps to 1 or more, such as 4, 2, 1, or connect a student as {name}: it has a 0, as the student was "
            "trained, and this MODEL is no student."
        )
    steps = steps or info.steps
    guider = comfy.samplers.CFGGuider(model)
    guider.set_cfg(1.0)
    return Contender(
        label=f"{name}, {_in_steps(steps)}",
        steps=steps,
        guider=guider,
        sampler=FewStepSampler(AUTO),
        sigmas=sigmas_for(model, steps, info.t_init if info else None),
        models=(model,),
        settings=("student", info.noise_mode if info else "fresh"),
        unknown=_unknown(model),
    )


def _in_steps(steps: int) -> str:
    return f"{steps} step{'s' * (steps != 1)}"


def _unknown(model: ModelPatcher) -> list[str]:
    """What is on a MODEL that no digest can tell apart: functions."""
    return [*on_the_run(model), *on_predictions(model), *sorted(model.object_patches.keys() - {SAMPLING})]
