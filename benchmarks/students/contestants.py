"""Who is in the race, and the grid that each is tuned on, written before any run. README.md says why these."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sid_pack.sid_core.method.guidance import Guidance
from sid_pack.sid_core.training.settings import Settings

SID, DMD2, LCM = "SiD", "DMD2", "LCM"  # how a student is trained
RATES = (5e-4, 1e-3, 2e-3)  # of the student; each method has them all
SID_FAKE_RATE = 2.0  # times the student's, as the demo's own students have it
GUIDANCES = (2.0, 3.0, 4.5)
ADVERSARIAL_WEIGHTS = (1e-3, 3e-3, 1e-2)
ADVERSARIAL_WARM_UP = 160  # images: a quarter of a trial, all of which the product's default would take
STUDENT_RANK, FAKE_RANK = 12, 16
LORA_TARGETS = "all linear and convolution layers"
EMA_HALF_LIFE = 1000.0  # images
STEPS = (4, 2, 1)
T_INITS = (625.0, 800.0, 999.0)
THEIR_T_INIT = {SID: 625.0, DMD2: 999.0, LCM: 999.0}  # in their authors' way


@dataclass(frozen=True)
class Choice:
    """One cell of the grid: the student's learning rate, the method's own knob, and its t_init, None for its own."""

    rate: float
    knob: float
    t_init: float | None = None

    @property
    def name(self) -> str:
        start = f"_t_init_{self.t_init:g}" if self.t_init else ""
        return f"rate_{self.rate:g}_knob_{self.knob:g}{start}"


@dataclass(frozen=True)
class Contestant:
    """name: in files and on the command line. title: in tables. trainer: SID, DMD2 or LCM.

    knob: what the method's own knob is, with the values to try; guidance(knob) → the scales. settings(knob): further
    `Settings`. real_pictures: whether it learns from them. begins_from: the contestant whose student it starts as.
    beta1: of Adam, as the authors have it. tuned_as: the contestant whose tuning it takes. longer: its images, as a
    multiple of the others'.
    """

    name: str
    title: str
    trainer: str
    knob: str
    knobs: tuple[float, ...]
    guidance: Any
    settings: Any = field(default=lambda knob: {})
    real_pictures: bool = False
    begins_from: str | None = None
    fake_rate: float = SID_FAKE_RATE
    beta1: float = 0.0
    tuned_as: str | None = None
    longer: float = 1.0

    def grid(self) -> list[Choice]:
        """All rates at the middle value of the knob, then its other values at the middle rate."""
        if self.tuned_as:
            return []
        rate, knob = RATES[len(RATES) // 2], self.knobs[len(self.knobs) // 2]
        return [Choice(r, knob) for r in RATES] + [Choice(rate, k) for k in self.knobs if k != knob]

    @property
    def t_init(self) -> float:
        """The noisiest time of a student, as its authors have it."""
        return THEIR_T_INIT[self.trainer]

    def other_t_inits(self) -> list[float]:
        """What the best of the grid is tried from after it. One that begins as a student keeps that one's."""
        return [] if self.begins_from else [t for t in T_INITS if t != self.t_init]

    def trained_for(self, steps: int) -> int:
        """An LCM is of no number of steps: the one tuned for 4 is sampled in 2 as well."""
        return tuned_at(steps) if self.trainer == LCM else steps

    def waits_for(self) -> list[str]:
        """Settings that it takes and this version of the product does not have."""
        return sorted(self.settings(self.knobs[0]).keys() - {one.name for one in fields(Settings)})

    def run_settings(self, choice: Choice, steps: int, seed: int, batch: int, iterations: int) -> Settings:
        """All that decides what is learnt. The rates fall along half a cosine to zero at the end."""
        common = Settings(
            self.guidance(choice.knob),
            steps=steps,
            t_init=choice.t_init or self.t_init,
            batch=batch,
            student_learning_rate=choice.rate,
            fake_learning_rate=self.fake_rate * choice.rate,
            learning_rate_decay_iterations=iterations,
            ema_half_life_images=EMA_HALF_LIFE,
            seed=seed,
        )
        return replace(common, **self.settings(choice.knob))


def tuned_at(steps: int) -> int:
    """The number of steps whose tuning decides for a student of so many: 1 for its own, 4 for more."""
    return 1 if steps == 1 else 4


def of(**settings: Any) -> Any:
    """The same further settings for every knob."""
    return lambda knob: settings


def adversarial(knob: float) -> Mapping[str, Any]:
    return {"adversarial_weight": knob, "adversarial_warm_up": ADVERSARIAL_WARM_UP}


def teacher_alone(name: str) -> Any:
    """Scales of a method that guides its teacher, and not its fake score."""
    return lambda knob: Guidance(1.0, 1.0, knob, name)


DMD2_SETTINGS = of(fake_updates=5, caption_dropout=0.0, gradient_norm=10.0)
ADVERSARIAL = {"knob": "weight of the adversarial term", "knobs": ADVERSARIAL_WEIGHTS, "settings": adversarial}
LSG_SCALE = 2.0  # where another knob is tried
ZERO, ANTI, LSG = (
    (lambda knob: Guidance.zero_cfg()),
    (lambda knob: Guidance.anti_cfg()),
    (lambda knob: Guidance.lsg(LSG_SCALE)),
)
CONTESTANTS = (
    Contestant("sid_lsg", "SiD, LSG", SID, "guidance scale κ", GUIDANCES, Guidance.lsg),
    Contestant(
        "sid_lsg_long",
        "SiD, LSG, as many forwards as DMD2",
        SID,
        "guidance scale κ",
        GUIDANCES,
        Guidance.lsg,
        tuned_as="sid_lsg",
        longer=2.5,
    ),
    Contestant(
        "sid_lsg_follows",
        "SiD, LSG, 3 updates of the fake score",
        SID,
        "guidance scale κ",
        GUIDANCES,
        Guidance.lsg,
        of(fake_updates=3),
        tuned_as="sid_lsg",
    ),
    Contestant(
        "sid_teacher",
        "SiD, teacher guided, 3 updates",
        SID,
        "teacher's guidance scale",
        GUIDANCES,
        teacher_alone("teacher"),
        of(fake_updates=3, caption_dropout=0.0),
        fake_rate=1.0,
        tuned_as="dmd2",
    ),
    Contestant("sid_zero", "SiD, Zero-CFG", SID, "α of the loss", (0.8, 1.0, 1.2), ZERO, lambda knob: {"alpha": knob}),
    Contestant("sid_anti", "SiD, Anti-CFG", SID, "fake score's scale κ", (-0.5, -1.0, -2.0), Guidance.anti_cfg),
    Contestant("sida_lsg", "SiD, LSG, adversarial", SID, guidance=LSG, real_pictures=True, **ADVERSARIAL),
    Contestant("sida_zero", "SiD, Zero-CFG, adversarial", SID, guidance=ZERO, real_pictures=True, **ADVERSARIAL),
    Contestant("sida_anti", "SiD, Anti-CFG, adversarial", SID, guidance=ANTI, real_pictures=True, **ADVERSARIAL),
    Contestant("sid2a_lsg", "SiD²A, LSG", SID, guidance=LSG, real_pictures=True, begins_from="sid_lsg", **ADVERSARIAL),
    Contestant(
        "sid2a_zero", "SiD²A, Zero-CFG", SID, guidance=ZERO, real_pictures=True, begins_from="sid_lsg", **ADVERSARIAL
    ),
    Contestant(
        "dmd2",
        "DMD2-style, without GAN",
        DMD2,
        "teacher's guidance scale",
        GUIDANCES,
        teacher_alone("dmd2"),
        DMD2_SETTINGS,
        fake_rate=1.0,
        beta1=0.9,
    ),
    Contestant(
        "dmd2_gan",
        "DMD2-style, with GAN",
        DMD2,
        "teacher's guidance scale",
        GUIDANCES,
        teacher_alone("dmd2"),
        DMD2_SETTINGS,
        real_pictures=True,
        fake_rate=1.0,
        beta1=0.9,
    ),
    Contestant(
        "lcm",
        "LCM-style",
        LCM,
        "teacher's guidance scale 1 + ω",
        GUIDANCES,
        teacher_alone("lcm"),
        of(gradient_norm=1.0),
        real_pictures=True,
        beta1=0.9,
    ),
)
BY_NAME = {contestant.name: contestant for contestant in CONTESTANTS}


@dataclass(frozen=True)
class Sizes:
    """What a race is of, the same for all. images: that the student is updated on, in all; trial_images: in a trial.

    seeds: of the trainings. captions: of each set that is drawn to measure, None for all; trial_captions: in a trial.
    draws: times that the captions are drawn for a student's scores.
    """

    batch: int
    images: int
    trial_images: int
    seeds: tuple[int, ...]
    captions: int | None
    trial_captions: int
    draws: int

    @property
    def name(self) -> str:
        """A race of other sizes is kept apart."""
        captions = self.captions or "all"
        return f"{self.images}_by_{self.batch}_trials_{self.trial_images}_captions_{captions}"


TRIAL_SHARE = 4  # a trial is as long as a training over this, near enough
TRIAL_SEED = 1000  # of trainings and drawings: no other run has it


def full_sizes(images: int) -> Sizes:
    batch = 16
    return Sizes(batch, whole(images, batch), whole(images // TRIAL_SHARE, batch), (0, 1, 2), 512, 256, 1)


def quick_sizes(images: int) -> Sizes:
    """To see that everything works: the numbers mean nothing."""
    batch = 8
    return Sizes(batch, whole(images, batch), whole(images // TRIAL_SHARE, batch), (0,), 64, 32, 1)


FULL_IMAGES, QUICK_IMAGES = 2560, 160


def whole(images: int, batch: int) -> int:
    """As whole batches, one at least."""
    return max(1, round(images / batch)) * batch
