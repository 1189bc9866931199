"""Few-step sampling: the sigmas, the sampler, and both with their guider in one node."""

import itertools
import math
from functools import partial

import comfy.k_diffusion.sampling
import comfy.sample
import comfy.samplers
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ...sid_core.files.student import StudentInfo
from ...sid_core.method.process import Process
from ...sid_core.method.sampling import NOISE_MODES, few_step, noise_for_each, step_times
from ...sid_core.method.schedules import METHODS, SID, method_times, own_times_of, times_to_change
from ...sid_core.words import log
from ..host import say
from ..host.families import family_of, unknown_family
from ..host.latents import cells, model_latent
from ..host.model import process_of, sampler_process, sigmas_at
from ..host.node import Node
from ..host.say import in_words
from ..host.search import found_by
from ..sampling.attached import student_info

AUTO = "as trained"
FOR_BATCH, FOR_EACH = NOISE_FOR = ("the batch", "each picture")
MOST_SHOWN = 8  # times, on a node
SIDE = "In pixels, a multiple of 8; of 16 for some models."


def sample_few_step(
    model,
    x: Tensor,
    sigmas: Tensor,
    extra_args=None,
    callback=None,
    disable=None,
    noise_mode: str = AUTO,
    noise_for: str = FOR_BATCH,
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
    seed = extra_args.get("seed")
    if noise_for == FOR_EACH:
        next_noise = noise_for_each(model.noise, seed or 0)
    else:
        draw = comfy.k_diffusion.sampling.default_noise_sampler(x, seed=seed)
        next_noise = partial(draw, None, None)
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
        next_noise=next_noise,
        x_start=x,
        t_end=sigmas[-1] if sigmas[-1] > 0 else None,
    )


class FewStepSampler(comfy.samplers.KSAMPLER):
    """A SAMPLER that is `sample_few_step`."""

    def __init__(self, noise_mode: str, noise_for: str = FOR_BATCH):
        super().__init__(sample_few_step, {"noise_mode": noise_mode, "noise_for": noise_for})

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


def schedule(
    model: ModelPatcher, steps: int, t_init: float, *, denoise: float = 1.0, times: str = SID, own_times: str = ""
) -> Tensor:
    """SIGMAS for the asked steps and t_init, where 0 is what the student says; the node says what came of them.

    times: of another few-step method, which has no t_init. own_times: written by hand, in place of all these. denoise:
    less than 1 to change a picture; 0 leaves it as it is. Raises ValueError where steps is 0 and the MODEL is no
    student, and for times that this kind of model has not.
    """
    process, info, kind = process_of(model), student_info(model), family_of(model).name
    as_trained, warnings = "", list(filter(None, [unknown_family(model)]))
    if own_times.strip():
        chosen = own_times_of(own_times, process)
    elif times != SID:
        chosen = method_times(times, steps, process)
    elif info is None:
        chosen = _times_of_any(steps, t_init, process, kind)
    else:
        chosen = step_times(steps or info.steps, process=process, t_init=t_init or info.t_init, kind=kind)
        as_trained = f"as trained: {info.steps} step{'s' * (info.steps > 1)} from t_init {info.t_init:g}"
        warnings += _against(info, steps, t_init)
    for warning in warnings:
        log.warning("%s", warning)
    kept = times_to_change(chosen, denoise)
    said = [f"⚠ {warning}" for warning in warnings] + [f"denoise {denoise:g}: {_shown(kept)}"] * (denoise < 1)
    # Also where there is nothing to warn of, for a text stays on a node until there is another.
    say.on_node("\n".join(said) or as_trained or _shown(chosen))
    return sigmas_at(kept, process) if len(kept) else torch.empty(0)


def _times_of_any(steps: int, t_init: float, process: Process, kind: str) -> Tensor:
    """SiD's, for a model that doesn't say how it was trained."""
    if steps == 0:
        raise ValueError(
            "Set steps to 1 or more, or connect a student (SiD Load Student, SiD Distill, SiD Demo Model): it is 0, as "
            "the student was trained, and this MODEL is no student."
        )
    return step_times(steps, process=process, t_init=t_init or None, kind=kind)


def _against(info: StudentInfo, steps: int, t_init: float) -> list[str]:
    """What to say of numbers that contradict the student's own; 0 is none."""
    asked = {"steps": (steps, info.steps), "t_init": (t_init, info.t_init)}
    return [
        f"Set {name} to 0 or {trained:g}, as this student was trained: with {value:g} it may look worse."
        for name, (value, trained) in asked.items()
        if value not in (0, trained)
    ]


def _shown(times: Tensor) -> str:
    some = ", ".join(f"{float(time):.4g}" for time in times[:MOST_SHOWN])
    return f"{len(times)} step{'s' * (len(times) != 1)}{' at ' * bool(some)}{some}{', …' * (len(times) > MOST_SHOWN)}"


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


def _noise_for_input() -> io.Input:
    return io.Combo.Input(
        "noise_for",
        options=[*NOISE_FOR],
        default=FOR_BATCH,
        optional=True,
        tooltip="How the new noise of 'fresh' is drawn. the batch: for all pictures at once and where the model is, as "
        "ComfyUI's samplers do. each picture: its own, on the CPU, so that a picture is the same in a batch of any "
        "size, on a GPU or not.",
    )


def _denoise_input() -> io.Input:
    return io.Float.Input(
        "denoise",
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.01,
        optional=True,
        tooltip="Less than 1 to change a picture, the less the lower: it begins at this share of the first time, and "
        "goes on with those of the student's own times that are below.",
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
                _denoise_input(),
                io.Combo.Input(
                    "times",
                    options=[*METHODS],
                    default=SID,
                    optional=True,
                    tooltip="Which method's times. Files of other few-step methods don't say theirs: choose them here, "
                    "and set steps to what the file's page says. t_init is SiD's alone.",
                ),
                io.String.Input(
                    "own_times",
                    default="",
                    optional=True,
                    tooltip="Times written by hand, in place of steps, t_init and times: 999, 749, 499, 249 for an SD "
                    "model, or 1, 0.94, 0.83, 0.63 for a flow model.",
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas")],
        )

    @classmethod
    def execute(cls, model, steps, t_init, denoise=1.0, times=SID, own_times=""):
        return io.NodeOutput(schedule(model, steps, t_init, denoise=denoise, times=times, own_times=own_times))


class SiDSampler(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDSampler",
            **found_by("few step", "4 steps", "turbo", "lightning", "lcm", "dmd"),
            display_name="SiD Sampler",
            category="SiD/sampling",
            description="The few-step sampler for SamplerCustom(Advanced), at CFG 1 with SiD Scheduler's sigmas.",
            inputs=[_noise_mode_input(), _noise_for_input()],
            outputs=[io.Sampler.Output(display_name="sampler")],
        )

    @classmethod
    def execute(cls, noise_mode, noise_for=FOR_BATCH):
        return io.NodeOutput(FewStepSampler(noise_mode, noise_for))


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
                io.Latent.Input(
                    "latent_image",
                    optional=True,
                    tooltip="A picture to change, or a part of it where it has a noise mask. width, height and "
                    "batch_size are then its own.",
                ),
                _denoise_input(),
                _noise_for_input(),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        seed,
        width,
        height,
        batch_size,
        steps,
        t_init,
        noise_mode,
        latent_image=None,
        denoise=1.0,
        noise_for=FOR_BATCH,
    ):
        sigmas = schedule(model, steps, t_init, denoise=denoise)
        if latent_image is None:
            latent_image = {"samples": torch.zeros(batch_size, 4, *cells(model, width, height))}
        samples, places = model_latent(model, latent_image), latent_image.get("batch_index")
        if noise_for == FOR_EACH and places is None:
            places = [*range(len(samples))]  # one by one: of some sizes the host's noise at once is other noise
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, positive)
        guider.set_cfg(1.0)
        drawn = guider.sample(
            comfy.sample.prepare_noise(samples, seed, places),
            samples,
            FewStepSampler(noise_mode, noise_for),
            sigmas,
            denoise_mask=latent_image.get("noise_mask"),
            callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
            seed=seed,
        )
        return io.NodeOutput({**latent_image, "samples": drawn})


NODES = [SiDScheduler, SiDSampler, SiDGenerate]
