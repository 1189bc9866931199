"""A race of few-step students of the demo teacher: SiD, and others' ways, on the same captions, pictures and budget.

    python benchmarks/students/race.py run              all of it; start it twice to use two cores
    python benchmarks/students/race.py --quick run      minutes, to see that everything works
    python benchmarks/students/race.py tune METHOD      the trials of one method
    python benchmarks/students/race.py train METHOD STEPS SEED
    python benchmarks/students/race.py measure | table | plot
    python benchmarks/students/race.py keep             all results into one file under benchmarks/results

Whatever is done has its file in .sid/race, or is in that one file, and is not done again; a training that is stopped
goes on from its last minute. README.md has the rules and the grid. `plot` takes matplotlib.
"""

import argparse
import importlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from launch import ROOT, in_environment  # noqa: E402  the folder has just been made importable

if __name__ == "__main__":
    in_environment()

sys.path.insert(1, str(ROOT / "demo"))
from host import load_pack, start_comfyui  # noqa: E402

load_pack()
from contestants import (  # noqa: E402  the pack has its name only once it is loaded
    BY_NAME,
    CONTESTANTS,
    FULL_IMAGES,
    QUICK_IMAGES,
    STEPS,
    Contestant,
    Sizes,
    full_sizes,
    quick_sizes,
)
from jobs import Job, OutOfTimeError  # noqa: E402
from pictures import FILE  # noqa: E402
from records import file_of, keep, restore  # noqa: E402
from stages import Places, distance_of_best, final_job, read, trial_jobs  # noqa: E402
from training import attention_in_float32  # noqa: E402

from sid_pack.sid_core.files.atomic import replacing  # noqa: E402
from sid_pack.sid_core.files.run_lock import RunInUseError, RunLock  # noqa: E402
from sid_pack.sid_core.training.run import NotFiniteError  # noqa: E402

if TYPE_CHECKING:
    from measuring import Measuring
    from world import World

FOLDER = ROOT / ".sid" / "race"
WAIT_S = 10.0  # for another process's result


@dataclass(frozen=True)
class Task:
    """result: the file that says it is done, which `do` gives the content of. ready: whether it can be begun yet."""

    result: Path
    do: Callable[[], dict[str, Any]]
    ready: Callable[[], bool] = lambda: True


class Race:
    """The tasks of some contestants, and how they are done."""

    def __init__(self, sizes: Sizes, root: Path, minutes: float, pictures: Path = FILE):
        self.sizes, self.places, self.pictures = sizes, Places(root), pictures
        self.deadline = time.monotonic() + 60 * minutes

    @cached_property
    def world(self) -> "World":
        from world import World

        return World(self.pictures)

    @cached_property
    def measuring(self) -> "Measuring":
        from measuring import Measuring

        return Measuring()

    def trials(self, contestant: Contestant) -> Iterator[Task]:
        for file, job in trial_jobs(contestant, self.sizes, self.places):
            yield Task(file, lambda job=job, file=file: self._trial(job(), file), lambda job=job: job() is not None)

    def training(self, contestant: Contestant, steps: int, seed: int) -> Task:
        def job() -> Job | None:
            return final_job(contestant, steps, seed, self.sizes, self.places)

        file = self.places.student(contestant, steps, seed)
        return Task(
            self.places.trained(contestant, steps, seed), lambda: self._train(job(), file), lambda: job() is not None
        )

    def scores(self, contestant: Contestant, steps: int, seed: int) -> Task:
        student = self.places.student(contestant, steps, seed)
        trained = self.places.trained(contestant, steps, seed)

        def do() -> dict[str, Any]:
            from measuring import student_setting

            facts = read(trained) | {"steps": steps}
            return facts | self.measuring.scores(student_setting(contestant.title, student, steps), self.sizes)

        return Task(self.places.scores(contestant, steps, seed), do, lambda: trained.exists() and student.exists())

    def teachers(self) -> Iterator[Task]:
        from overview import TEACHER_2, TEACHER_4, TEACHER_50

        for setting in (TEACHER_50, TEACHER_4, TEACHER_2):
            facts = {key: value for key, value in asdict(setting).items() if key != "student"}
            yield Task(
                self.places.teacher(f"{setting.steps}"),
                lambda setting=setting, facts=facts: facts | self.measuring.scores(setting, self.sizes),
            )

    def all_tasks(self, contestants: Sequence[Contestant]) -> Iterator[Task]:
        """In the order that they are best done in."""
        for contestant in contestants:
            yield from self.trials(contestant)
        first, *others = self.sizes.seeds
        # So that a race that runs out of time has all methods at the most and the fewest steps, and then the spread of
        # the nearest.
        by_step = sorted(STEPS, key=lambda steps: steps not in (max(STEPS), min(STEPS)))
        order = product([first], by_step, contestants)
        later = ((seed, steps, one) for one in self._nearest_first(contestants) for steps in by_step for seed in others)
        for seed, steps, contestant in chain(order, later):
            yield self.training(contestant, steps, seed)
            yield self.scores(contestant, steps, seed)
        yield from self.teachers()

    def _nearest_first(self, contestants: Sequence[Contestant]) -> list[Contestant]:
        """By their trials of 4 steps, as far as these are done."""
        return sorted(contestants, key=lambda one: distance_of_best(one, max(STEPS), self.places))

    def do(self, tasks: Callable[[], Iterable[Task]]) -> None:
        """All that is not done yet, waiting for what other processes are at. Raises OutOfTimeError.

        tasks: gives those that are known by now: which there are may depend on others' results.
        """
        while left := [task for task in tasks() if not task.result.exists()]:
            done = [task for task in left if task.ready() and self._do(task)]
            if not done and not any(task.ready() for task in left):
                break  # what they wait for is not among them
            if not done:
                time.sleep(WAIT_S)
                self._in_time()

    def _do(self, task: Task) -> bool:
        """False where another process is at it."""
        self._in_time()
        locks = self.places.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        try:
            with RunLock(locks / f"{task.result.parent.name}_{task.result.stem}"):
                if not task.result.exists():
                    print(f"{time.strftime('%H:%M')} {task.result.parent.name}: {task.result.stem}", flush=True)
                    content = task.do()
                    with replacing(task.result) as file:
                        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        except RunInUseError:
            return False
        return True

    def _in_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTimeError

    def _trial(self, job: Job, result: Path) -> dict[str, Any]:
        student = result.with_suffix(".safetensors")
        facts = self._train(job, student)
        if "diverged" in facts:
            return facts | {"distance": None}
        from measuring import student_setting

        distance = self.measuring.trial(student_setting(job.contestant.title, student, job.steps), self.sizes)
        return facts | {"distance": distance}

    def _train(self, job: Job, student: Path) -> dict[str, Any]:
        """→ what is known of the student besides its scores; or why there is none."""
        from student_runs import train

        try:
            cost = train(job, self.world, student, self.places.run(student), self.deadline)
        except NotFiniteError as error:
            return job.facts() | {"diverged": str(error)}
        return job.facts() | {"training_forwards": cost.forwards, "training_seconds": cost.seconds}


def usable(names: Sequence[str], pictures: Path) -> list[Contestant]:
    """The contestants of these names, or all; without those that can't take part here, and says why."""
    chosen = []
    for contestant in [BY_NAME[name] for name in names] or CONTESTANTS:
        if unknown := contestant.waits_for():
            print(f"{contestant.name} is left out: this version has no setting {', '.join(unknown)}.", file=sys.stderr)
        elif contestant.real_pictures and not pictures.exists():
            print(f"{contestant.name} is left out: run demo/gather_pictures.py for its pictures.", file=sys.stderr)
        else:
            chosen.append(contestant)
    return chosen


def parse_arguments(line: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything works")
    parser.add_argument(
        "--images", type=int, help=f"that each student is updated on (default: {FULL_IMAGES}, quick {QUICK_IMAGES})"
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many; run it again to go on")
    parser.add_argument("--pictures", type=Path, default=FILE, help="what gather_pictures.py wrote")
    commands = parser.add_subparsers(dest="command", required=True)
    names = {"choices": list(BY_NAME), "metavar": "METHOD", "help": ", ".join(BY_NAME)}
    commands.add_parser("run", help="everything, of all methods or of these").add_argument(
        "methods", nargs="*", default=[], **(names | {"choices": [*BY_NAME, []]})
    )
    commands.add_parser("tune", help="the trials of these methods").add_argument("methods", nargs="+", **names)
    train = commands.add_parser("train", help="one student with what its tuning found")
    train.add_argument("method", **names)
    train.add_argument("steps", type=int, choices=STEPS)
    train.add_argument("seed", type=int)
    commands.add_parser("measure", help="the students that are trained, and the teacher")
    commands.add_parser("table", help="what is measured, as Markdown")
    commands.add_parser("plot", help="what is measured, as pictures")
    commands.add_parser("keep", help="put all results into one file of the project, which other machines go on from")
    args = parser.parse_args(line)
    if args.images is not None and args.images < 1:
        parser.error(f"set --images to 1 or more; it is {args.images}")
    return args


def start() -> None:
    start_comfyui()
    # The nodes ask for the server; in this order, as later on the host's own comfy/utils.py hides its package utils.
    for module in ("utils.extra_config", "server", "comfy.utils"):
        importlib.import_module(module)
    attention = importlib.import_module("comfy.ldm.modules.attention")
    attention.optimized_attention = partial(attention_in_float32, attention.optimized_attention)


def main() -> None:
    args = parse_arguments()
    sizes = quick_sizes(args.images or QUICK_IMAGES) if args.quick else full_sizes(args.images or FULL_IMAGES)
    race = Race(sizes, FOLDER / sizes.name, args.minutes, args.pictures)
    restore(race.places, sizes, file_of(sizes))
    if args.command == "keep":
        print(f"{keep(race.places, file_of(sizes))} results are in {file_of(sizes).relative_to(ROOT)}")
        return
    if args.command == "table":
        from race_table import report

        print(report(race.places, sizes))
        return
    if args.command == "plot":
        from race_plots import draw_all

        print("\n".join(f"wrote {file}" for file in draw_all(race.places, sizes)))
        return
    start()
    try:
        names = [args.method] if args.command == "train" else getattr(args, "methods", [])
        race.do(partial(asked_tasks, race, args, usable(names, args.pictures)))
    except OutOfTimeError:
        print(f"{args.minutes:g} minutes are over; run it again to go on.")


def asked_tasks(race: Race, args: argparse.Namespace, contestants: Sequence[Contestant]) -> Iterator[Task]:
    if args.command == "run":
        yield from race.all_tasks(contestants)
    elif args.command == "tune":
        for contestant in contestants:
            yield from race.trials(contestant)
    elif args.command == "train":
        for contestant in contestants:
            task = race.training(contestant, args.steps, args.seed)
            if not task.result.exists() and not task.ready():
                first = f", and train {contestant.begins_from}" if contestant.begins_from else ""
                sys.exit(f"Run `tune {contestant.name}` first{first}.")
            yield task
    else:
        students = ((c, steps, seed) for c in CONTESTANTS for steps in STEPS for seed in race.sizes.seeds)
        yield from (race.scores(*student) for student in students)
        yield from race.teachers()


if __name__ == "__main__":
    main()
