"""The guiders: one wire that shows the guided teacher in SamplerCustomAdvanced and tells SiD Distill how to use it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ...sid_core.method.guidance import Guidance, steer_away
from ..host.families import GUIDE, family_of, require_use
from ..host.node import Node
from ..host.search import found_by
from ..host.weights import with_ordinary_weights
from .patches import on_the_run

WEAKER = "sid_weaker"


class SiDGuider(comfy.samplers.CFGGuider):
    """Predicts as the teacher does in a distillation: with κ4, and away from a weaker model if there is one.

    What is on either MODEL (attention patches, wrappers, functions of its guidance) acts on its own prediction.
    """

    def __init__(self, model: ModelPatcher, guidance: Guidance, weaker: ModelPatcher | None, strength: float):
        self.weaker = weaker if strength != 0 else None
        self.strength = strength
        self.guidance = guidance
        if self.weaker is not None:
            _check_weaker(model, self.weaker)
            model = model.clone()
            model.set_additional_models(WEAKER, [self.weaker])
        super().__init__(model)
        self.set_cfg(guidance.teacher)

    def with_ordinary_weights(self) -> "SiDGuider":
        """The same to train with, see `with_ordinary_weights`."""
        guider = copy.copy(self)
        guider.model_patcher = with_ordinary_weights(self.model_patcher)
        guider.weaker = self.weaker and with_ordinary_weights(self.weaker)
        return guider

    def set_conds(self, positive: list, negative: list) -> None:
        self.empty_prompt = negative
        super().set_conds(*(as_trained(self.model_patcher, conds) for conds in (positive, negative)))

    def outer_sample(self, *args, **kwargs) -> Tensor:
        if self.weaker is None:
            return super().outer_sample(*args, **kwargs)
        with self._weaker_ready():
            return super().outer_sample(*args, **kwargs)

    @contextmanager
    def _weaker_ready(self) -> Iterator[None]:
        """Within it the weaker model has a guider of its own. The host loads it with the other, but readies only that.

        As `CFGGuider.sample` and `outer_sample` do it for the one model that they know.
        """
        weaker = self.weaker
        self.weaker_guider = guider = SiDGuider(weaker, self.guidance, None, 0.0)
        guider.inner_model = weaker.model
        guider.model_options = options = comfy.model_patcher.create_model_options_clone(weaker.model_options)
        comfy.sampler_helpers.prepare_model_patcher(weaker, self.conds, options)
        comfy.samplers.cast_to_load_options(options, device=weaker.load_device, dtype=weaker.model_dtype())
        weaker.pre_run()
        try:
            yield
        finally:
            del self.weaker_guider
            weaker.cleanup()
            comfy.samplers.cast_to_load_options(options, device=weaker.offload_device)
            weaker.restore_hook_patches()

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed=None) -> Tensor:
        """The host's own guidance, so that its hooks and other packs' patches apply; it does one forward for κ = 1."""
        model_options = model_options or {}
        positive, negative, scale = self.conds["positive"], self.conds["negative"], self.cfg
        if scale == 0:
            positive, scale = negative, 1.0
        clean = comfy.samplers.sampling_function(
            self.inner_model, x, timestep, negative, positive, scale, model_options=model_options, seed=seed
        )
        if self.weaker is None:
            return clean
        return steer_away(clean, self._of_weaker(x, timestep, model_options, seed), self.strength)

    def _of_weaker(self, x: Tensor, timestep: Tensor, model_options: dict, seed) -> Tensor:
        guider = self.weaker_guider
        guider.conds = self.conds
        of_this_run = model_options.get("transformer_options", {}).get("sample_sigmas")
        inner = guider.model_options["transformer_options"] | {"sample_sigmas": of_this_run}
        return guider(x, timestep, guider.model_options | {"transformer_options": inner}, seed)


def as_trained(model: ModelPatcher, conditioning: list) -> list:
    """A CONDITIONING that says the guidance that distillation has for the MODEL's family, if it doesn't say another."""
    guidance = family_of(model).guidance
    if guidance is None:
        return conditioning
    return [[context, {"guidance": guidance} | extra] for context, extra in conditioning]


def _check_weaker(model: ModelPatcher, weaker: ModelPatcher) -> None:
    if weaker.model is model.model:
        raise ValueError(
            "Load weaker_model with a loader of its own: it shares its weights with model, so both can't be loaded at "
            "once. Of a LoRA or student on the same MODEL, use a full checkpoint."
        )
    if names := on_the_run(weaker):
        raise ValueError(
            f"Take {', '.join(names)} off weaker_model: what it does to the whole run can be done for model alone. "
            "Patches of attention, of blocks and of guidance may stay."
        )


def _inputs(*strategy: io.Input) -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The teacher: the diffusion model whose pictures the student shall learn."),
        io.Conditioning.Input("positive", tooltip="The prompt, when this guider samples. Distillation has its own."),
        io.Conditioning.Input("negative", tooltip="The ∅-prompt: normally an empty CLIPTextEncode."),
        *strategy,
        io.Model.Input(
            "weaker_model",
            optional=True,
            tooltip="A worse model of the same kind, such as an earlier checkpoint, to move predictions away from. "
            "What is on it (IP-Adapter, FreeU and such) acts on its predictions.",
        ),
        io.Float.Input(
            "weaker_strength",
            default=0.0,
            min=0.0,
            max=10.0,
            step=0.05,
            optional=True,
            tooltip="How far to move away from weaker_model, 0 to 10. 0 is off and costs nothing; 0.5 to 2 is usual.",
        ),
    ]


def _guider(guidance: Guidance, model, positive, negative, weaker_model, weaker_strength) -> io.NodeOutput:
    require_use(model, GUIDE)
    guider = SiDGuider(model, guidance, weaker_model, weaker_strength)
    guider.set_conds(positive, negative)
    return io.NodeOutput(guider)


class SiDLSGGuider(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDLSGGuider",
            **found_by("distillation", "teacher", "long short guidance", "cfg"),
            display_name="SiD LSG Guider",
            category="SiD/guiders",
            description="Long-short guidance: the same guidance scale for teacher and fake score. The safe choice for "
            "distilling without images. Costs two forwards a step; more text alignment, less variety as it grows.",
            inputs=_inputs(
                io.Float.Input(
                    "guidance_scale",
                    default=1.5,
                    min=0.0,
                    max=20.0,
                    step=0.1,
                    tooltip="κ, 0 to 20. The authors distil with 1.5 (best FID) to 4.5 (best text alignment).",
                )
            ),
            outputs=[io.Guider.Output(display_name="guider")],
        )

    @classmethod
    def execute(cls, model, positive, negative, guidance_scale, weaker_model=None, weaker_strength=0.0):
        return _guider(Guidance.lsg(guidance_scale), model, positive, negative, weaker_model, weaker_strength)


class SiDZeroCFGGuider(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDZeroCFGGuider",
            **found_by("distillation", "teacher", "cfg"),
            display_name="SiD Zero-CFG Guider",
            category="SiD/guiders",
            description="No guidance of the teacher and no text in the fake score: one forward everywhere, so the "
            "fastest to sample and to distil. Meant for learning from real pictures too; from prompts alone, choose "
            "LSG.",
            inputs=_inputs(),
            outputs=[io.Guider.Output(display_name="guider")],
        )

    @classmethod
    def execute(cls, model, positive, negative, weaker_model=None, weaker_strength=0.0):
        return _guider(Guidance.zero_cfg(), model, positive, negative, weaker_model, weaker_strength)


class SiDAntiCFGGuider(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDAntiCFGGuider",
            **found_by("distillation", "teacher", "negative cfg"),
            display_name="SiD Anti-CFG Guider",
            category="SiD/guiders",
            description="Negative guidance in the fake score while distilling; the teacher is conditional only, so "
            "sampling through this costs one forward a step. Favours text alignment.",
            inputs=_inputs(
                io.Float.Input(
                    "fake_guidance_scale",
                    default=-1.0,
                    min=-10.0,
                    max=0.0,
                    step=0.1,
                    tooltip="κ of the fake score, -10 to 0. The paper gives no value; -1 is where to begin. 0 is "
                    "Zero-CFG. Only SiD Distill uses it.",
                )
            ),
            outputs=[io.Guider.Output(display_name="guider")],
        )

    @classmethod
    def execute(cls, model, positive, negative, fake_guidance_scale, weaker_model=None, weaker_strength=0.0):
        return _guider(Guidance.anti_cfg(fake_guidance_scale), model, positive, negative, weaker_model, weaker_strength)


NODES = [SiDLSGGuider, SiDZeroCFGGuider, SiDAntiCFGGuider]
