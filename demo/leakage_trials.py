"""What leakage.py measures: an image prompt at several weights, and the ways of cleaning it that METHOD.md §5 names.

Their authors' settings at several weights; then at the working weight one setting moved at a time.
"""

from dataclasses import asdict, dataclass

from drawing import Setting
from pictures import ASSETS

TEACHER = Setting(10, "dpmpp_2m", "karras", 4.0, name="teacher, CFG 4")
UNGUIDED = Setting(10, "dpmpp_2m", "karras", 1.0, name="teacher, CFG 1")
STUDENT = Setting(4, student=ASSETS / "student_4_steps.safetensors", name="student, CFG 1")
SAMPLERS = (TEACHER, STUDENT, UNGUIDED)

WORKING_WEIGHT = 1.0  # as the image prompt was trained
WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25)
CLEANED_WEIGHTS = (0.4, 0.6, 0.8, 1.0)
PARTS = ("input", "middle", "output")  # of the network; the nodes' block_list takes these names
LATE = 0.6  # a student begins at 37 % of the way, where suppression with the authors' centre of 0.3 is nearly over


@dataclass(frozen=True)
class Trial:
    """What to measure.

    weight: the image prompt's. way: what to call what is done to it. clean: CleanStyle's `purify.Settings` where they
    are not the default, None for without. put_in, cleaned_in: the part that has the image prompt, and in which it is
    cleaned; "" for all.
    """

    draw: Setting
    weight: float
    way: str = ""
    clean: dict | None = None
    put_in: str = ""
    cleaned_in: str = ""

    @property
    def title(self) -> str:
        if self.weight == 0:
            return "no image prompt"
        return f"{self.way}{', ' if self.way else ''}weight {self.weight:g}"

    @property
    def is_plain(self) -> bool:
        """Whether it is a point of the curve that others are compared with."""
        return self.clean is None and not self.put_in

    @property
    def key(self) -> dict:
        """All of it that changes pictures, as JSON has it."""
        draw = asdict(self.draw) | {"student": self.draw.student and self.draw.student.name}
        return asdict(self) | {"draw": draw}


def svd(alpha: float, **settings) -> dict:
    """CS-SVD alone."""
    return {"alpha": alpha, "style_negative": "off"} | settings


def ss_cfg(alpha: float, kind: str, **settings) -> dict:
    """CS-SVD and SS-CFG."""
    return {"alpha": alpha, "style_negative": kind} | settings


def away(alpha: float, kind: str, strength: float, **settings) -> dict:
    """CS-SVD and attention-negative."""
    return {"alpha": alpha, "style_negative": kind, "attention_strength": strength} | settings


def all_trials(weight: float = WORKING_WEIGHT) -> list[Trial]:
    """The plain image prompt first, for each sampler."""
    plain = [Trial(draw, w) for draw in SAMPLERS for w in sorted({0.0, *WEIGHTS, weight})]
    at_one, at_several = (weight,), tuple(sorted({*CLEANED_WEIGHTS, weight}))
    return [
        *plain,
        *guided_trials(weight, at_several),
        *unguided_trials(STUDENT, at_several),
        *unguided_trials(UNGUIDED, at_one),
    ]


def guided_trials(weight: float, weights: tuple[float, ...]) -> list[Trial]:
    ways = {
        "CS-SVD α 0.01": svd(0.01),
        "CS-SVD α 0.1": svd(0.1),
        "CS-SVD α 0.01, SS-CFG soft 0.2": ss_cfg(0.01, "soft"),
        "CS-SVD α 0.01, SS-CFG hard": ss_cfg(0.01, "hard"),
    }
    sweep = {f"CS-SVD α {alpha:g}": svd(alpha) for alpha in (0.03, 0.3, 1)}
    sweep |= {f"CS-SVD α {alpha:g} of σ/σ₁": svd(alpha, relative=True) for alpha in (1, 3, 10)}
    for k in (2, 4):
        sweep[f"CS-SVD α 0.1, k {k}"] = svd(0.1, top_k=k)
        sweep[f"CS-SVD α 3 of σ/σ₁, k {k}"] = svd(3, top_k=k, relative=True)
        sweep[f"CS-SVD α 0.01, SS-CFG hard, k {k}"] = ss_cfg(0.01, "hard", top_k=k)
    sweep |= {f"CS-SVD α {alpha:g}, centre {c:g}": svd(alpha, center=c) for c in (0.6, 1.0) for alpha in (0.01, 0.1)}
    sweep |= {f"SS-CFG soft {a:g} alone": ss_cfg(0.0, "soft", negative_alpha=a) for a in (0.2, 0.05)}
    sweep["SS-CFG soft 5 of σ/σ₁ alone"] = ss_cfg(0.0, "soft", negative_alpha=5.0, relative=True)
    sweep["SS-CFG hard alone"] = ss_cfg(0.0, "hard")
    sweep["CS-SVD α 0.1, SS-CFG hard"] = ss_cfg(0.1, "hard")
    sweep["CS-SVD α 3, SS-CFG soft 5, both of σ/σ₁"] = ss_cfg(3.0, "soft", negative_alpha=5.0, relative=True)
    trials = [Trial(TEACHER, w, way, clean) for way, clean in ways.items() for w in weights]
    trials += [Trial(TEACHER, weight, way, clean) for way, clean in sweep.items()]
    for part in PARTS:
        trials.append(Trial(TEACHER, weight, f"in the {part} part alone", put_in=part))
        trials.append(Trial(TEACHER, weight, f"CS-SVD α 0.1 in the {part} part alone", svd(0.1), cleaned_in=part))
    return trials


def unguided_trials(draw: Setting, weights: tuple[float, ...]) -> list[Trial]:
    """At CFG 1 SS-CFG does nothing, and attention-negative takes its place."""
    ways = {
        "CS-SVD α 0.01": svd(0.01),
        f"CS-SVD α 0.1, centre {LATE}": svd(0.1, center=LATE),
        f"CS-SVD α 1, centre {LATE}": svd(1, center=LATE),
        f"CS-SVD α 3 of σ/σ₁, centre {LATE}": svd(3, center=LATE, relative=True),
    }
    for kind in ("soft", "hard"):
        for strength in (1, 3):
            ways[f"CS-SVD α 0.1, centre {LATE}, attention-negative {kind} {strength}"] = away(
                0.1, kind, strength, center=LATE
            )
    for strength in (1, 3):
        ways[f"CS-SVD α 3, attention-negative soft 5, both of σ/σ₁, centre {LATE}, {strength}"] = away(
            3.0, "soft", strength, center=LATE, negative_alpha=5.0, relative=True
        )
    ways[f"attention-negative hard 1, k 2, centre {LATE}"] = away(0.0, "hard", 1, center=LATE, top_k=2)
    return [Trial(draw, w, way, clean) for way, clean in ways.items() for w in weights]


def sheet_trials(weight: float = WORKING_WEIGHT) -> list[Trial]:
    """The rows of the contact sheet, below the style pictures."""
    return [
        Trial(TEACHER, 0.0),
        Trial(TEACHER, weight),
        Trial(TEACHER, weight, "CS-SVD α 0.1", svd(0.1)),
        Trial(TEACHER, weight, "CS-SVD α 0.01, SS-CFG hard", ss_cfg(0.01, "hard")),
        Trial(STUDENT, weight, "student"),
        Trial(STUDENT, weight, "student, attention-negative hard 1", away(0.1, "hard", 1, center=LATE)),
    ]
