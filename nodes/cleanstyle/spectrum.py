"""What CleanStyle takes out of each layer, and when, as a picture and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..host.model import progress_by_sigma
from ..host.node import Node
from ..host.search import found_by
from ..pictures.charts import FAINT, INK
from .purify import OFF, Settings
from .spectra import LayerSpectrum, spectra
from .view import view

BEFORE, AFTER, NEGATIVE = "#d3dbe5", "#1f6fc0", "#e0752d"
SCHEDULES = ("#1f6fc0", "#7a4fb5", "#2f8f5b", "#b5544f")  # one for each CleanStyle on the MODEL
CELL = (176, 132)
LEAST_WIDTH = 4 * CELL[0]
RUN_HEIGHT = 222
PAGE_MARGIN = 16
SMOOTHING = 2  # drawn at so many times the size, and then made smaller


@dataclass(frozen=True)
class Schedule:
    """One CleanStyle's settings in words, and its α_t at each sigma of the run."""

    name: str
    alphas: Sequence[float]


@dataclass(frozen=True)
class Layer:
    """One panel: singular values before, after where the run's α_t is largest, and of the style-negative (or none).

    kept, kept_by_negative: the shares of energy that both have left. schedule: which of the schedules it follows.
    """

    name: str
    schedule: int
    before: Sequence[float]
    after: Sequence[float]
    kept: float
    negative: Sequence[float] = ()
    kept_by_negative: float | None = None


def found_on(model: ModelPatcher, picture: int) -> list[LayerSpectrum]:
    """Raises ValueError for a MODEL without CleanStyle."""
    found = list(spectra(model, picture))
    if not found:
        raise ValueError("Connect a CleanStyle node before this one: this MODEL has none on an image prompt.")
    return found


def measure(found: Sequence[LayerSpectrum], progress: list[float], picture: int) -> tuple[list[Schedule], list[Layer]]:
    """What CleanStyle does to these layers in a run's steps, for the picture of that number (from 1)."""
    all_settings = list(dict.fromkeys(layer.settings for layer in found))
    schedules = [Schedule(_in_words(settings), _alphas(settings, progress)) for settings in all_settings]
    layers = []
    for layer in found:
        schedule = all_settings.index(layer.settings)
        layers.append(_layer(layer, schedule, max(schedules[schedule].alphas), picture))
    return schedules, layers


def _in_words(settings: Settings) -> str:
    words = f"alpha {settings.alpha:g}, gamma {settings.gamma:g}, center {settings.center:g}, top_k {settings.top_k}"
    return words + (", normalized" if settings.relative else "")


def _alphas(settings: Settings, progress: list[float]) -> list[float]:
    return [settings.alpha_at(p) if settings.acts_at(p) else 0.0 for p in progress]


def _layer(layer: LayerSpectrum, schedule: int, alpha: float, picture: int) -> Layer:
    spectrum, settings = layer.spectrum, layer.settings
    values = spectrum.singular_values
    row = min(picture, len(values)) - 1  # the pictures of a batch may share the last one

    def rescaled(gains: Tensor) -> tuple[list[float], float]:
        return (gains * values)[row].tolist(), spectrum.kept(gains)[row].item()

    after, kept = rescaled(settings.purify_gains(spectrum, alpha))
    off = settings.style_negative == OFF
    negative, kept_by_negative = ([], None) if off else rescaled(settings.negative_gains(spectrum))
    return Layer(layer.name, schedule, values[row].tolist(), after, kept, negative, kept_by_negative)


def draw_spectra(sigmas: Sequence[float], schedules: Sequence[Schedule], layers: Sequence[Layer]) -> Image.Image:
    """α_t over the run at the top, and below it a panel for each layer: what is left of each singular value."""
    columns = _columns(len(layers))
    width = max(LEAST_WIDTH, columns * CELL[0])
    cell = (width // columns, CELL[1])
    rows = -(-len(layers) // columns)
    size = (width + 2 * PAGE_MARGIN, RUN_HEIGHT + rows * cell[1] + PAGE_MARGIN)
    page = _Page(size)
    _draw_run(page, (PAGE_MARGIN, 0, PAGE_MARGIN + width, RUN_HEIGHT), sigmas, schedules)
    for i, layer in enumerate(layers):
        left, top = PAGE_MARGIN + i % columns * cell[0], RUN_HEIGHT + i // columns * cell[1]
        _draw_layer(page, (left, top, left + cell[0], top + cell[1]), layer, SCHEDULES[layer.schedule % len(SCHEDULES)])
    return page.finished()


def _columns(layers: int) -> int:
    # Even, so that a layer's keys and values are side by side.
    return min(10, max(2, 2 * round((layers / 2) ** 0.5 / 1.2)))


class _Page:
    """A picture in pixels of its final size, drawn larger."""

    def __init__(self, size: tuple[int, int]):
        self.size = size
        self.image = Image.new("RGB", (size[0] * SMOOTHING, size[1] * SMOOTHING), "white")
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, text: str, size: int = 12, colour: str = INK, anchor: str = "la") -> float:
        """Returns its width."""
        font = ImageFont.load_default(size * SMOOTHING)
        self.draw.text((x * SMOOTHING, y * SMOOTHING), text, colour, font, anchor=anchor)
        return font.getlength(text) / SMOOTHING

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        if right > left and bottom > top:
            edges = [round(edge * SMOOTHING) for edge in (left, top, right, bottom)]
            self.draw.rectangle((edges[0], edges[1], max(edges[0], edges[2] - 1), max(edges[1], edges[3] - 1)), colour)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float = 1) -> None:
        places = [(x * SMOOTHING, y * SMOOTHING) for x, y in points]
        self.draw.line(places, colour, round(width * SMOOTHING), joint="curve")

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        edges = (x - radius, y - radius, x + radius, y + radius)
        self.draw.ellipse([edge * SMOOTHING for edge in edges], colour)

    def finished(self) -> Image.Image:
        return self.image.resize(self.size, Image.Resampling.BOX)


Box = tuple[float, float, float, float]  # left, top, right, bottom


def _draw_run(page: _Page, box: Box, sigmas: Sequence[float], schedules: Sequence[Schedule]) -> None:
    left, top, right, bottom = box[0] + 56, box[1] + 56, box[2] - 20, box[3] - 58
    page.text(box[0], box[1] + 12, "alpha_t: how strongly the content is suppressed, step by step", 15)
    highest = max(max(schedule.alphas) for schedule in schedules) or 1.0
    apart = (right - left) / max(1, len(sigmas) - 1)
    for share in (0.0, 0.5, 1.0):
        y = bottom - (bottom - top) * share
        page.line([(left, y), (right, y)], FAINT)
        page.text(left - 10, y, f"{highest * share:.3g}", 11, anchor="rm")
    shown = max(1, -(-len(sigmas) * 46 // int(right - left)))  # labels that would else overlap are left out
    for i in range(0, len(sigmas), shown):
        page.text(left + apart * i, bottom + 8, f"{sigmas[i]:.3g}", 11, anchor="ma")
    page.text(box[0], bottom + 8, "sigma", 11)
    for number, schedule in enumerate(schedules):
        colour = SCHEDULES[number % len(SCHEDULES)]
        points = [
            (left + apart * i, bottom - (bottom - top) * alpha / highest) for i, alpha in enumerate(schedule.alphas)
        ]
        if len(points) > 1:
            page.line(points, colour, 2)
        for point in points:
            page.dot(*point, 3, colour)
        page.text(right, top - 22 + 15 * number, schedule.name, 11, colour, anchor="ra")
    x, y = box[0], box[3] - 22
    for colour, text in ((BEFORE, "taken out"), (AFTER, "left where alpha_t is largest"), (NEGATIVE, "style-negative")):
        page.box(x, y, x + 11, y + 11, colour)
        x += 42 + page.text(x + 17, y + 6, text, 12, anchor="lm")


def _draw_layer(page: _Page, box: Box, layer: Layer, colour: str) -> None:
    left, top, right, bottom = box[0], box[1] + 40, box[2] - 14, box[3] - 10
    page.text(left, box[1] + 6, layer.name, 12)
    page.text(left, box[1] + 22, f"{layer.kept:.0%} of energy left", 11, colour)
    page.text(right, box[1] + 22, f"1st {layer.before[0]:.3g}", 11, anchor="ra")
    highest = max(*layer.before, *layer.after, *layer.negative, 1e-30)
    wide = (right - left) / len(layer.before)
    gap = min(2.0, wide / 4) if wide >= 3 else 0.0  # many thin bars would show stripes

    def height(value: float) -> float:
        return bottom - (bottom - top) * value / highest

    for i, (before, after) in enumerate(zip(layer.before, layer.after, strict=True)):
        x = left + wide * i
        page.box(x, height(before), x + wide - gap, bottom, BEFORE)
        page.box(x, height(after), x + wide - gap, bottom, colour)
    for i, value in enumerate(layer.negative):
        x, y = left + wide * i, height(value)
        page.line([(x, y), (x + wide - gap, y)], NEGATIVE, 1.5)
    page.line([(left, bottom), (right, bottom)], INK)


class CleanStyleSpectrum(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CleanStyleSpectrum",
            **found_by("svd", "singular values", "leakage"),
            display_name="CleanStyle Spectrum",
            category="CleanStyle",
            description="Shows what CleanStyle takes out of each layer of a MODEL, and when in the run: the singular "
            "values of the style picture's keys and values, before and after.",
            inputs=[
                io.Model.Input("model", tooltip="With CleanStyle on it."),
                io.Sigmas.Input("sigmas", tooltip="Of the run: from the scheduler that the sampler has."),
                io.Int.Input(
                    "picture",
                    default=1,
                    min=1,
                    max=4096,
                    tooltip="Which picture of the batch, from 1, where each has a style picture of its own.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image"), io.String.Output(display_name="json")],
        )

    @classmethod
    def execute(cls, model, sigmas, picture):
        if sigmas.ndim != 1 or len(sigmas) < 2 or not sigmas.isfinite().all():
            raise ValueError(
                f"Connect a scheduler of 1 step or more to sigmas: it is of shape {tuple(sigmas.shape)}, where finite "
                "numbers, two or more, make a run to show."
            )
        steps = sigmas[:-1]  # the last one is where the run ends: nothing is computed there
        progress_at = progress_by_sigma(model)
        progress = [progress_at(sigma) for sigma in steps.tolist()]
        found = found_on(model, picture)
        schedules, layers = measure(found, progress, picture)
        image = draw_spectra(steps.tolist(), schedules, layers)
        told = {"sigmas": steps.tolist()} | {
            "schedules": [asdict(schedule) for schedule in schedules],
            "layers": [asdict(layer) for layer in layers],
        }
        tensor = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]
        return io.NodeOutput(tensor, json.dumps(told), ui=view(found, picture, progress))


NODES = [CleanStyleSpectrum]
