"""The demo's data set: real pictures with names, out of the one PNG that `pack_emoji.py` made."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ASSETS = Path(__file__).parent / "assets"
TILE = 64
SIZES = (56, 60, 64)  # that the models learn each picture in, in pixels


@dataclass(frozen=True)
class EmojiSet:
    """Pictures (N, 64, 64, 3) in [0, 1], as ComfyUI's IMAGE; their captions; and who is left out of training."""

    images: Tensor
    captions: list[str]
    held_out: Tensor

    @property
    def training(self) -> Tensor:
        """Indices of the captions that a model may learn from."""
        keep = torch.ones(len(self.captions), dtype=torch.bool)
        keep[self.held_out] = False
        return keep.nonzero()[:, 0]


def load_emoji(sheet_file: Path = ASSETS / "emoji.png") -> EmojiSet:
    with Image.open(sheet_file) as sheet:
        pixels = torch.from_numpy(np.asarray(sheet.convert("RGB")).copy())
        notes = sheet.text  # Pillow has these only after the pixels are read
    captions = json.loads(notes["captions"])
    rows, columns = pixels.shape[0] // TILE, pixels.shape[1] // TILE
    tiles = pixels.view(rows, TILE, columns, TILE, 3).transpose(1, 2).reshape(-1, TILE, TILE, 3)
    return EmojiSet(tiles[: len(captions)].float() / 255, captions, torch.tensor(json.loads(notes["held_out"])))


def at_sizes(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, 64, 64) in [0, 1] in each of SIZES, in the upper left of a white square → (S, N, 3, 64, 64).

    See `placed`.
    """
    canvases = torch.ones(len(SIZES), *pictures.shape)
    for canvas, size in zip(canvases, SIZES, strict=True):
        scaled = torch.nn.functional.interpolate(pictures, size=(size, size), mode="bicubic", antialias=True)
        canvas[..., :size, :size] = scaled.clamp(0, 1)
    return canvases


def placed(canvases: Tensor, pick: Tensor) -> Tensor:
    """The pictures of these indices (B,), each in a random size at a random place: (B, 3, 64, 64) of `at_sizes`.

    Without it a caption has one picture only. A network then knows it by heart, a glance is as good as fifty steps,
    and few-step students have nothing to learn.
    """
    chosen = torch.randint(len(SIZES), pick.shape)
    free = TILE - torch.tensor(SIZES)[chosen]
    corners = (torch.rand(len(pick), 2) * (free[:, None] + 1)).long().tolist()
    return torch.stack(
        [canvases[s, i].roll(corner, (-2, -1)) for s, i, corner in zip(chosen, pick.cpu(), corners, strict=True)]
    )
