"""What leakage.py has measured: a JSON file that grows row by row, and tables in Markdown made from it."""

import json
import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import torch
from host import load_pack
from leakage_protocol import Scores, at_equal_style
from leakage_trials import Trial

load_pack()
from sid_pack.sid_core.files.atomic import replacing  # noqa: E402  the pack has this name only once it is loaded

DIGITS = 4  # of a score in the file
COLUMNS = {
    "first": "leakage: named first",
    "named": "among ten",
    "nearer": "before the prompt's",
    "prompt": "prompt R@10",
    "style": "style",
    "style_named": "style named",
    "layout": "layout",
}
COMPARED = ("first", "named", "nearer", "prompt", "layout")


class Results:
    """Rows of scores, kept in a file after each.

    `of`: what they were all measured with, such as the weights' digests. Raises ValueError for a file of others.
    """

    def __init__(self, file: Path, of: dict | None = None):
        self.file = file
        self.kept = {"of": of or {}, "about": {}, "rows": []}
        if file.exists():
            kept = json.loads(file.read_text(encoding="utf-8"))
            if others := [name for name in of or {} if kept["of"].get(name) != of[name]]:
                raise ValueError(
                    f"Give another file to --json, or delete this one: {file.name} was measured with other "
                    f"{', '.join(others)}."
                )
            self.kept = kept

    @property
    def about(self) -> dict:
        """What else there is to say of all rows."""
        return self.kept["about"]

    def scores_of(self, trial: Trial) -> Scores | None:
        key = json.loads(json.dumps(trial.key))
        return next((scores_in(row) for row in self.kept["rows"] if row["trial"] == key), None)

    def add(self, trial: Trial, scores: Scores) -> None:
        measured = {f.name: [round(x, DIGITS) for x in getattr(scores, f.name).tolist()] for f in fields(Scores)}
        names = {"title": trial.title, "sampler": trial.draw.title, "is_plain": trial.is_plain}
        self.kept["rows"].append(names | {"trial": trial.key, "scores": measured})
        self.save()

    def save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.file) as unfinished:
            unfinished.write_text(json.dumps(self.kept), encoding="utf-8")

    def markdown(self) -> Iterator[str]:
        """All lines of the report that are numbers."""
        yield from self.about.get("lines", [])
        for sampler in dict.fromkeys(row["sampler"] for row in self.kept["rows"]):
            rows = [row for row in self.kept["rows"] if row["sampler"] == sampler]
            rows.sort(key=lambda row: (not row["is_plain"], row["trial"]["weight"] * row["is_plain"]))
            plain = rising([scores_in(row) for row in rows if row["is_plain"]])
            yield from ("", f"## {sampler[0].upper()}{sampler[1:]}", "", *HEADER)
            for row in rows:
                yield table_row(row["title"], scores_in(row), None if row["is_plain"] else plain)


def scores_in(row: dict) -> Scores:
    return Scores(*(torch.tensor(row["scores"][field.name], dtype=torch.float64) for field in fields(Scores)))


def rising(plain: list[Scores]) -> list[Scores]:
    """Of the plain image prompt at one weight after another, those up to where there is most style.

    Beyond, the same style is to be had with less of the image prompt, and that is what settings are to compare with.
    """
    styles = [scores.mean("style") for scores in plain]
    return plain[: styles.index(max(styles)) + 1] if plain else []


TITLES = ["setting", *COLUMNS.values(), *(f"at equal style: {COLUMNS[name].split(': ')[-1]}" for name in COMPARED)]
HEADER = [f"| {' | '.join(TITLES)} |", f"|:--|{'--:|' * (len(TITLES) - 1)}"]


def table_row(title: str, scores: Scores, plain: list[Scores] | None) -> str:
    """plain: what to compare with, None for a row that is compared with nothing."""
    cells = [f"{scores.mean(measure):.3f}" for measure in COLUMNS]
    cells[0] += f" ± {scores.error('first'):.3f}"
    cells += ["" if plain is None else compared(scores, plain, measure) for measure in COMPARED]
    return f"| {title} | {' | '.join(cells)} |"


def compared(scores: Scores, plain: list[Scores], measure: str) -> str:
    """ "0.310 → 0.150, -0.160 ± 0.021": the plain adapter's, this setting's, and how they differ."""
    if len(plain) < 2:
        return "–"
    found = at_equal_style(scores, plain, measure)
    if not math.isfinite(found.error):
        return "–"
    return f"{found.plain:.3f} → {scores.mean(measure):.3f}, {found.difference:+.3f} ± {found.error:.3f}"
