"""What SiD Distill is given: its wires and widgets, and what each of them is to the run."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from comfy_api.latest import io

from ...sid_core.method.guidance import Guidance
from ...sid_core.training.adapters import TARGETS
from ...sid_core.training.settings import Settings
from ...sid_core.words import log
from ..host.family_defaults import FULL, LORA, PRESETS, Defaults
from ..host.inputs import ADVANCED, choice, flag, part, real, text, whole, wire
from .evaluation import TrainingEvaluation
from .images import Images
from .loop import Schedule
from .options import Options
from .prompts import Prompts
from .roles import LoRAOptions

CONTINUE, START_OVER = "continue it", "start over"
CUSTOM = "as set here"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All inputs, in the order that saved graphs have them in: new ones go to the end.

    Those that are a part of `Settings` decide what is learnt and stay the same within a run, but for the learning
    rates; those of `Schedule` may change from one Run to the next; those of `LoRAOptions` are of the student's form.
    """

    guider: Any = wire(io.Guider, "A SiD guider: the teacher, its guidance and the ∅-prompt.")
    clip: Any = wire(io.Clip, "The text encoder of the teacher, for the prompts.")
    prompts: Any = wire(Prompts, "From SiD Prompts. The more varied, the better the student.")
    latent: Any = wire(io.Latent, "An empty latent of the size to learn; its contents are not used.")
    iterations: int = whole(
        1000,
        1,
        10_000_000,
        "Updates of the student, 1 or more. SD1.5 wants thousands; raise it later to go on.",
        part=(Schedule, "iterations"),
    )
    batch_size: int = whole(
        4, 1, 4096, "Pictures an iteration. The authors use 512.", part=(Settings, "batch"), display_name="batch size"
    )
    steps: int = whole(
        Defaults.steps,
        1,
        64,
        "The student's steps, usually 1 to 4.",
        part=(Settings, "steps"),
        display_name="student steps",
    )
    t_init: float = real(
        0.0,
        0.0,
        999.0,
        0.01,
        "Training time of its first step, 1 to 999 (SD) or up to 1.0 (flow). 0: 625 or 1.0.",
        display_name="t_init (0: usual)",
        browser=ADVANCED,
    )
    student_learning_rate: float = real(
        1e-6,
        0.0,
        1.0,
        1e-7,
        "Of the student. The authors' 1e-6 is for batch 512; small models bear 1e-4.",
        round=1e-9,
        part=(Settings, "student_learning_rate"),
        display_name="student learning rate",
    )
    fake_learning_rate: float = real(
        1e-6,
        0.0,
        1.0,
        1e-7,
        "Of the fake score. As the student's or higher: it has to keep up.",
        round=1e-9,
        part=(Settings, "fake_learning_rate"),
        display_name="fake score learning rate",
    )
    learning_rate_decay: bool = flag(
        False,
        "Let both learning rates fall to zero over the iterations. Better at the end, but the run can't be made longer "
        "afterwards.",
        display_name="learning rate decay",
        browser=ADVANCED,
    )
    alpha: float = real(
        1.0,
        0.0,
        2.0,
        0.05,
        "α of the student's loss, 0 to 2: 1 for text-to-image; above, more contrast.",
        part=(Settings, "alpha"),
        display_name="alpha (contrast)",
        browser=ADVANCED,
    )
    ema_half_life: float = real(
        50_000.0,
        0.0,
        1e9,
        100.0,
        "Of the student's average, in images; it is the average that comes out. 0: no average.",
        part=(Settings, "ema_half_life_images"),
        display_name="EMA half-life (images)",
        browser=ADVANCED,
    )
    seed: int = whole(
        0,
        0,
        2**53 - 1,
        "Of prompts, noise and times. The same seed learns the same student.",
        # The browser would else draw a new seed after each run, which then could not be continued.
        control_after_generate=False,
        part=(Settings, "seed"),
        browser=ADVANCED,
    )
    run_name: str = text(
        "student",
        "The run's folder in output/sid_runs: its settings, metrics, checkpoints and previews.",
        display_name="run name",
    )
    existing_run: str = choice(
        [CONTINUE, START_OVER],
        CONTINUE,
        "When a run of that name is there. 'start over' puts it aside until the new one has as many iterations; where "
        "that one was cancelled and its settings are the same, it goes on.",
        display_name="existing run",
    )
    preview_every: int = whole(
        100,
        1,
        1_000_000,
        "Iterations between preview pictures of 8 of the prompts, in 1 to all of its steps (with a VAE connected).",
        part=(Schedule, "preview_every"),
        display_name="preview every (iterations)",
    )
    save_every: int = whole(
        500,
        1,
        1_000_000,
        "Iterations between checkpoints of the whole state. Cancel and errors save too; a crash or closing ComfyUI "
        "costs what came after the last one.",
        part=(Schedule, "save_every"),
        display_name="save every (iterations)",
        browser=ADVANCED,
    )
    keep_last: int = whole(
        2,
        1,
        1000,
        "Checkpoints to keep, 1 or more. Each holds the whole state; with 2, a damaged one costs save_every iterations "
        "and not the run.",
        absent=2,
        part=(Schedule, "keep_last"),
        display_name="keep last (checkpoints)",
        browser=ADVANCED,
    )
    vae: Any = wire(io.Vae, "For previews.", optional=True)
    mode: str = choice(
        [LORA, FULL],
        LORA,
        "lora: two LoRAs (student and fake score) on one model, which stays as it is. full: the whole network is "
        "trained, in three copies; some 40 bytes of memory for each of its parameters.",
        absent=FULL,
    )
    student_rank: int = whole(
        64,
        1,
        1024,
        "Of the student's LoRA, 1 to 1024. More can learn more, in a larger file. Mode lora only.",
        absent=64,
        part=(LoRAOptions, "student_rank"),
        display_name="student LoRA rank",
        browser=ADVANCED,
    )
    fake_rank: int = whole(
        32,
        1,
        1024,
        "Of the fake score's LoRA, 1 to 1024. Mode lora only.",
        absent=32,
        part=(LoRAOptions, "fake_rank"),
        display_name="fake score LoRA rank",
        browser=ADVANCED,
    )
    lora_targets: str = choice(
        list(TARGETS),
        Defaults.lora_targets,
        "The layers that have a LoRA. Mode lora only.",
        absent=Defaults.lora_targets,
        part=(LoRAOptions, "targets"),
        display_name="LoRA targets",
        browser=ADVANCED,
    )
    micro_batch: int = whole(
        0,
        0,
        4096,
        "At most so many pictures go through the model at once; less takes less memory and learns the same. 0: as many "
        "as fit, by an estimate that is shown before it begins.",
        absent=0,
        display_name="micro-batch (0: automatic)",
        browser=ADVANCED,
    )
    gradient_checkpointing: bool = flag(
        True,
        "Compute activations twice instead of keeping them: much less memory, a third more time.",
        absent=False,
        display_name="gradient checkpointing",
        browser=ADVANCED,
    )
    preset: str = choice(
        [CUSTOM, *PRESETS],
        CUSTOM,
        "Other than 'as set here', it decides mode, batch_size, both learning rates and ema_half_life, and says so; "
        "what is set for these is not used.",
        absent=CUSTOM,
        browser={"first": True, "decides": {name: asdict(values) for name, values in PRESETS.items()}},
    )
    more_sizes: str = text(
        "",
        "Further sizes to learn, in pixels, such as 832x1216, 1216x832. An iteration's pictures are of one of them or "
        "of latent's. Empty: none.",
        absent="",
        display_name="more sizes (pixels)",
        browser=ADVANCED,
    )
    options: Any = wire(Options, "From SiD Training Options: what few need to change.", optional=True)
    images: Any = wire(
        Images, "From SiD Images: real pictures for the adversarial term. Needs the model's vae.", optional=True
    )
    student: Any = wire(
        io.Model,
        "A trained student of the guider's model, from SiD Load Student or another SiD Distill, to begin from (SiD²A). "
        "In mode lora a LoRA of the same rank and layers.",
        optional=True,
    )
    evaluation: Any = wire(
        TrainingEvaluation,
        "From SiD Training Evaluation: keeps the best student, and may end the run early. Takes a vae.",
        optional=True,
    )

    def with_preset(self) -> "Inputs":
        """With the preset's values in place, which are told."""
        if self.preset == CUSTOM:
            return self
        preset = asdict(PRESETS[self.preset])
        log.info("preset %s: %s", self.preset, ", ".join(f"{name} {value}" for name, value in preset.items()))
        return replace(self, **preset)

    def settings(self, guidance: Guidance) -> Settings:
        """All that decides what the run learns."""
        return Settings(
            guidance=guidance,
            t_init=self.t_init or None,
            learning_rate_decay_iterations=self.iterations if self.learning_rate_decay else 0,
            **part(self, Settings),
            **(self.options or {}),
        )

    def schedule(self) -> Schedule:
        """When it is looked at and saved, and when it ends."""
        return Schedule(**part(self, Schedule))

    def lora(self) -> LoRAOptions | None:
        """The LoRAs to train; None in mode full."""
        return LoRAOptions(**part(self, LoRAOptions)) if self.mode == LORA else None
