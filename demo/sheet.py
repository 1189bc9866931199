"""A few of the world's pictures in one PNG that is shipped: all nine styles of 30 subjects.

For contact sheets, for the demo's style pictures and for measuring leakage, without the icon sets. Anyone can open it
and see: a row is a subject, a column a style.
"""

import json
from pathlib import Path

import numpy as np
import torch
from pictures import STYLES, TILE, Pictures
from PIL import Image, PngImagePlugin
from torch import Tensor

FILE = Path(__file__).parent / "assets" / "reference.png"
SHOWN = (  # things that one can tell apart at a glance; bell, bus, fire, monkey face and open book are held out
    "airplane",
    "alien",
    "balloon",
    "bell",
    "bomb",
    "bus",
    "cat",
    "cherries",
    "christmas tree",
    "crown",
    "dolphin",
    "elephant",
    "fire",
    "four leaf clover",
    "ghost",
    "grapes",
    "guitar",
    "house with garden",
    "lemon",
    "monkey face",
    "mushroom",
    "octopus",
    "open book",
    "panda",
    "rainbow",
    "rocket",
    "rose",
    "sailboat",
    "snowflake",
    "umbrella",
)
LICENCE = (
    "Icons of nine sets, rendered to 64x64 on white: Noto Emoji and Noto Emoji v1 (Google, Apache-2.0), Twemoji "
    "(Twitter and jdecked, CC-BY-4.0), Fluent Emoji Flat and High Contrast (Microsoft, MIT), Emoji One 2 colored and "
    "monotone (Emoji One, EmojiTwo, CC-BY-4.0), FxEmojis (Mozilla, Apache-2.0), Streamline Emojis (Streamline, "
    "CC-BY-4.0). demo/PICTURES.md has the addresses."
)


def shown_pictures(pictures: Pictures) -> Pictures:
    """Those of SHOWN, by subject and then by style. Raises ValueError where a subject has not all the styles."""
    rows = []
    for subject in SHOWN:
        mine = (pictures.subjects == pictures.captions.index(subject)).nonzero()[:, 0]
        if pictures.styles[mine].tolist() != list(range(len(STYLES))):
            raise ValueError(f"Leave {subject!r} out of SHOWN: it is not there in all {len(STYLES)} styles.")
        rows.append(mine)
    index = torch.cat(rows)
    subjects = torch.arange(len(SHOWN)).repeat_interleave(len(STYLES))
    return Pictures(pictures.images[index], subjects, pictures.styles[index], pictures.held_out[index], list(SHOWN))


def save_sheet(pictures: Pictures, file: Path) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("captions", json.dumps(pictures.captions), zip=True)
    notes.add_itxt("styles", json.dumps(STYLES), zip=True)
    notes.add_itxt("held_out", json.dumps(pictures.held_out.tolist()), zip=True)
    notes.add_itxt("licence", LICENCE)
    Image.fromarray(as_sheet(pictures.images).numpy()).save(file, pnginfo=notes, optimize=True)


def load_sheet(file: Path = FILE) -> Pictures:
    """The shown pictures, like `pictures.load_pictures` has all; their subjects are numbered from 0 on."""
    with Image.open(file) as sheet:
        pixels = torch.from_numpy(np.asarray(sheet.convert("RGB")).copy())
        notes = sheet.text  # Pillow has these only after the pixels are read
    captions = json.loads(notes["captions"])
    count, styles = len(captions), torch.arange(len(STYLES))
    return Pictures(
        as_tiles(pixels),
        torch.arange(count).repeat_interleave(len(styles)),
        styles.repeat(count),
        torch.tensor(json.loads(notes["held_out"])),
        captions,
    )


def as_sheet(images: Tensor) -> Tensor:
    """(N, 64, 64, 3), a row's after one another → (N / 9 * 64, 9 * 64, 3)."""
    rows = images.unflatten(0, (-1, len(STYLES)))
    return rows.transpose(1, 2).flatten(2, 3).flatten(0, 1).contiguous()


def as_tiles(pixels: Tensor) -> Tensor:
    """`as_sheet` undone."""
    rows = pixels.unflatten(1, (len(STYLES), TILE)).unflatten(0, (-1, TILE))
    return rows.transpose(1, 2).flatten(0, 1).contiguous()
