"""The demo model as a node."""

from comfy_api.latest import io

from ..host.node import Node
from ..host.search import found_by
from . import model as demo_model
from .image_encoder import load_image_encoder

WEIGHTS = {
    "teacher": None,
    "student, 4 steps": "student_4_steps.safetensors",
    "student, 1 step": "student_1_step.safetensors",
}


class SiDDemoModel(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDDemoModel",
            **found_by("emoji", "example model", "test model", "text to image on a cpu"),
            display_name="SiD Demo Model (text to emoji)",
            category="SiD/demo",
            description="A small text-to-emoji diffusion model that comes with this pack and runs on any CPU: to try "
            "sampling and distillation without a download. Pictures are 64x64. Prompts name a subject, and a style if "
            f"you like: 'rocket, flat'. Styles: {', '.join(demo_model.STYLES)}.",
            inputs=[
                io.Combo.Input(
                    "weights",
                    options=list(WEIGHTS),
                    default="teacher",
                    tooltip="teacher: an ordinary diffusion model, for KSampler with 20 to 50 steps at CFG 4 to 6, "
                    "and for distilling. student: distilled from it, for SiD Generate or SiD Sampler at CFG 1.",
                )
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.Clip.Output(display_name="clip"),
                io.Vae.Output(display_name="vae"),
                io.ClipVision.Output(
                    display_name="clip_vision",
                    tooltip="Its image encoder, for CleanStyle IP-Adapter with the adapter 'demo (comes with the "
                    "pack)' of CleanStyle IP-Adapter Loader.",
                ),
            ],
        )

    @classmethod
    def execute(cls, weights):
        return io.NodeOutput(*demo_model.load_demo(WEIGHTS[weights]), load_image_encoder())


NODES = [SiDDemoModel]
