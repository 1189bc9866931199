"""A run as a folder: run.json, metrics.jsonl, previews/ and its newest checkpoints, for one run at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..words import log
from .atomic import remove_abandoned
from .checkpoint import Changes, Checkpoint, as_written
from .metrics_log import MetricsLog
from .replaced import (
    BEST_STUDENT,
    FIRST_LAYOUT,
    METRICS,
    OWN,
    OWN_PREVIEW,
    PREVIEWS,
    TEACHER_FEATURES,
    delete_outgrown,
    delete_previews,
    numbered,
    put_aside,
    remove_lone_parts,
)
from .run_description import extended, read_description, write_description
from .run_lock import RunLock
from .tensors import NotACheckpointError

LOCK = "run.lock"
STARTED_OVER = "started_over"  # in run.json: whether the run was asked for as one to start over
ENDED_EARLY = "ended_early"  # whether it is finished, though it has fewer iterations than it was to have
__all__ = ["BEST_STUDENT", "TEACHER_FEATURES", "Resumed", "RunFolder"]


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on: the checkpoint, settings that are others now, and why newer checkpoints were not used."""

    checkpoint: Path
    changes: Changes
    broken: tuple[str, ...]


class RunFolder:
    """`with RunFolder(path) as folder:` makes and locks it. Raises RunInUseError where another run has it."""

    def __init__(self, path: Path, keep_last: int = 2):
        if keep_last < 1:
            raise ValueError(f"Set keep_last to 1 or more; it is {keep_last}.")
        self.path, self.keep_last = path, keep_last
        self.previews = path / PREVIEWS
        self.metrics = MetricsLog(path / METRICS)
        self._lock = RunLock(path / LOCK)
        self._description: dict[str, Any] = {}
        self._started_over = False
        self._odd: str | None = None  # what was told of run.json

    def __enter__(self) -> "RunFolder":
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock.__enter__()
        remove_abandoned(self.path, OWN)
        remove_abandoned(self.previews, OWN_PREVIEW)
        return self

    def __exit__(self, *_: object) -> None:
        self.metrics.close()
        self._lock.__exit__()

    def checkpoints(self) -> list[Path]:
        """Oldest first."""
        first = self.path / FIRST_LAYOUT
        return [first] * first.exists() + list(numbered(self.path).values())

    def start_over(self, asked: dict[str, Any]) -> str | None:
        """Put aside the run that is here until the new one has as many iterations; → what is to be said of it.

        asked: settings and identity of the new run. A run that was itself begun by starting over, with the same
        settings, and is not finished, goes on: the same graph is run once more, and was cancelled. Nothing but what a
        run has written is touched.
        """
        again, self._started_over = self._is_asked_again(asked), True
        if again:
            return (
                "The run goes on, as 'start over' began it with these settings and it is not finished. Take another "
                "run_name or seed to begin from nothing."
            )
        aside = put_aside(self.path)
        if aside is None:
            return None
        place, iterations = aside
        return (
            f"The run of {iterations} iterations that was here is in {place.name}, and is deleted when this one has as "
            "many."
        )

    def _is_asked_again(self, asked: dict[str, Any]) -> bool:
        before = self.description()
        same = all(before.get(name) == as_written(facts) for name, facts in asked.items())
        complete = before.get("iteration", 0) >= before.get("schedule", {}).get("iterations", 0)
        finished = complete or before.get(ENDED_EARLY)
        return bool(before.get(STARTED_OVER)) and same and not finished

    def resume(
        self, restore: Callable[[Checkpoint], Changes], read: Callable[[Path], Checkpoint] = Checkpoint.read
    ) -> Resumed | None:
        """Give the newest whole checkpoint to `restore`, and rewind the metrics to it; None where there is none.

        Broken ones get '.broken' behind their name. Raises NotACheckpointError when all are broken, and what `restore`
        raises.
        """
        try:
            resumed = self._resume(restore, read)
        except ValueError:
            self._forget_started_over()
            raise
        return resumed

    def _resume(self, restore: Callable[[Checkpoint], Changes], read: Callable[[Path], Checkpoint]) -> Resumed | None:
        broken: dict[Path, str] = {}
        for file in reversed(self.checkpoints()):
            try:
                checkpoint = read(file)
                changes = restore(checkpoint)
            except NotACheckpointError as error:
                broken[file] = f"{file.name} {error.why.removeprefix('it ')}."
                continue
            for other in broken:
                other.replace(other.with_name(f"{other.name}.broken"))
            self.metrics.rewind(checkpoint.iteration)
            delete_previews(self.path, after=checkpoint.iteration)
            return Resumed(file, changes, tuple(broken.values()))
        if broken:
            raise NotACheckpointError(
                f"Copy {self.path.name} back from where you have it, choose 'start over', or give this run another "
                f"name: none of the {len(broken)} checkpoints in {self.path} can be used. {' '.join(broken.values())}"
            )
        self.metrics.rewind(-1)  # the look at the start comes again
        delete_previews(self.path, after=-1)
        return None

    def _forget_started_over(self) -> None:
        """A run that can't go on is not asked for again: the next 'start over' does start over."""
        before = self.description()
        if before.get(STARTED_OVER):
            write_description(self.path, before | {STARTED_OVER: False}, {"iteration": 0, "images": 0} | before)

    def place_of(self, state: Checkpoint) -> Path:
        """Where `save` writes it."""
        return self.path / f"state_{state.iteration:07}.safetensors"

    def save(self, state: Checkpoint, in_parts: bool = False) -> Path:
        """Write a checkpoint, then delete the oldest beyond `keep_last`, and a run put aside that has no more.

        in_parts: while the other ranks write theirs. Raises OSError when the disk is full; nothing is deleted then.
        """
        checkpoint = self.place_of(state)
        if in_parts:
            state.write_in_parts(checkpoint, leads=True)
        else:
            state.write(checkpoint)
        for old in self.checkpoints()[: -self.keep_last]:
            old.unlink()
        remove_lone_parts(self.path)
        delete_outgrown(self.path, state.iteration)
        write_description(self.path, self._description, state.counters)
        return checkpoint

    def end_early(self) -> None:
        """Note in run.json that the run is finished, though it has fewer iterations than it was to have."""
        self._description |= {ENDED_EARLY: True}
        before = self.description()
        write_description(self.path, before | {ENDED_EARLY: True}, {"iteration": 0, "images": 0} | before)

    def description(self) -> dict[str, Any]:
        """What run.json says; empty where there is none that can be read."""
        description, odd = read_description(self.path)
        if odd and odd != self._odd:
            log.warning("%s", odd)
        self._odd = odd
        return description

    def describe(self, counters: dict[str, Any], description: dict[str, Any], changes: Changes) -> None:
        """Write run.json: `description`, when the run began, how far it is, and all that was ever changed in it.

        counters: at least iteration and images.
        """
        description = description | {STARTED_OVER: self._started_over}
        self._description = extended(self.description(), description, changes, counters["iteration"])
        write_description(self.path, self._description, counters)
