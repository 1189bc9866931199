"""A run's metrics as a picture, so that they can be read without another program."""

from collections.abc import Iterable, Mapping

from PIL import Image

from ..pictures.charts import Curve, draw_curves

SEED_SPREAD, DISCRIMINATOR = "seed_spread", "discriminator_loss"
KERNEL_DISTANCE, FRECHET_DISTANCE = "kernel_distance", "frechet_distance"
TITLES = {  # by the metric's name
    "fake_loss": "fake score's loss: level is healthy",
    "student_loss": "student's loss: no measure of quality",
    "spread": "spread of a batch: falling is collapse",
    SEED_SPREAD: "spread across seeds of one prompt: near 0 is collapse",
    "magnitude": "magnitude: climbing is saturation",
    DISCRIMINATOR: "discriminator's loss: 0.69 is chance, 0 has won",
    "adversarial_loss": "student against it: 0.69 is chance, lower is better",
    KERNEL_DISTANCE: "kernel distance to the teacher: lower is better",
    FRECHET_DISTANCE: "Frechet distance to the teacher: lower is better",  # Pillow's own font has no accents
}


def draw_metrics(rows: Iterable[Mapping[str, float]]) -> Image.Image:
    """The curves of a run out of the rows of its metrics; not every row has every metric."""
    series = {name: ([], []) for name in TITLES}
    for row in rows:
        for name, (iterations, values) in series.items():
            if row.get(name) is not None:
                iterations.append(row["iteration"])
                values.append(row[name])
    return draw_curves(
        [
            Curve(TITLES[name], *found, from_zero=name in (SEED_SPREAD, DISCRIMINATOR))
            for name, found in series.items()
            if found[0]
        ]
    )
