"""What few change about a distillation, in a node of its own."""

from dataclasses import dataclass, fields

from comfy_api.latest import io

from ...sid_core.training.settings import OPTIMIZERS, WEIGHTINGS, Settings
from ..host.inputs import choice, part, real, whole, widgets
from ..host.node import Node
from ..host.search import found_by

Options = io.Custom("SID_TRAINING_OPTIONS")
DEFAULT = {field.name: field.default for field in fields(Settings)}


@dataclass(frozen=True, kw_only=True)
class OptionInputs:
    """In the order that saved graphs have them in."""

    warm_up_iterations: int = whole(
        0,
        0,
        100_000,
        "Both learning rates rise to their value over so many iterations. 0: at once.",
        part=(Settings, "warm_up_iterations"),
    )
    fake_updates: int = whole(
        DEFAULT["fake_updates"],
        1,
        20,
        "Updates of the fake score for each of the student's, 1 to 20. Raise it to 2 to 5 where the fake score's loss "
        "swings; each costs about half an iteration.",
        part=(Settings, "fake_updates"),
    )
    gradient_norm: float = real(
        DEFAULT["gradient_norm"],
        0.0,
        1e6,
        0.1,
        "Gradients of a larger norm are clipped to it. 0: never, as the authors.",
        part=(Settings, "gradient_norm"),
    )
    weighting: str = choice(
        WEIGHTINGS,
        WEIGHTINGS[0],
        "Of the student's loss over times. as published: 1/error for SD, 1-t for flow models. 1/error evens samples "
        "out; snr and its root weigh the late, fine times more, and change contrast.",
        part=(Settings, "weighting"),
    )
    caption_dropout: float = real(
        DEFAULT["caption_dropout"],
        0.0,
        1.0,
        0.05,
        "Share of pictures that the fake score is trained on with the ∅-prompt, 0 to 1.",
        part=(Settings, "caption_dropout"),
    )
    score_time_low: int = whole(
        DEFAULT["score_times"][0],
        0,
        999,
        "The least training time that scores are compared at, 0 to 999; SD models only.",
    )
    score_time_high: int = whole(
        DEFAULT["score_times"][1],
        0,
        999,
        "The greatest such time, 0 to 999. Lower it, as to 700, where the student loses details.",
    )
    optimizer: str = choice(
        OPTIMIZERS,
        OPTIMIZERS[0],
        "With 8 bits its averages take a quarter of the memory; bitsandbytes has to be installed.",
        absent=OPTIMIZERS[0],
        part=(Settings, "optimizer"),
    )
    adam_epsilon: float = real(
        DEFAULT["adam_epsilon"],
        1e-12,
        1.0,
        1e-8,
        "Adam's ε, 1e-12 to 1. Larger quiets weights whose gradients are tiny.",
        round=1e-12,
        part=(Settings, "adam_epsilon"),
    )

    adversarial_weight: float = real(
        DEFAULT["adversarial_weight"],
        0.0,
        1e3,
        1e-4,
        "Of the share that real images have in what the student learns, with images on SiD Distill. The authors: 1e-4 "
        "to 1e-2. 0: none, and nothing is spent on it.",
        absent=DEFAULT["adversarial_weight"],
        round=1e-9,
        part=(Settings, "adversarial_weight"),
    )
    discriminator_weight: float = real(
        DEFAULT["discriminator_weight"],
        1e-6,
        1e3,
        0.1,
        "Of telling real images from the student's, in what the fake score learns. Lower it where the discriminator's "
        "loss falls to nothing.",
        absent=DEFAULT["discriminator_weight"],
        round=1e-9,
        part=(Settings, "discriminator_weight"),
    )
    adversarial_warm_up: int = whole(
        DEFAULT["adversarial_warm_up"],
        0,
        1_000_000_000,
        "The student's first pictures, in which only the discriminator learns from real images. The authors: 40000, in "
        "batches of 256.",
        absent=DEFAULT["adversarial_warm_up"],
        part=(Settings, "adversarial_warm_up"),
    )

    def settings(self) -> dict:
        """The fields of Settings that they decide."""
        if self.score_time_low > self.score_time_high:
            raise ValueError(
                f"Set score_time_low to {self.score_time_high} or less: it is {self.score_time_low}, above "
                "score_time_high."
            )
        return part(self, Settings) | {"score_times": (self.score_time_low, self.score_time_high)}


class SiDTrainingOptions(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDTrainingOptions",
            **found_by("distillation", "train lora", "optimizer", "warm up"),
            display_name="SiD Training Options",
            category="SiD/training",
            description="For SiD Distill: what few need to change. The defaults are the authors', but for a shorter "
            "adversarial_warm_up.",
            inputs=widgets(OptionInputs),
            outputs=[Options.Output(display_name="options")],
        )

    @classmethod
    def execute(cls, **inputs):
        return io.NodeOutput(OptionInputs(**inputs).settings())


NODES = [SiDTrainingOptions]
