"""An evaluation as a table and as JSON: beside each number stand how many pictures and which features it is from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...sid_core.evaluation.jackknife import Estimate
from .measuring import DISTANCES, METRICS, Measured

ABOUT = (
    "± is half of a 95 % interval: delete-a-group jackknife over up to 10 parts of the prompts; for precision and "
    "recall with the other pictures as they are. Seconds are the middle batch's; they and forwards have none."
)


@dataclass(frozen=True)
class Setting:
    """What all rows have in common. features: the network, or why there is none."""

    prompts: int
    in_group: int
    size: str
    seed: int
    teacher: str
    features: str
    reference: str
    reference_pictures: int

    def lines(self) -> list[str]:
        used = f"{self.prompts:,} prompt{'s' * (self.prompts != 1)}"
        return [
            f"Distances: to {self.reference}.",
            f"Features: {self.features}.",
            f"Pictures: {self.size}, of {used}, {self.in_group} of each; seed {self.seed}; teacher: {self.teacher}.",
            ABOUT,
        ]


def table(measured: Sequence[Measured], setting: Setting) -> str:
    """Markdown. What can't be computed is a number in brackets, which says below why."""
    notes: list[str] = []
    head = ["model", "pictures", *METRICS]
    lines = [_row(head), _row(["---", *["---:"] * (len(head) - 1)])]
    for row in measured:
        cells = [row.label, _against(row, setting)]
        for name in METRICS:
            value = row.values[name]
            remark = value if isinstance(value, str) else row.remarks.get(name)
            cell = "–" if isinstance(value, str) else shown(value)
            cells.append(f"{cell} [{_note(remark, notes)}]" if remark else cell)
        lines.append(_row(cells))
    said = [f"[{i}] {note}" for i, note in enumerate(notes, 1)]
    return "\n".join([*lines, "", *(f"- {line}" for line in [*said, *setting.lines()])])


def shown(value: Estimate) -> str:
    """Such as '0.0123 ± 0.0011'."""
    margin = "" if value.margin is None else f" ± {value.margin:.2g}"
    return f"{value.value:.3g}{margin}"


def as_json(measured: Sequence[Measured], setting: Setting) -> dict[str, Any]:
    """Each number with all that it is from; null and `why` where there is none."""
    return {
        "setting": vars(setting) | {"interval": ABOUT},
        "models": [{"model": row.label, "pictures": row.pictures} | _entries(row, setting) for row in measured],
    }


def _entries(row: Measured, setting: Setting) -> dict[str, Any]:
    entries = {}
    for name in METRICS:
        value = row.values[name]
        entry = {"value": None, "why": value} if isinstance(value, str) else vars(value).copy()
        entry |= {"pictures": row.pictures, "features": setting.features}
        if name in DISTANCES:
            entry |= {"reference": setting.reference, "reference_pictures": setting.reference_pictures}
        if name in row.remarks:
            entry["remark"] = row.remarks[name]
        entries[name] = entry
    return {"metrics": entries}


def _against(row: Measured, setting: Setting) -> str:
    compared = any(isinstance(row.values[name], Estimate) for name in DISTANCES)
    return f"{row.pictures:,}" + (f" to {setting.reference_pictures:,}" if compared else "")


def _note(remark: str, notes: list[str]) -> int:
    if remark not in notes:
        notes.append(remark)
    return notes.index(remark) + 1


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '¦').replace(chr(10), ' ') for cell in cells)} |"
