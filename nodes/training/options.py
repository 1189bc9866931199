"""What few change about a distillation, in a node of its own, and the presets."""

from dataclasses import dataclass

from comfy_api.latest import io

from ...sid_core.training.settings import OPTIMIZERS, WEIGHTINGS, Settings
from ..host.node import Node

Options = io.Custom("SID_TRAINING_OPTIONS")
CUSTOM = "as set here"
DEFAULTS = {name: field.default for name, field in Settings.__dataclass_fields__.items()}


@dataclass(frozen=True)
class Preset:
    """Values that belong together, by the names of SiDDistill's inputs."""

    mode: str
    batch_size: int
    student_learning_rate: float
    fake_learning_rate: float
    ema_half_life: float


# Full: SiD-LSG's for SD1.5 (arXiv 2406.01561); the few-step paper does not say SDXL's, so they are the same. LoRA: the
# rate of the field's LoRA distillations (DMD2: 5e-5) and a batch for one GPU, not tried on real weights yet.
PRESETS = {
    "SD1.5, LoRA": Preset("lora", 32, 5e-5, 1e-4, 2_000),
    "SDXL, LoRA": Preset("lora", 16, 5e-5, 1e-4, 1_000),
    "SD1.5, full": Preset("full", 512, 1e-6, 1e-6, 50_000),
    "SDXL, full": Preset("full", 512, 1e-6, 1e-6, 50_000),
}


class SiDTrainingOptions(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDTrainingOptions",
            display_name="SiD Training Options",
            category="SiD/training",
            description="For SiDDistill: what few need to change. The defaults are the authors'.",
            inputs=[
                io.Int.Input(
                    "warm_up_iterations",
                    default=0,
                    min=0,
                    max=100_000,
                    tooltip="Both learning rates rise to their value over so many iterations. 0: at once.",
                ),
                io.Int.Input(
                    "fake_updates",
                    default=DEFAULTS["fake_updates"],
                    min=1,
                    max=20,
                    tooltip="Updates of the fake score for each of the student's, 1 to 20. Raise it to 2 to 5 where "
                    "the fake score's loss swings; each costs about half an iteration.",
                ),
                io.Float.Input(
                    "gradient_norm",
                    default=DEFAULTS["gradient_norm"],
                    min=0.0,
                    max=1e6,
                    step=0.1,
                    tooltip="Gradients of a larger norm are clipped to it. 0: never, as the authors.",
                ),
                io.Combo.Input(
                    "weighting",
                    options=list(WEIGHTINGS),
                    default=WEIGHTINGS[0],
                    tooltip="Of the student's loss over times. as published: 1/error for SD, 1-t for flow models. "
                    "1/error evens samples out; snr and its root weigh the late, fine times more, and change contrast.",
                ),
                io.Float.Input(
                    "caption_dropout",
                    default=DEFAULTS["caption_dropout"],
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of pictures that the fake score is trained on with the ∅-prompt, 0 to 1.",
                ),
                io.Int.Input(
                    "score_time_low",
                    default=DEFAULTS["score_times"][0],
                    min=0,
                    max=999,
                    tooltip="The least training time that scores are compared at, 0 to 999; SD models only.",
                ),
                io.Int.Input(
                    "score_time_high",
                    default=DEFAULTS["score_times"][1],
                    min=0,
                    max=999,
                    tooltip="The greatest such time, 0 to 999. Lower it, as to 700, where the student loses details.",
                ),
                io.Combo.Input(
                    "optimizer",
                    options=list(OPTIMIZERS),
                    default=OPTIMIZERS[0],
                    optional=True,
                    tooltip="With 8 bits its averages take a quarter of the memory; bitsandbytes has to be installed.",
                ),
                io.Float.Input(
                    "adam_epsilon",
                    default=DEFAULTS["adam_epsilon"],
                    min=1e-12,
                    max=1.0,
                    step=1e-8,
                    round=1e-12,
                    tooltip="Adam's ε, 1e-12 to 1. Larger quiets weights whose gradients are tiny.",
                ),
            ],
            outputs=[Options.Output(display_name="options")],
        )

    @classmethod
    def execute(cls, score_time_low, score_time_high, **options):
        return io.NodeOutput(options | {"score_times": (score_time_low, score_time_high)})


NODES = [SiDTrainingOptions]
