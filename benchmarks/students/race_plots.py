"""The race's results as pictures: distance against forwards, and variety against alignment.

pip install matplotlib==3.10.7
"""

import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from contestants import CONTESTANTS, STEPS, Sizes
from matplotlib.axes import Axes
from race_table import of_seeds, teachers, values
from stages import Places

SIZE, RESOLUTION = (12.0, 5.0), 100
TEACHER = "#5f6368"
COLOURS = plt.get_cmap("tab10").colors
MARKERS = {4: "o", 2: "s", 1: "^"}
AXES = {
    "distance": "distance to the real pictures",
    "subject": "subject: R@10",
    "style": "style: named right",
    "spread of real": "variety: spread within a caption, as a share of the real pictures'",
}


def draw_all(places: Places, sizes: Sizes) -> list[Path]:
    """→ the files."""
    results = {
        (contestant.title, steps): found
        for contestant in CONTESTANTS
        for steps in STEPS
        if (found := of_seeds(contestant, steps, places, sizes))
    }
    figure, axes = plt.subplots(figsize=SIZE)
    against_forwards(axes, results, teachers(places))
    forwards = save(figure, places.root / "distance_by_forwards.png")
    figure, panels = plt.subplots(1, 2, figsize=SIZE)
    for panel, measure in zip(panels, ("subject", "style"), strict=True):
        against_variety(panel, results, teachers(places), measure)
    return [forwards, save(figure, places.root / "variety_by_alignment.png")]


def colour_of(title: str) -> tuple[float, ...]:
    return COLOURS[[contestant.title for contestant in CONTESTANTS].index(title) % len(COLOURS)]


def mean_and_spread(results: list[dict[str, Any]], measure: str) -> tuple[float, float]:
    numbers = values(results, measure)
    return statistics.mean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else 0.0


def against_forwards(axes: Axes, results: dict[tuple[str, int], list[dict[str, Any]]], teacher: list[dict]) -> None:
    for title in dict.fromkeys(title for title, _ in results):
        mine = sorted((found[0]["forwards"], found) for (whose, _), found in results.items() if whose == title)
        y, error = zip(*(mean_and_spread(found, "distance") for _, found in mine), strict=True)
        axes.errorbar([x for x, _ in mine], y, error, color=colour_of(title), marker="o", capsize=2, label=title)
    if teacher:
        x = [result["forwards"] for result in teacher]
        axes.plot(x, values(teacher, "distance"), color=TEACHER, marker="D", linestyle=":", label="teacher")
    axes.set_xscale("log")
    axes.set_xlabel("evaluations of the network for a picture")
    axes.set_ylabel(AXES["distance"])
    finish(axes)


def against_variety(
    axes: Axes, results: dict[tuple[str, int], list[dict[str, Any]]], teacher: list[dict], measure: str
) -> None:
    for (title, steps), found in results.items():
        (x, x_error), (y, y_error) = (mean_and_spread(found, name) for name in ("spread of real", measure))
        label = f"{title}, {steps}"
        axes.errorbar(x, y, y_error, x_error, color=colour_of(title), marker=MARKERS[steps], capsize=2, label=label)
    if teacher:
        x, y = values(teacher, "spread of real"), values(teacher, measure)
        axes.plot(x, y, color=TEACHER, marker="D", linestyle="", label="teacher")
    axes.set_xlabel(AXES["spread of real"])
    axes.set_ylabel(AXES[measure])
    finish(axes)


def finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6, ncols=2)


def save(figure: plt.Figure, file: Path) -> Path:
    figure.tight_layout()
    figure.savefig(file, dpi=RESOLUTION)
    plt.close(figure)
    return file
