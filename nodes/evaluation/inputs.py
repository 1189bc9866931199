"""What SiD Evaluate is given: its wires and widgets."""

from dataclasses import dataclass
from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..host.inputs import choice, text, whole, wire
from ..training.prompts import Prompts

MOST_STUDENTS = 6


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """All inputs, in the order that saved graphs have them in: new ones go to the end."""

    prompts: Any = wire(Prompts, "From SiD Prompts: what the pictures are of.")
    clip: Any = wire(io.Clip, "The text encoder of the models.")
    vae: Any = wire(io.Vae, "Of the models.")
    latent: Any = wire(io.Latent, "An empty latent of the size of the pictures; its contents are not used.")
    samples: int = whole(
        256,
        2,
        1_000_000,
        "Pictures of each model, 2 or more. The more, the narrower the intervals: a thousand is usual for the kernel "
        "distance, and the Fréchet distance wants several times as many as the features have numbers.",
    )
    per_prompt: int = whole(
        4, 1, 64, "Pictures of a prompt, 1 to 64, from one noise each. Variety within a prompt takes 2 or more."
    )
    steps: str = text(
        "0", "Of the students, with commas between, such as 4, 2, 1. 0: as many as each says that it was trained for."
    )
    teacher_steps: int = whole(30, 1, 1000, "Of the teacher, 1 to 1000.")
    sampler_name: str = choice(comfy.samplers.SAMPLER_NAMES, "dpmpp_2m", "Of the teacher. Students have SiD Sampler.")
    scheduler: str = choice(
        comfy.samplers.SCHEDULER_NAMES, "sgm_uniform", "Of the teacher. Students have SiD Scheduler."
    )
    batch_size: int = whole(
        8,
        1,
        1024,
        "Pictures that are drawn at once, 1 to 1024. Cancel loses so many at most. Another number draws other "
        "pictures.",
    )
    seed: int = whole(
        0,
        0,
        2**53 - 1,
        "Of noise and of the prompts' order. All students have the same noise, the teacher has another.",
        control_after_generate=False,
    )
    name: str = text("evaluation", "The folder in output/sid_evaluations that the JSON is written into.")
    labels: str = text("", "What the students are called, with commas between. Empty: student 1, student 2, …")
    teacher: Any = wire(
        io.Guider,
        "A SiD guider: the model that the students are compared with, at its guidance. Without one, connect images.",
        optional=True,
    )
    clip_vision: Any = wire(
        io.ClipVision,
        "The image encoder whose features distances and variety are computed from: any that you have. Numbers of "
        "different ones can't be compared.",
        optional=True,
    )
    student_1: Any = wire(io.Model, "A student, or any model for a few steps at CFG 1.", optional=True)
    student_2: Any = wire(io.Model, "Another.", optional=True)
    student_3: Any = wire(io.Model, "Another.", optional=True)
    student_4: Any = wire(io.Model, "Another.", optional=True)
    student_5: Any = wire(io.Model, "Another.", optional=True)
    student_6: Any = wire(io.Model, "Another.", optional=True)
    images: Any = wire(
        io.Image,
        "Real pictures to compare with, in place of the teacher's; the teacher is then compared too.",
        optional=True,
    )
    score_clip: Any = wire(
        io.Clip,
        "The text encoder of the same CLIP as clip_vision, for the CLIP score. Without one, clip is tried.",
        optional=True,
    )

    def students(self) -> list[tuple[str, Any]]:
        """(what it is called, MODEL). Raises ValueError for other labels than one for each or none."""
        models = {f"student {i}": getattr(self, f"student_{i}") for i in range(1, MOST_STUDENTS + 1)}
        models = {name: model for name, model in models.items() if model is not None}
        labels = [label.strip() for label in self.labels.split(",") if label.strip()]
        if labels and (len(labels) != len(models) or len(set(labels)) != len(labels)):
            raise ValueError(
                f"Set labels to {len(models)} different names with commas between, one for each student, or to "
                f"nothing; it has {len(labels)}."
            )
        if any("\ud800" <= letter <= "\udfff" for letter in self.labels):
            raise ValueError("Set labels to whole characters: half of one is in them, which no file can hold.")
        if self.teacher is not None and "teacher" in labels:
            raise ValueError("Give the students other labels: teacher is what the connected teacher is called.")
        return list(zip(labels or models, models.values(), strict=True))

    def step_counts(self) -> list[int]:
        """Each once. Raises ValueError for what is no list of whole numbers."""
        parts = [part.strip() for part in self.steps.split(",") if part.strip()]
        if not parts or not all(part.isascii() and part.isdigit() and int(part) <= 1000 for part in parts):
            raise ValueError(
                f"Set steps to whole numbers up to 1000 with commas between, such as 4, 2, 1; it is {self.steps!r:.60}."
            )
        return list(dict.fromkeys(map(int, parts)))
