"""Draw variety against alignment, as evaluate.py has measured them, into one picture.

    pip install matplotlib==3.10.7
    python demo/plot_variety.py docs/images/variety.png .sid/teacher_cfg.json .sid/students.json

A point for each setting, with the deviation over seeds; the teacher's are joined in the order of their CFG.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

VARIETY = "variety", "spread_of_real"
ALIGNMENT = {"subject: R@10": ("training", "subject"), "style: named right": ("training", "style")}
TEACHER, STUDENTS = "#5f6368", ("#1f6fc0", "#d93025", "#188038", "#9334e6", "#e8710a", "#12858d")
SIZE, RESOLUTION = (11.0, 4.6), 100


def points(results: list[dict], measure: tuple[str, str]) -> tuple[list[float], list[float]]:
    """Means and deviations."""
    scores = [result["scores"][measure[0]][measure[1]] for result in results]
    return [score["mean"] for score in scores], [score["std"] for score in scores]


def draw(axes: Axes, results: list[dict], title: str, measure: tuple[str, str]) -> None:
    teacher = sorted((r for r in results if not r["setting"]["student"]), key=lambda r: r["setting"]["cfg"])
    (x, x_error), (y, y_error) = points(teacher, VARIETY), points(teacher, measure)
    steps = ", ".join(sorted({str(r["setting"]["steps"]) for r in teacher}))
    axes.errorbar(x, y, y_error, x_error, color=TEACHER, marker="o", capsize=2, label=f"teacher, {steps} steps")
    for result, across, up in zip(teacher, x, y, strict=True):
        label = f"CFG {result['setting']['cfg']:g}"
        axes.annotate(label, (across, up), xytext=(5, 5), textcoords="offset points", color=TEACHER, fontsize=8)
    students = [result for result in results if result["setting"]["student"]]
    for result, colour in zip(students, STUDENTS, strict=False):
        (x, x_error), (y, y_error) = points([result], VARIETY), points([result], measure)
        axes.errorbar(x, y, y_error, x_error, color=colour, marker="s", capsize=2, label=result["title"])
    axes.set_xlabel("variety: spread within a caption, as a share of the real pictures'")
    axes.set_ylabel(title)
    axes.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path, help="the PNG to write")
    parser.add_argument("results", type=Path, nargs="+", help="what evaluate.py --json wrote")
    args = parser.parse_args()
    results = [result for file in args.results for result in json.loads(file.read_text(encoding="utf-8"))["results"]]
    figure, panels = plt.subplots(1, len(ALIGNMENT), figsize=SIZE)
    for axes, (title, measure) in zip(panels, ALIGNMENT.items(), strict=True):
        draw(axes, results, title, measure)
    panels[-1].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(args.out, dpi=RESOLUTION, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
