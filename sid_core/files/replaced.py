"""What a run writes into its folder, and how it is put aside for another run there until that has outgrown it.

Nothing but files of a run's own names is moved or deleted, and no link is followed.
"""

import contextlib
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from .checkpoint import Checkpoint
from .metrics_log import MetricsLog
from .parts import remove_parts
from .tensors import NotACheckpointError

PREVIEWS = "previews"
REPLACED = "replaced"
FIRST_LAYOUT = "state.safetensors"  # the one checkpoint of a run of version 0.1.0
METRICS = "metrics.jsonl"
NUMBERED = re.compile(r"state_(\d+)\.safetensors")
NUMBERED_PARTS = r"state_\d+\.parts"  # folders, see `folder_of_parts`
BEST_STUDENT, TEACHER_FEATURES = "best.safetensors", "teacher_features.safetensors"
OWN = (
    r"(run\.json|metrics\.jsonl|state(_\d+)?\.safetensors)(\.broken)?|curves\.png"
    r"|best\.safetensors|teacher_features\.safetensors"
)
TEACHER_PREVIEW = "teacher.png"
OWN_PREVIEW = rf"preview_\d+\.png|{re.escape(TEACHER_PREVIEW)}"


def preview_name(iteration: int) -> str:
    """Of the picture of that iteration, in the run's folder of previews."""
    return f"preview_{iteration:07}.png"


def delete_previews(folder: Path, after: int) -> None:
    """Of later iterations than that, which are to come again; where that is all of them, the teacher's as well."""
    previews = folder / PREVIEWS
    if previews.is_symlink() or not previews.is_dir():
        return
    for file in previews.iterdir():
        number = re.fullmatch(r"preview_(\d+)\.png", file.name)
        if (int(number[1]) > after) if number else (after < 0 and file.name == TEACHER_PREVIEW):
            file.unlink()


def numbered(folder: Path) -> dict[int, Path]:
    """The checkpoints by their iteration, the lowest first."""
    found = {int(match[1]): file for file in folder.iterdir() if (match := NUMBERED.fullmatch(file.name))}
    return {iteration: found[iteration] for iteration in sorted(found)}


def put_aside(folder: Path) -> tuple[Path, int] | None:
    """Move the run in a folder into a folder within; → which, and of how many iterations it is. None: there is none."""
    own = list(_own_files(folder))
    if not own:
        return None
    aside = next(place for place in _places(folder) if not (place.is_symlink() or place.exists()))
    iterations = _iterations(folder)
    for file in [*own, *_parts(folder)]:
        target = aside / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    return aside, iterations


def delete_outgrown(folder: Path, iteration: int) -> None:
    """Delete the runs put aside in a folder that have no more iterations than this."""
    places = (place for place in folder.glob(f"{REPLACED}*") if re.fullmatch(rf"{REPLACED}(_\d+)?", place.name))
    for aside in places:
        if aside.is_dir() and not aside.is_symlink() and _iterations(aside) <= iteration:
            for file in list(_own_files(aside)):
                file.unlink()
            remove_lone_parts(aside)
            for emptied in (aside / PREVIEWS, aside):
                with contextlib.suppress(OSError):  # not there, or somebody has put something in
                    emptied.rmdir()


def remove_lone_parts(folder: Path) -> None:
    """Delete the parts of checkpoints that are not there, or not any more."""
    for parts in _parts(folder):
        if not parts.with_suffix(".safetensors").exists():
            remove_parts(parts)


def _parts(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if re.fullmatch(NUMBERED_PARTS, entry.name)]


def _places(folder: Path) -> Iterator[Path]:
    return (folder / (f"{REPLACED}_{i}" if i > 1 else REPLACED) for i in count(1))


def _own_files(folder: Path) -> Iterator[Path]:
    previews = folder / PREVIEWS
    for place, pattern in ((folder, OWN), (previews, OWN_PREVIEW)):
        if place == folder or (place.is_dir() and not place.is_symlink()):
            # A link is an entry like any other: it is moved or deleted itself, and not what it points to.
            yield from (
                file
                for file in place.iterdir()
                if re.fullmatch(pattern, file.name) and (file.is_symlink() or file.is_file())
            )


def _iterations(folder: Path) -> int:
    """How far the run in a folder had come."""
    if found := numbered(folder):
        return max(found)
    try:
        return Checkpoint.read(folder / FIRST_LAYOUT).iteration
    except NotACheckpointError:  # none, most often
        return max((row["iteration"] for row in MetricsLog(folder / METRICS).rows()), default=0)
