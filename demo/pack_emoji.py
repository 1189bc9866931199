"""Pack the Noto Color Emoji font into `assets/emoji.png`, the data the demo model is trained and measured on.

The captions that the model is trained with go into `assets/emoji_names.txt` as well, for SiDPrompts.

Run once by a maintainer, with the font installed and `pip install fonttools`:

    python demo/pack_emoji.py /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf

One PNG holds everything: a sheet of 64x64 tiles, and as text chunks their captions, which of them are held out of
training, and the licence notice. Anyone can open it and see the data.
"""

import argparse
import io
import json
import random
import re
import unicodedata
from collections import Counter
from pathlib import Path

from fontTools.ttLib import TTFont
from PIL import Image, PngImagePlugin

TILE = 64
COLUMNS = 38
HELD_OUT_SHARE = 0.1
LICENCE = (
    "Noto Color Emoji 2.042, Copyright Google Inc. Licensed under the SIL Open Font License, Version 1.1 "
    "(https://openfontlicense.org). Captions are Unicode character names. Rendered to 64x64 on white."
)


def named_emoji(font_file: Path) -> dict[str, Image.Image]:
    """Every single-codepoint bitmap of the font that has a Unicode name, as a square RGB picture on white."""
    font = TTFont(font_file)
    bitmaps = font["CBDT"].strikeData[0]
    pictures = {}
    for codepoint, glyph in sorted(font.getBestCmap().items()):
        name = unicodedata.name(chr(codepoint), "").lower()
        if glyph not in bitmaps or not name:
            continue
        emoji = Image.open(io.BytesIO(bitmaps[glyph].imageData)).convert("RGBA")
        side = max(emoji.size)
        canvas = Image.new("RGBA", (side, side), "white")
        canvas.alpha_composite(emoji, ((side - emoji.width) // 2, (side - emoji.height) // 2))
        pictures[name] = canvas.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS)
    return pictures


def choose_held_out(captions: list[str], seed: int = 0) -> list[int]:
    """Indices kept out of training: a tenth of all, and only captions whose every word is still learnt elsewhere."""
    words = [set(re.findall(r"[a-z0-9]+", caption)) for caption in captions]
    left = Counter(word for caption in words for word in caption)
    order = list(range(len(captions)))
    random.Random(seed).shuffle(order)
    chosen = []
    for index in order:
        if len(chosen) < HELD_OUT_SHARE * len(captions) and all(left[word] > 2 for word in words[index]):
            chosen.append(index)
            left.subtract(words[index])
    return sorted(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("font", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "assets" / "emoji.png")
    args = parser.parse_args()
    pictures = named_emoji(args.font)
    captions = list(pictures)
    sheet = Image.new("RGB", (COLUMNS * TILE, -(-len(captions) // COLUMNS) * TILE), "white")
    for index, picture in enumerate(pictures.values()):
        sheet.paste(picture, (index % COLUMNS * TILE, index // COLUMNS * TILE))
    held_out = choose_held_out(captions)
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("captions", json.dumps(captions), zip=True)
    notes.add_itxt("held_out", json.dumps(held_out), zip=True)
    notes.add_itxt("licence", LICENCE)
    sheet.save(args.out, pnginfo=notes, optimize=True)
    names = [caption for index, caption in enumerate(captions) if index not in held_out]
    header = (
        "# The emoji that the demo model is trained on, by their Unicode names. A tenth is held out for measuring.\n"
    )
    args.out.with_name("emoji_names.txt").write_text(header + "\n".join(names) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
