"""Curves as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

PANEL = (460, 220)
MARGIN = (64, 34, 16, 30)  # left, top, right, bottom
INK, FAINT, LINE, SMOOTH = "#333333", "#e4e4e4", "#b9cfe8", "#1f6fc0"
POINTS = 400  # as many as the width can show
TOLD = (2, 98)  # percentiles that a panel is scaled to, lest one early jump flatten all the rest


@dataclass(frozen=True)
class Curve:
    """title: what is shown and how to read it. values: one for each of the iterations, which are one or more.

    from_zero: whether the scale begins at 0, where what counts is the share that is left.
    """

    title: str
    iterations: Sequence[int]
    values: Sequence[float]
    from_zero: bool = False


def draw_curves(curves: Sequence[Curve], columns: int = 2) -> Image.Image:
    """One panel for each curve: faint as it is, and strong as its running mean over a twentieth of the run."""
    rows = -(-len(curves) // columns)
    sheet = Image.new("RGB", (columns * PANEL[0], rows * PANEL[1]), "white")
    for i, curve in enumerate(curves):
        sheet.paste(_panel(curve), (i % columns * PANEL[0], i // columns * PANEL[1]))
    return sheet


def _panel(curve: Curve) -> Image.Image:
    panel = Image.new("RGB", PANEL, "white")
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(13)
    left, top, right, bottom = MARGIN[0], MARGIN[1], PANEL[0] - MARGIN[2], PANEL[1] - MARGIN[3]
    draw.text((left, 10), curve.title, INK, font)
    step = max(1, len(curve.values) // POINTS)
    smooth = _running_mean(curve.values, max(1, len(curve.values) // 20))
    low, high = _range([*curve.values, *smooth])
    low = 0.0 if curve.from_zero else low
    iterations = curve.iterations
    first, last = iterations[0], max(iterations[-1], iterations[0] + 1)

    def place(iteration: int, value: float) -> tuple[float, float]:
        x = left + (right - left) * (iteration - first) / (last - first)
        y = bottom - (bottom - top) * (min(max(value, low), high) - low) / (high - low)
        return x, y

    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        y = place(first, value)[1]
        draw.line([(left, y), (right, y)], FAINT)
        draw.text((left - 6, y), f"{value:.3g}", INK, font, anchor="rm")
    for iteration, anchor in ((first, "la"), (last, "ra")):
        draw.text((place(iteration, low)[0], bottom + 6), str(iteration), INK, font, anchor=anchor)
    for values, colour, width in ((curve.values, LINE, 1), (smooth, SMOOTH, 2)):
        points = [place(i, v) for i, v in zip(iterations[::step], values[::step], strict=True)]
        if len(points) > 1:
            draw.line(points, colour, width)
    return panel


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    total, means = 0.0, []
    for i, value in enumerate(values):
        total += value - (values[i - window] if i >= window else 0.0)
        means.append(total / min(i + 1, window))
    return means


def _range(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    low, high = (ordered[round((len(ordered) - 1) * percent / 100)] for percent in TOLD)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
