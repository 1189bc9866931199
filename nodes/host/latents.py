"""Latents of a MODEL: their channels, and their size in pixels."""

import inspect
import re
from typing import Any

import comfy.sample
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .families import family_of

MOST_PIXELS = 16_384  # of a side
MOST_OFF = 2.0  # times as many pixels, or as few, that are not worth a word


def pixels_per_cell(model: ModelPatcher) -> int:
    """How many pixels of a picture's side a cell of the MODEL's latents stands for."""
    said = getattr(model.get_model_object("latent_format"), "spacial_downscale_ratio", None)
    return family_of(model).pixels if said is None else said


def cells(model: ModelPatcher, width: int, height: int) -> tuple[int, int]:
    """(H, W) of the MODEL's latents of that many pixels. Raises ValueError where a side is no multiple of a cell's."""
    pixels = pixels_per_cell(model)
    for name, side in (("width", width), ("height", height)):
        if side % pixels or side < pixels:
            raise ValueError(f"Set {name} to a multiple of {pixels}, which this model works in; it is {side}.")
    return height // pixels, width // pixels


def latent_shapes(model: ModelPatcher, sizes: str, frames: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """(C, H, W) of the MODEL's latents for sizes in pixels such as '832x1216, 1216x832', width first.

    frames: (T,) of a video, for (C, T, H, W).

    Raises ValueError for another form, and where a side is not a multiple of a latent's pixels.
    """
    pixels, channels = pixels_per_cell(model), model.get_model_object("latent_format").latent_channels
    shapes = []
    for size in filter(None, (part.strip() for part in sizes.split(","))):
        match = re.fullmatch(r"(\d+)\s*[x×]\s*(\d+)", size)
        width, height = map(int, match.groups()) if match else (0, 0)
        if not all(0 < side <= MOST_PIXELS and side % pixels == 0 for side in (width, height)):
            raise ValueError(
                f"Write more_sizes as width x height in pixels with commas between, such as 832x1216, 1216x832, all "
                f"multiples of {pixels} up to {MOST_PIXELS}; it has {size!r:.60}."
            )
        shapes.append((channels, *frames, height // pixels, width // pixels))
    return shapes


def model_latent(model: ModelPatcher, latent: dict[str, Any]) -> Tensor:
    """A LATENT's samples; if they are empty, with the channels and the size that the host gives them for the model.

    Raises ValueError for others of another number of channels.
    """
    samples = latent["samples"]
    wanted = model.get_model_object("latent_format").latent_channels
    host = comfy.sample.fix_empty_latent_channels
    # Newer hosts' empty latents say what they were made for, so that they can be made to fit another model.
    known = inspect.signature(host).parameters.keys() & latent.keys()
    fixed = host(model, samples, **{name: latent[name] for name in known})
    if fixed.shape[1] != wanted:
        raise ValueError(
            f"Connect an empty latent, or one encoded with the VAE that belongs to the model: this one has "
            f"{fixed.shape[1]} channels, and this MODEL's have {wanted}."
        )
    return fixed


def unusual_size(model: ModelPatcher, shape: tuple[int, ...]) -> str | None:
    """What to say of latents (C, H, W) far from the size of the pictures that the MODEL was trained on."""
    side = family_of(model).side
    height, width = (cell * pixels_per_cell(model) for cell in shape[-2:])
    if side is None or side**2 / MOST_OFF <= width * height <= side**2 * MOST_OFF:
        return None
    return (
        f"Connect a latent of about {side}x{side} pixels, unless this is meant: it is of {width}x{height}, and models "
        f"of this kind draw poorly so far from the size that they were trained on."
    )
