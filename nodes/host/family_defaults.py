"""What a family's students are trained and sampled with where the user says nothing else, each value with its source.

Which family has which of these stands in families.py. All of it can be set otherwise: on SiD Distill with the preset
'as set here', on SiD Scheduler and SiD Generate by a t_init above 0.
"""

from dataclasses import dataclass

from ...sid_core.training.adapters import DEFAULT_TARGETS

LORA, FULL = "lora", "full"  # SiD Distill's modes


@dataclass(frozen=True)
class Preset:
    """Values that belong together, by the names of the inputs of SiD Distill that they take the place of."""

    mode: str
    batch_size: int
    student_learning_rate: float
    fake_learning_rate: float
    ema_half_life: float  # images


@dataclass(frozen=True)
class Defaults:
    """name: what its presets are called after. flow: the process that t_init is a time of; a MODEL that a
    ModelSampling… node has made of the other kind has that one's usual t_init.

    t_init: the time of a student's first step. shift: of the times between, for flow. steps: that it is trained for.
    lora_targets: the layers of its LoRA, see `find_targets`.
    """

    name: str
    flow: bool
    t_init: float
    lora: Preset
    full: Preset
    shift: float = 1.0  # none: SiD-DiT (arXiv 2509.25127) trains without, whatever the family is sampled with elsewhere
    steps: int = 4  # few-step SiD (2505.12674) and SiD-DiT: students of 1 to 4, of which 4 draw best
    lora_targets: str = DEFAULT_TARGETS  # ours: no SiD paper trains a LoRA

    def preset(self, mode: str) -> str:
        """The name in PRESETS of its preset for that mode."""
        return f"{self.name}, {'LoRA' if mode == LORA else mode}"


# t_init and full: SiD-LSG (arXiv 2406.01561). LoRA: the student's rate is that of the field's LoRA distillations
# (DMD2, 2405.14867: 5e-5); the fake score's, the batch for one GPU and the average are ours, not tried on real weights.
SD15 = Defaults(
    "SD1.5",
    flow=False,
    t_init=625,
    lora=Preset(LORA, 32, 5e-5, 1e-4, 2_000),
    full=Preset(FULL, 512, 1e-6, 1e-6, 50_000),
)
# The few-step paper does not say SDXL's rates and batch, so they are SD1.5's; ours, as is half the batch of a LoRA.
SDXL = Defaults(
    "SDXL",
    flow=False,
    t_init=625,
    lora=Preset(LORA, 16, 5e-5, 1e-4, 1_000),
    full=Preset(FULL, 512, 1e-6, 1e-6, 50_000),
)
# t_init, and of full the batch and the rates: SiD-DiT's in mixed precision. Its average is not known: SiD-LSG's, as all
# of LoRA is SDXL's, for none was published; ours.
FLOW = Defaults(
    "flow models",
    flow=True,
    t_init=1.0,
    lora=Preset(LORA, 16, 5e-5, 1e-4, 1_000),
    full=Preset(FULL, 256, 1e-6, 1e-6, 50_000),
)
# By the names that SiD Distill has for them, which saved graphs have: new ones go to the end.
PRESETS = {
    "SD1.5, LoRA": SD15.lora,
    "SDXL, LoRA": SDXL.lora,
    "SD1.5, full": SD15.full,
    "SDXL, full": SDXL.full,
    "flow models, LoRA": FLOW.lora,
    "flow models, full": FLOW.full,
}
