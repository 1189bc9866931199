"""Few-step sampling: the sigmas, the sampler, and both with their guider in one node."""

import itertools
import math

import comfy.k_diffusion.sampling
import comfy.sample
import comfy.samplers
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ...sid_core.method.sampling import NOISE_MODES, few_step
from ...sid_core.words import log
from ..host import say
from ..host.latents import cells, model_latent
from ..host.model import sampler_process, sigmas_for
from ..host.node import Node
from ..host.say import in_words
from ..host.search import found_by
from ..sampling.attached import student_info

AUTO = "as trained"
SIDE = "In pixels, a multiple of 8; of 16 for some models."


def sample_few_step(
    model, x: Tensor, sigmas: Tensor, extra_args=None, callback=None, disable=None, noise_mode: str = AUTO
) -> Tensor:
    """The method's sampler in the host's form (k-diffusion): x is noised already, model(x, sigma) is clean."""
    if len(sigmas) < 2:  # where SplitSigmas leaves nothing to do, as the host's own samplers have it
        return x
    extra_args = extra_args or {}
    guider = model.inner_model
    process = sampler_process(guider.inner_model.model_sampling)
    if noise_mode == AUTO:
        info = student_info(guider.model_patcher)
        noise_mode = info.noise_mode if info else "fresh"
    draw = comfy.k_diffusion.sampling.default_noise_sampler(x, seed=extra_args.get("seed"))
    step = iter(range(len(sigmas)))

    def predict(x_t: Tensor, sigma: Tensor) -> Tensor:
        clean = model(x_t, sigma, **extra_args)
        if callback is not None:
            callback({"x": x_t, "i": next(step), "sigma": sigma[0], "sigma_hat": sigma[0], "denoised": clean})
        return clean

    return few_step(
        predict,
        model.noise,
        sigmas[:-1],
        process,
        mode=noise_mode,
        next_noise=lambda: draw(None, None),
        x_start=x,
        t_end=sigmas[-1] if sigmas[-1] > 0 else None,
    )


class FewStepSampler(comfy.samplers.KSAMPLER):
    """A SAMPLER that is `sample_few_step`."""

    def __init__(self, noise_mode: str):
        super().__init__(sample_few_step, {"noise_mode": noise_mode})

    def sample(self, model_wrap, sigmas: Tensor, *args, **kwargs) -> Tensor:
        with in_words():  # on the node that samples
            check_sigmas(sigmas)
        return super().sample(model_wrap, sigmas, *args, **kwargs)


def check_sigmas(sigmas: Tensor) -> None:
    """Raise ValueError unless these are noise levels on the way down: above 0 until the last, which may be 0."""
    connect = "Connect a scheduler such as SiD Scheduler to the sampler's sigmas"
    if sigmas.ndim != 1:
        raise ValueError(f"{connect}: they are of shape {tuple(sigmas.shape)}; expected one list of noise levels.")
    levels = sigmas.tolist()
    shown = f"{', '.join(f'{level:g}' for level in levels[:6])}{', …' * (len(levels) > 6)}"
    if not all(math.isfinite(level) and level >= 0 for level in levels) or 0 in levels[:-1]:
        raise ValueError(f"{connect}: they are {shown}; expected numbers above 0, but for the last.")
    if any(after > before for before, after in itertools.pairwise(levels)):
        raise ValueError(f"{connect}, or take FlipSigmas out: they are {shown}; expected them to fall.")


def schedule(model: ModelPatcher, steps: int, t_init: float) -> Tensor:
    """SIGMAS for the asked steps and t_init, where 0 is what the student says. Warns where they contradict it.

    Raises ValueError where steps is 0 and the MODEL is no student.
    """
    info = student_info(model)
    if steps == 0 and info is None:
        raise ValueError(
            "Set steps to 1 or more, or connect a student (SiD Load Student, SiD Distill, SiD Demo Model): it is 0, as "
            "the student was trained, and this MODEL is no student."
        )
    if info is not None:
        asked = {"steps": (steps, info.steps), "t_init": (t_init, info.t_init)}
        others = [
            f"Set {name} to 0 or {trained:g}, as this student was trained: with {value:g} it may look worse."
            for name, (value, trained) in asked.items()
            if value not in (0, trained)
        ]
        for said in others:
            log.warning("%s", said)
        # Also where there is nothing to warn of, for a text stays on a node until there is another.
        as_trained = f"as trained: {info.steps} step{'s' * (info.steps > 1)} from t_init {info.t_init:g}"
        say.on_node("\n".join(f"⚠ {said}" for said in others) or as_trained)
        steps, t_init = steps or info.steps, t_init or info.t_init
    return sigmas_for(model, steps, t_init or None)


def _schedule_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "steps",
            default=0,
            min=0,
            max=1000,
            tooltip="Number of steps, 1 to 1000. 0: as many as the student was trained for.",
        ),
        io.Float.Input(
            "t_init",
            default=0.0,
            min=0.0,
            max=999.0,
            step=0.01,  # which is how many decimals are shown as well, and flow models need some
            tooltip="Training time of the first step: 1 to 999 for SD models (625 is usual), up to 1.0 for flow "
            "models. 0: as the student was trained, or 625 / 1.0.",
        ),
    ]


def _noise_mode_input() -> io.Input:
    return io.Combo.Input(
        "noise_mode",
        options=[AUTO, *NOISE_MODES],
        default=AUTO,
        tooltip="Noise of the steps after the first. fresh: new noise each step, as students are trained. ddim: the "
        "noise the last prediction implies. fixed: the first noise again. 'as trained' asks the student.",
    )


class SiDScheduler(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDScheduler",
            **found_by("few step", "4 steps", "turbo", "lightning", "lcm", "sigmas of a distilled model"),
            display_name="SiD Scheduler",
            category="SiD/sampling",
            description="The sigmas a SiD student was trained on. For SamplerCustom(Advanced) with SiD Sampler or lcm.",
            inputs=[
                io.Model.Input("model", tooltip="The student, or any SD- or flow-type model."),
                *_schedule_inputs(),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas")],
        )

    @classmethod
    def execute(cls, model, steps, t_init):
        return io.NodeOutput(schedule(model, steps, t_init))


class SiDSampler(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDSampler",
            **found_by("few step", "4 steps", "turbo", "lightning", "lcm", "dmd"),
            display_name="SiD Sampler",
            category="SiD/sampling",
            description="The few-step sampler for SamplerCustom(Advanced), at CFG 1 with SiD Scheduler's sigmas.",
            inputs=[_noise_mode_input()],
            outputs=[io.Sampler.Output(display_name="sampler")],
        )

    @classmethod
    def execute(cls, noise_mode):
        return io.NodeOutput(FewStepSampler(noise_mode))


class SiDGenerate(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDGenerate",
            **found_by("few step", "4 steps", "1 step", "turbo", "lightning", "lcm", "dmd", "fast"),
            display_name="SiD Generate",
            category="SiD/sampling",
            description="A student's picture from a prompt, in one node: scheduler, sampler and guider at CFG 1.",
            inputs=[
                io.Model.Input("model", tooltip="A SiD student."),
                io.Conditioning.Input("positive", tooltip="The prompt. Students run without a negative prompt."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**53 - 1,
                    control_after_generate=True,
                    tooltip="Of the noise. The same seed gives the same picture.",
                ),
                io.Int.Input(
                    "width",
                    default=512,
                    min=8,
                    max=16384,
                    step=8,
                    tooltip=SIDE,
                ),
                io.Int.Input(
                    "height",
                    default=512,
                    min=8,
                    max=16384,
                    step=8,
                    tooltip=SIDE,
                ),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="Number of pictures, 1 to 4096."),
                *_schedule_inputs(),
                _noise_mode_input(),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def execute(cls, model, positive, seed, width, height, batch_size, steps, t_init, noise_mode):
        sigmas = schedule(model, steps, t_init)
        latent = model_latent(model, {"samples": torch.zeros(batch_size, 4, *cells(model, width, height))})
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, positive)
        guider.set_cfg(1.0)
        samples = guider.sample(
            comfy.sample.prepare_noise(latent, seed),
            latent,
            FewStepSampler(noise_mode),
            sigmas,
            callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
            seed=seed,
        )
        return io.NodeOutput({"samples": samples})


NODES = [SiDScheduler, SiDSampler, SiDGenerate]
