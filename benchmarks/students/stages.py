"""The race as a list of tasks, each with one file as its result: what has its file is done, and not done again."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contestants import CONTESTANTS, STEPS, TRIAL_SEED, Choice, Contestant, Sizes, tuned_at
from jobs import Job


@dataclass(frozen=True)
class Places:
    """Where the files of one race are."""

    root: Path

    def trial(self, contestant: Contestant, steps: int, choice: Choice) -> Path:
        return self.root / "trials" / f"{contestant.name}_{steps}_{choice.name}.json"

    def student(self, contestant: Contestant, steps: int, seed: int) -> Path:
        return self.root / "students" / f"{contestant.name}_{contestant.trained_for(steps)}_{seed}.safetensors"

    def trained(self, contestant: Contestant, steps: int, seed: int) -> Path:
        return self.student(contestant, steps, seed).with_suffix(".json")

    def scores(self, contestant: Contestant, steps: int, seed: int) -> Path:
        return self.root / "scores" / f"{contestant.name}_{steps}_{seed}.json"

    def teacher(self, name: str) -> Path:
        return self.root / "teacher" / f"{name}.json"

    def run(self, result: Path) -> Path:
        """The folder of a training's checkpoints, by the file that is to come of it."""
        return self.root / "runs" / result.stem


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def best_choice(contestant: Contestant, steps: int, places: Places) -> Choice | None:
    """The cell of the grid whose trial was nearest; None until all are done. A trial that diverged has no distance."""
    files = {choice: places.trial(contestant, tuned_at(steps), choice) for choice in contestant.grid()}
    if not all(file.exists() for file in files.values()):
        return None
    distances = {choice: read(file)["distance"] for choice, file in files.items()}
    return min(distances, key=lambda choice: math.inf if distances[choice] is None else distances[choice])


def trial_jobs(contestant: Contestant, sizes: Sizes, places: Places) -> Iterator[tuple[Path, Job]]:
    """Each trial with its result's file: all the grid, for 4 steps and for 1."""
    for steps in sorted({tuned_at(steps) for steps in STEPS}, reverse=True):
        for choice in contestant.grid():
            job = Job(
                contestant,
                choice,
                steps,
                TRIAL_SEED,
                sizes.batch,
                sizes.trial_images // sizes.batch,
                begins(contestant, steps, sizes.seeds[0], places),
            )
            yield places.trial(contestant, steps, choice), job


def final_job(contestant: Contestant, steps: int, seed: int, sizes: Sizes, places: Places) -> Job | None:
    """None until the tuning is done."""
    choice = best_choice(contestant, steps, places)
    if choice is None:
        return None
    trained = contestant.trained_for(steps)
    iterations = sizes.images // sizes.batch
    start = begins(contestant, trained, seed, places)
    return Job(contestant, choice, trained, seed, sizes.batch, iterations, start)


def begins(contestant: Contestant, steps: int, seed: int, places: Places) -> Path | None:
    """The file of the student that it starts as, which may still have to be trained."""
    first = next((one for one in CONTESTANTS if one.name == contestant.begins_from), None)
    return first and places.student(first, steps, seed)
