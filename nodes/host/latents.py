"""Latents of a MODEL: their channels, and their size in pixels."""

import re

import comfy.sample
from comfy.model_patcher import ModelPatcher
from torch import Tensor


def latent_shapes(model: ModelPatcher, sizes: str) -> list[tuple[int, ...]]:
    """(C, H, W) of the MODEL's latents for sizes in pixels such as '832x1216, 1216x832', width first.

    Raises ValueError for another form, and where a side is not a multiple of a latent's pixels.
    """
    latent_format = model.get_model_object("latent_format")
    pixels = getattr(latent_format, "spacial_downscale_ratio", 8)
    shapes = []
    for size in filter(None, (part.strip() for part in sizes.split(","))):
        match = re.fullmatch(r"(\d+)\s*[x×]\s*(\d+)", size)
        width, height = map(int, match.groups()) if match else (0, 0)
        if not width or not height or width % pixels or height % pixels:
            raise ValueError(
                f"more_sizes has {size!r}; expected width x height in pixels, such as 832x1216, with commas between, "
                f"both multiples of {pixels}."
            )
        shapes.append((latent_format.latent_channels, height // pixels, width // pixels))
    return shapes


def model_latent(model: ModelPatcher, latent: Tensor) -> Tensor:
    """The latent with the channels that the model wants, if it is empty. Raises ValueError if it is not."""
    wanted = model.get_model_object("latent_format").latent_channels
    fixed = comfy.sample.fix_empty_latent_channels(model, latent)
    if fixed.shape[1] != wanted:
        raise ValueError(
            f"the latent has {fixed.shape[1]} channels; this MODEL's have {wanted}. Encode with the VAE that belongs "
            "to the model, or use an empty latent."
        )
    return fixed
