"""How a student of others is to be run, from what is known of it: options, metadata, a JSON beside it, its name."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..files.plain import parse_file
from ..files.student import EXPECTED, PREFIX, StudentInfo
from .errors import ForeignFileError

LONGEST = 100_000  # characters of a JSON beside a file
METHODS = {
    "sida": "sida",
    "sid-alpha": "sida",
    "sid": "sid",
    "batch512_": "sid",  # what SiD's own first files are called, and nothing else
    "dmd2": "dmd2",
    "lightning": "lightning",
    "hyper": "hyper-sd",
    "lcm": "lcm",
    "fastgen": "fastgen",
    "self-forcing": "self-forcing",
    "turbo": "turbo",
}
FLOW_STEPS = 4  # SiD's own flow students
DMD2_T_INIT = {1: 399.0}  # of 1 step; of more, the last of all times
DMD2_LATEST = 999.0
VP_T_INIT, FLOW_T_INIT = 625.0, 1.0


@dataclass(frozen=True)
class Facts:
    """What a student's metadata holds, as far as it is known."""

    steps: int | None = None
    t_init: float | None = None
    guidance: str | None = None
    noise_mode: str | None = None
    method: str | None = None

    def filled(self, others: "Facts") -> "Facts":
        """With what this one lacks from the others."""
        return replace(self, **{name: value for name, value in others if getattr(self, name) is None})

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Those that are known."""
        return ((each.name, value) for each in fields(self) if (value := getattr(self, each.name)) is not None)


def student_info(
    wanted: Facts, place: Path, metadata: Mapping[str, str], base: str, flow: bool
) -> tuple[StudentInfo, str]:
    """The metadata of the student, and in words what of it comes from where.

    wanted: what the user says. place: the file or folder. base: signature. flow: whether the base is a flow model.
    Raises ForeignFileError where the number of steps is not known, or a value is unusable.
    """
    known = {
        "as asked": wanted,
        "by its metadata": from_metadata(metadata, place.name),
        "by the JSON beside it": from_sidecar(place),
        "by its name": from_name(place.name),
    }
    facts = Facts()
    told = []
    for where, given in [*known.items(), ("as usual", None)]:
        given = _usual(facts, flow) if given is None else given
        if news := [f"{name} {value}" for name, value in given if getattr(facts, name) is None]:
            told.append(f"{', '.join(news)} {where}")
        facts = facts.filled(given)
    if facts.steps is None:
        raise ForeignFileError(
            f"Say how many steps {place.name} is for: by --steps N of the command `convert`, or by a file "
            f'{place.stem}.json beside it with {{"steps": N}}. Neither its name nor its metadata tells. An ordinary '
            "model or LoRA is not for this, but for ComfyUI's own loaders."
        )
    info = StudentInfo(**dict(facts), base=base, run=place.stem)
    StudentInfo.from_metadata(info.to_metadata(), place.name)  # refused here, and not when it is read
    return info, "; ".join(told)


def from_metadata(metadata: Mapping[str, str], name: str) -> Facts:
    """Of a safetensors file that one of these tools has written."""
    return _checked({field: _value(metadata.get(PREFIX + field)) for field in _names()}, name)


def from_sidecar(place: Path) -> Facts:
    """NAME.json beside NAME.pkl, or student.json in a folder: a JSON object with any of the fields of `Facts`."""
    file = place / "student.json" if place.is_dir() else place.with_suffix(".json")
    if not file.is_file():
        return Facts()
    try:
        said = parse_file(file, LONGEST)
    except (OSError, ValueError) as error:
        raise ForeignFileError(f"Mend or remove {file.name}: it can't be read as JSON ({error!s:.100}).") from error
    return _checked(said if isinstance(said, dict) else {}, file.name)


def from_name(name: str) -> Facts:
    """Out of names such as batch512_cfg4.54.54.5_t625_8380_v2.pkl and dmd2_sdxl_4step_unet_fp16.bin."""
    low = name.lower()
    method = next((method for word, method in METHODS.items() if word in low), None)
    steps = re.search(r"(?<!\d)(\d{1,3})[-_ ]?steps?(?![a-z])", low)
    t_init = re.search(r"_t(\d{1,4})(?=[_.])", low)
    # Of three equal ones, for three uses; or one alone.
    scale = re.search(r"cfg(\d\.\d|\d)\1\1(?=_)", low) or re.search(r"cfg(\d+(?:\.\d+)?)(?=_)", low)
    count = int(steps[1]) if steps else None
    if count is None and t_init and low.startswith("batch512_"):
        count = 1  # SiD-LSG names the number from two steps on
    time = float(t_init[1]) if t_init else None
    if method == "dmd2" and count and time is None:
        time = DMD2_T_INIT.get(count, DMD2_LATEST)
    return Facts(count, time, f"lsg {scale[1]}" if scale else None, None, method)


def _usual(facts: Facts, flow: bool) -> Facts:
    """What is left to what a student of that kind is, as a rule."""
    steps = FLOW_STEPS if flow and facts.method in ("sid", "sida") else None
    return Facts(steps, FLOW_T_INIT if flow else VP_T_INIT, "unknown", "fresh", "unknown")


def _checked(said: Mapping[str, Any], name: str) -> Facts:
    usable = {field: value for field in _names() if (value := said.get(field)) is not None}
    for field, value in usable.items():
        is_usable, expected = EXPECTED[field]
        if not is_usable(value):
            raise ForeignFileError(f"Mend {field} in {name}: it is {value!r:.40}, and has to be {expected}.")
    return Facts(**usable)


def _names() -> list[str]:
    return [field.name for field in fields(Facts)]


def _value(said: str | None) -> Any:
    try:
        return None if said is None else json.loads(said[:LONGEST])
    except (ValueError, RecursionError):
        return said
