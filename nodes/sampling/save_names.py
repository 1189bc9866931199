"""Where SiD Save Student writes: out of what is typed as filename_prefix, a name where the loaders look."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from ...sid_core.words import unquoted
from ..host.folder_names import RESERVED
from .student_list import LORA, WHOLE

FORBIDDEN = r'<>:"|?*'  # on Windows, where files are copied to as well
LONGEST = 200  # bytes of a name; file systems take 255, and a number is added
DATE = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyyy|yy")
# As ComfyUI names them for its own save nodes, and its browser the same.
NOW = {"year": "yyyy", "month": "MM", "day": "dd", "hour": "hh", "minute": "mm", "second": "ss"}


def expanded(prefix: str, now: datetime, prompt: Mapping[str, Any]) -> str:
    """With %date:yyyy-MM-dd%, %year% … %second% and %Node.widget% replaced; others stay as they are.

    ComfyUI's browser does so for its own save nodes alone. prompt: the graph in API format, whose nodes are meant by
    their class or title.
    """

    def replaced(match: re.Match) -> str:
        name = match[1]
        if name.startswith("date:"):
            return _date(name.removeprefix("date:"), now)
        if name in NOW:
            return _date(NOW[name], now)
        node, dot, widget = name.partition(".")
        value = _widget(node, widget, prompt) if dot else None
        return match[0] if value is None else re.sub(r'[/?<>\\:*|"\x00-\x1f\x7f]', "_", value)

    return re.sub("%([^%]+)%", replaced, prefix)


def place(prefix: str, output: Path) -> PurePosixPath:
    """The file's folder and name below output/loras or output/diffusion_models, whose names it may begin with.

    Raises ValueError for what can't be a file on every system, or would lie elsewhere.
    """
    text = unquoted(prefix).replace("\\", "/").removeprefix(f"{output.as_posix()}/")
    if text.startswith("/"):
        raise _refused(text, "it is the path of another folder")
    parts = [_part(part) for part in text.split("/") if part.strip() not in ("", ".")]
    parts = parts[1:] if len(parts) > 1 and parts[0] in (WHOLE, LORA) else parts
    if not parts:
        raise _refused(text, "it is empty")
    return PurePosixPath(*parts)


def numbered_names(output: Path, where: PurePosixPath) -> Iterator[str]:
    """Names for a new student, from the first number that neither a whole one nor a LoRA of that name has."""
    pattern = re.compile(rf"{re.escape(where.name)}_(\d{{1,15}})_.*", re.IGNORECASE)
    folders = [folder for kind in (WHOLE, LORA) if (folder := output / kind / where.parent).is_dir()]
    taken = [
        int(match[1]) for folder in folders for file in folder.iterdir() if (match := pattern.fullmatch(file.name))
    ]
    return (f"{where.name}_{number:05}_.safetensors" for number in count(max(taken, default=0) + 1))


def _part(part: str) -> str:
    name = part.strip().rstrip(". ")  # Windows leaves these out at the end
    if not name or name.startswith("."):
        raise _refused(part, "a name that begins with a dot is hidden, or another folder")
    odd = sorted({letter for letter in name if letter in FORBIDDEN or ord(letter) < 32 or ord(letter) == 127})
    if odd:
        raise _refused(name, f"{' '.join(map(repr, odd))} can't be in a file's name")
    if RESERVED.fullmatch(name):
        raise _refused(name, "Windows has devices of that name")
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST:
        raise _refused(name, f"it has more than {LONGEST} bytes")
    if any(0xD800 <= ord(letter) < 0xE000 for letter in name):
        raise _refused(name, "half a letter is in it")
    return name


def _refused(text: str, why: str) -> ValueError:
    return ValueError(
        f"Type a plain name into filename_prefix, such as sid_student or cats/red: {text!r:.60} can't be saved to, as "
        f"{why}."
    )


def _date(pattern: str, now: datetime) -> str:
    values = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def value(match: re.Match) -> str:
        token = match[0]
        return str(now.year)[4 - len(token) :] if token[0] == "y" else str(values[token[0]]).zfill(len(token))

    return DATE.sub(value, pattern)


def _widget(name: str, widget: str, prompt: Mapping[str, Any]) -> str | None:
    """The value typed into the first node of that class, else of that title, as the browser would write it."""
    titled = [node for node in prompt.values() if (node.get("_meta") or {}).get("title") == name]
    named = [node for node in prompt.values() if node.get("class_type") == name] + titled
    value = named[0].get("inputs", {}).get(widget) if named else None
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, float) else str(value) if isinstance(value, int | str) else None
