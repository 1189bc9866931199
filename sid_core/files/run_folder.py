"""A run as a folder: run.json, metrics.jsonl, previews/ and its newest checkpoints, for one run at a time."""

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .atomic import remove_abandoned, replacing
from .checkpoint import Changes, Checkpoint
from .metrics_log import MetricsLog
from .run_lock import RunLock
from .tensors import NotACheckpointError

FIRST_LAYOUT = "state.safetensors"  # the one checkpoint of a run of version 0.1.0
LOCK = "run.lock"
REPLACED = "replaced"


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
            raise ValueError(f"keep_last is {keep_last}; expected 1 or more")
        self.path, self.keep_last = path, keep_last
        self.previews = path / "previews"
        self.metrics = MetricsLog(path / "metrics.jsonl")
        self._lock = RunLock(path / LOCK)
        self._description: dict[str, Any] = {}

    def __enter__(self) -> "RunFolder":
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock.__enter__()
        remove_abandoned(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        self.metrics.close()
        self._lock.__exit__()

    def checkpoints(self) -> list[Path]:
        """Oldest first."""
        numbered = {
            int(match[1]): file
            for file in self.path.glob("state_*.safetensors")
            if (match := re.fullmatch(r"state_(\d+)\.safetensors", file.name))
        }
        first = self.path / FIRST_LAYOUT
        return [first] * first.exists() + [numbered[iteration] for iteration in sorted(numbered)]

    def start_over(self) -> None:
        """Put aside what is here. It is deleted when the new run saves for the first time, so till then no run is lost.

        Leftovers of a run without a checkpoint are deleted, and an older run put aside stays.
        """
        aside = self.path / REPLACED
        worth_keeping = bool(self.checkpoints())
        if worth_keeping and aside.exists():
            shutil.rmtree(aside)
        for entry in list(self.path.iterdir()):
            if entry.name in (LOCK, REPLACED):
                continue
            if worth_keeping:
                aside.mkdir(exist_ok=True)
                entry.rename(aside / entry.name)
            elif entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def resume(self, restore: Callable[[Checkpoint], Changes]) -> Resumed | None:
        """Give the newest whole checkpoint to `restore`, and rewind the metrics to it; None where there is none.

        Broken ones get '.broken' behind their name. Raises NotACheckpointError when all are broken, and what `restore`
        raises.
        """
        broken: dict[Path, str] = {}
        for checkpoint in reversed(self.checkpoints()):
            try:
                state = Checkpoint.read(checkpoint)
                changes = restore(state)
            except NotACheckpointError as error:
                broken[checkpoint] = str(error)
                continue
            for file in broken:
                file.rename(file.with_name(file.name + ".broken"))
            self.metrics.rewind(state.iteration)
            return Resumed(checkpoint, changes, tuple(broken.values()))
        if broken:
            raise NotACheckpointError(
                f"none of the {len(broken)} checkpoints in {self.path} can be used: {'; '.join(broken.values())} "
                "Copy that folder back from where you have it, choose 'start over', or give this run another name."
            )
        self.metrics.rewind(0)
        return None

    def save(self, state: Checkpoint) -> Path:
        """Write a checkpoint, then delete the oldest beyond `keep_last`.

        Raises OSError when the disk is full; nothing is deleted then.
        """
        checkpoint = self.path / f"state_{state.iteration:07}.safetensors"
        state.write(checkpoint)
        for old in self.checkpoints()[: -self.keep_last]:
            old.unlink()
        shutil.rmtree(self.path / REPLACED, ignore_errors=True)
        self._write(state.counters)
        return checkpoint

    def description(self) -> dict[str, Any]:
        """What run.json says; empty where there is none that can be read."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        return {}

    def describe(self, counters: dict[str, Any], description: dict[str, Any], changes: Changes) -> None:
        """Write run.json: `description`, when the run began, how far it is, and all that was ever changed in it.

        counters: at least iteration and images.
        """
        before = self.description()
        history = before.get("changes", []) + [
            {"iteration": counters["iteration"], "setting": name, "then": then, "now": now}
            for name, (then, now) in sorted(changes.items())
        ]
        self._description = {"started": before.get("started", _now()), **description, "changes": history}
        self._write(counters)

    def _write(self, counters: dict[str, Any]) -> None:
        progress = {"updated": _now(), "iteration": counters["iteration"], "images": counters["images"]}
        with replacing(self.path / "run.json") as temporary:
            text = json.dumps(self._description | progress, indent=1, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
