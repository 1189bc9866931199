"""The race's results as Markdown: the scores over seeds, what they cost, and the tuning that came before."""

import statistics
from typing import Any

from contestants import CONTESTANTS, STEPS, Contestant, Sizes, tuned_at
from stages import Places, best_choice, read, trials_of

MEASURES = {  # set, measure, digits
    "distance": ("training", "distance", 1),
    "subject": ("training", "subject", 3),
    "style": ("training", "style", 3),
    "entropy of real": ("variety", "entropy_of_real", 3),
    "spread of real": ("variety", "spread_of_real", 3),
}


def of_seeds(contestant: Contestant, steps: int, places: Places, sizes: Sizes) -> list[dict[str, Any]]:
    """The scores of a method's students that are measured."""
    files = (places.scores(contestant, steps, seed) for seed in sizes.seeds)
    return [read(file) for file in files if file.exists()]


def values(results: list[dict[str, Any]], measure: str) -> list[float]:
    """One for each result: the mean over its drawings."""
    of, name, _ = MEASURES[measure]
    return [result["scores"][of][name]["mean"] for result in results]


def report(places: Places, sizes: Sizes) -> str:
    """Raises nothing for what is not done yet: it is left out."""
    rows = [row for steps in STEPS for c in CONTESTANTS if (row := student_row(c, steps, places, sizes))]
    rows += [teacher_row(result) for result in teachers(places)]
    heads = [
        "method",
        "steps",
        "seeds",
        *MEASURES,
        "forwards a picture",
        "images",
        "training forwards, thousands",
        "min",
    ]
    tuning = [row for c in CONTESTANTS for row in tuning_rows(c, places)]
    return "\n\n".join(
        [
            "Mean ± standard deviation over trainings with different seeds. Images: that the student was updated on, "
            "with those of the student that it began as. Training forwards: of one latent, all three networks.",
            table(heads, 1, rows),
            "Tuning: the distance of each trial to held-out pairs; bold is what was taken.",
            table(["method", "steps", "rate", "knob", "t_init", "distance"], 1, tuning),
        ]
    )


def student_row(contestant: Contestant, steps: int, places: Places, sizes: Sizes) -> list[str] | None:
    results = of_seeds(contestant, steps, places, sizes)
    if not results:
        return None
    before = next((one for one in CONTESTANTS if one.name == contestant.begins_from), None)
    images = results[0]["images"] * (2 if before else 1)
    return [
        contestant.title,
        str(steps),
        str(len(results)),
        *(cell(values(results, name), digits) for name, (_, _, digits) in MEASURES.items()),
        f"{results[0]['forwards']:g}",
        f"{images:,}",
        f"{statistics.mean(result['training_forwards'] for result in results) / 1e3:.0f}",
        f"{statistics.mean(result['training_seconds'] for result in results) / 60:.1f}",
    ]


def teacher_row(result: dict[str, Any]) -> list[str]:
    cells = (cell(values([result], name), digits) for name, (_, _, digits) in MEASURES.items())
    title = f"teacher, {result['sampler']} {result['scheduler']}, CFG {result['cfg']:g}"
    return [title, str(result["steps"]), "", *cells, f"{result['forwards']:g}", "", "", ""]


def teachers(places: Places) -> list[dict[str, Any]]:
    """The teacher's own results, most steps first."""
    found = [read(file) for file in places.teacher("*").parent.glob("*.json")]
    return sorted(found, key=lambda result: -result["steps"])


def tuning_rows(contestant: Contestant, places: Places) -> list[list[str]]:
    rows = []
    for steps in sorted({tuned_at(steps) for steps in STEPS}, reverse=True):
        best = best_choice(contestant, steps, places)
        for choice in trials_of(contestant, steps, places):
            file = places.trial(contestant, steps, choice)
            if file.exists():
                distance = read(file)["distance"]
                shown = "diverged" if distance is None else f"{distance:.1f}"
                mark = "**" if choice == best else ""
                knob, start = f"{contestant.knob} {choice.knob:g}", f"{choice.t_init or contestant.t_init:g}"
                rows.append([contestant.title, str(steps), f"{choice.rate:g}", knob, start, f"{mark}{shown}{mark}"])
    return rows


def cell(numbers: list[float], digits: int) -> str:
    """Mean ± deviation, the latter of two numbers or more."""
    spread = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.{digits}f}{spread}"


def table(heads: list[str], words: int, rows: list[list[str]]) -> str:
    """words: columns at the left that are text."""
    ruler = ":--|" * words + "--:|" * (len(heads) - words)
    return "\n".join([f"| {' | '.join(heads)} |", f"|{ruler}", *(f"| {' | '.join(row)} |" for row in rows)])
