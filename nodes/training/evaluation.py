"""How a run is evaluated on its way, in a node of its own."""

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..host.image_features import ImageFeatures
from ..host.inputs import choice, whole, widgets, wire
from ..host.node import Node
from ..host.search import found_by

TrainingEvaluation = io.Custom("SID_TRAINING_EVALUATION")
KERNEL, FRECHET = "kernel distance", "Fréchet distance"
BEST, LAST = "best", "last"


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """In the order that saved graphs have them in. It is what the wire carries as well."""

    clip_vision: Any = wire(
        io.ClipVision, "The image encoder by whose features pictures are compared: any that you have."
    )
    every: int = whole(
        500,
        1,
        1_000_000,
        "Iterations between evaluations; the last iteration is evaluated too. Each saves a checkpoint.",
    )
    metric: str = choice(
        [KERNEL, FRECHET],
        KERNEL,
        "From the averaged student's pictures to the teacher's; lower is better. The kernel distance is right for any "
        "number of samples, the Fréchet distance wants several times as many as the features have numbers.",
    )
    samples: int = whole(
        256, 4, 100_000, "Pictures of the student in each evaluation, and as many of the teacher, drawn once."
    )
    teacher_steps: int = whole(30, 1, 999, "Of the teacher's pictures (DDIM, at the guider's guidance), 1 to 999.")
    patience: int = whole(
        0,
        0,
        10_000,
        "The run ends after so many evaluations in a row without a better one. 0: it never ends early.",
    )
    student: str = choice(
        [BEST, LAST],
        BEST,
        "Which student comes out of SiD Distill. Both are kept in the run's folder: the best is best.safetensors.",
    )

    def features(self) -> ImageFeatures:
        """Raises ValueError for what is no CLIP_VISION."""
        return ImageFeatures(self.clip_vision)


class SiDTrainingEvaluation(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDTrainingEvaluation",
            **found_by("distillation", "validation", "early stopping", "kid", "fid"),
            display_name="SiD Training Evaluation",
            category="SiD/training",
            description="For SiD Distill: evaluates the student on its way, keeps the best, and may end the run where "
            "it gets no better.",
            inputs=widgets(EvaluationInputs),
            outputs=[TrainingEvaluation.Output(display_name="evaluation")],
        )

    @classmethod
    def execute(cls, **given):
        asked = EvaluationInputs(**given)
        asked.features()
        return io.NodeOutput(asked)


NODES = [SiDTrainingEvaluation]
