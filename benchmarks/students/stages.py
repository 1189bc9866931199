"""The race as a list of tasks, each with one file as its result: what has its file is done, and not done again."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from contestants import BY_NAME, STEPS, TRIAL_SEED, Choice, Contestant, Sizes, tuned_at
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


def tuned(contestant: Contestant) -> Contestant:
    """Whose trials decide: its own, or those of the one that it takes the tuning of."""
    return BY_NAME[contestant.tuned_as] if contestant.tuned_as else contestant


def best_choice(contestant: Contestant, steps: int, places: Places) -> Choice | None:
    """What was nearest of all trials; None until they are done."""
    contestant = tuned(contestant)
    best = nearest(contestant, steps, contestant.grid(), places)
    return best and nearest(contestant, steps, [best, *_after(contestant, best)], places)


def nearest(contestant: Contestant, steps: int, choices: Sequence[Choice], places: Places) -> Choice | None:
    """The one whose trial was nearest; None until all of these are done. One that diverged has lost."""
    files = {choice: places.trial(contestant, tuned_at(steps), choice) for choice in choices}
    if not all(file.exists() for file in files.values()):
        return None
    distances = {choice: read(file)["distance"] for choice, file in files.items()}
    return min(distances, key=lambda choice: math.inf if distances[choice] is None else distances[choice])


def distance_of_best(contestant: Contestant, steps: int, places: Places) -> float:
    """That of the choice's trial; infinite until there is one."""
    contestant = tuned(contestant)
    choice = best_choice(contestant, steps, places)
    distance = choice and read(places.trial(contestant, tuned_at(steps), choice))["distance"]
    return math.inf if distance is None else distance


def trials_of(contestant: Contestant, steps: int, places: Places) -> list[Choice]:
    """The grid, and what is tried after it as far as that is known."""
    grid = contestant.grid()
    best = nearest(contestant, steps, grid, places) if grid else None
    return grid + (_after(contestant, best) if best else [])


def _after(contestant: Contestant, best: Choice) -> list[Choice]:
    return [replace(best, t_init=t_init) for t_init in contestant.other_t_inits()]


def trial_jobs(contestant: Contestant, sizes: Sizes, places: Places) -> list[tuple[Path, Callable[[], Job | None]]]:
    """The trials that are known by now, for 4 steps and for 1: where the result goes, and the job, None as yet where it
    begins as a student that is not trained."""
    return [
        (places.trial(contestant, steps, choice), partial(_trial, contestant, choice, steps, sizes, places))
        for steps in sorted({tuned_at(steps) for steps in STEPS}, reverse=True)
        for choice in trials_of(contestant, steps, places)
    ]


def _trial(contestant: Contestant, choice: Choice, steps: int, sizes: Sizes, places: Places) -> Job | None:
    return _job(contestant, choice, steps, TRIAL_SEED, sizes.trial_images, sizes, places)


def final_job(contestant: Contestant, steps: int, seed: int, sizes: Sizes, places: Places) -> Job | None:
    """None until the tuning is done."""
    choice = best_choice(contestant, steps, places)
    images = round(sizes.images * contestant.longer)
    return choice and _job(contestant, choice, contestant.trained_for(steps), seed, images, sizes, places)


def _job(
    contestant: Contestant, choice: Choice, steps: int, seed: int, images: int, sizes: Sizes, places: Places
) -> Job | None:
    """None where it begins as a student that is not trained yet; it goes on from that one's t_init."""
    start = None
    if contestant.begins_from:
        first = BY_NAME[contestant.begins_from]
        start = places.student(first, steps, sizes.seeds[0] if seed == TRIAL_SEED else seed)
        chosen = best_choice(first, steps, places)
        if chosen is None or not start.exists():
            return None
        choice = replace(choice, t_init=chosen.t_init)
    return Job(contestant, choice, steps, seed, sizes.batch, images // sizes.batch, start)
