"""What SiD Load Student says of the student that it has put onto a MODEL, and of what to expect there."""

from comfy.model_patcher import ModelPatcher

from .attached import attached_lora, student_info
from .base import distance_to_base

LORA = (
    "Look at the pictures before you rely on them: this MODEL's weights differ by some {difference} from those that "
    "the student was distilled from, and the further they do, the less sharp. To have them sharp, distil this MODEL, "
    "beginning from the student (SiD Distill's student)."
)
WHOLE = (
    "Make a LoRA of the student (SiD Extract LoRA) to keep what this MODEL has learnt: its weights differ by some "
    "{difference} from those that the student was distilled from, and a whole network takes their place."
)


def told_of(student: ModelPatcher, model: ModelPatcher, strength: float) -> list[str]:
    """A line on the student, and one on its base where that has other weights than those it was distilled from.

    model: the one that it was put onto.
    """
    info, whole = student_info(student), attached_lora(student) is None
    kind = "a whole network" if whole else "a LoRA"
    at = f", at strength {strength:g}" if strength != 1 else ""
    told = [f"{kind}, {info.steps} step{'s' * (info.steps > 1)} from t_init {info.t_init:g}{at}"]
    distance = distance_to_base(info, model)
    if distance is not None and not distance.is_same:
        said = WHOLE if whole else LORA
        told.append("⚠ " + said.format(difference=f"{100 * distance.difference:.2g} %"))
    return told
