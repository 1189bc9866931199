"""A race's results in one file of the project, for a table without a race, and a race that goes on elsewhere."""

import json
from itertools import product
from pathlib import Path

from contestants import BY_NAME, CONTESTANTS, STEPS, Sizes
from launch import ROOT
from stages import Places, read

FOLDERS = ("trials", "students", "scores", "teacher")


def file_of(sizes: Sizes) -> Path:
    return ROOT / "benchmarks" / "results" / f"race_{sizes.name}.json"


def keep(places: Places, file: Path) -> int:
    """Write all results there are into the file; → how many."""
    results = {_name(place): read(place) for folder in FOLDERS for place in (places.root / folder).glob("*.json")}
    file.write_text(json.dumps(results, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    return len(results)


def restore(places: Places, sizes: Sizes, file: Path) -> None:
    """Make the results' files of those that are missing; nothing without the file.

    That a student is trained is left out where its weights are still wanted, which are not in the file: to be measured,
    or to begin another from.
    """
    if not file.exists():
        return
    results = read(file)
    wanted = set()
    for contestant, steps, seed in product(CONTESTANTS, STEPS, sizes.seeds):
        if _name(places.scores(contestant, steps, seed)) not in results:
            wanted.add(_name(places.trained(contestant, steps, seed)))
            if contestant.begins_from:
                wanted.add(_name(places.trained(BY_NAME[contestant.begins_from], steps, seed)))
    for name, result in results.items():
        place = places.root / f"{name}.json"
        if name not in wanted and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _name(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"
