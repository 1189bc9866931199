"""Numbers of several things side by side, as bars with their intervals."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from .charts import FAINT, INK, LINE, SMOOTH

PANEL = 460  # pixels wide
BAR, LABELS, RIGHT, TOP, BOTTOM = 24, 170, 70, 36, 14
LONGEST = 24  # letters of a label


@dataclass(frozen=True)
class Bars:
    """title: what is shown, and which way is better. values: (label, number or None, half of its interval or None)."""

    title: str
    values: Sequence[tuple[str, float | None, float | None]]


def draw_bars(panels: Sequence[Bars], columns: int = 2) -> Image.Image:
    """One panel for each; those of a row are as high as the highest of all."""
    height = TOP + BOTTOM + BAR * max(len(panel.values) for panel in panels)
    columns = min(columns, len(panels))
    sheet = Image.new("RGB", (columns * PANEL, -(-len(panels) // columns) * height), "white")
    for i, panel in enumerate(panels):
        sheet.paste(_panel(panel, height), (i % columns * PANEL, i // columns * height))
    return sheet


def _panel(panel: Bars, height: int) -> Image.Image:
    sheet = Image.new("RGB", (PANEL, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    draw.text((10, 10), _drawable(panel.title), INK, font)
    ends = [value + sign * (margin or 0) for _, value, margin in panel.values if value is not None for sign in (-1, 1)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    span = (high - low) or 1.0
    left, width = LABELS, PANEL - LABELS - RIGHT

    def place(value: float) -> float:
        return left + width * (value - low) / span

    draw.line([(place(0), TOP - 4), (place(0), height - BOTTOM)], FAINT)
    for i, (label, value, margin) in enumerate(panel.values):
        middle = TOP + BAR * i + BAR // 2
        cut = label if len(label) <= LONGEST else label[: LONGEST - 2] + "..."
        draw.text((left - 8, middle), _drawable(cut), INK, font, anchor="rm")
        if value is None:
            draw.text((left + 4, middle), "none", INK, font, anchor="lm")
            continue
        ends = sorted((place(0), place(value)))
        draw.rectangle([ends[0], middle - 7, ends[1], middle + 7], LINE)
        if margin is not None:
            draw.line([(place(value - margin), middle), (place(value + margin), middle)], SMOOTH, 2)
        draw.text((PANEL - RIGHT + 6, middle), f"{value:.3g}", INK, font, anchor="lm")
    return sheet


def _drawable(text: str) -> str:
    """Without accents, which Pillow's own font has not."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
