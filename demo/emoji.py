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
