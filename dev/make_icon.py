"""Draw the Registry's icon (square) and banner (21:9): a flower that comes out of noise in four steps.

python dev/make_icon.py     writes docs/images/icon.png and banner.png
"""

import math
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

OUT = Path(__file__).resolve().parent.parent / "docs" / "images"
ICON, BANNER = 400, (1680, 720)  # the Registry takes icons of up to 400 pixels
STEPS = (1.0, 0.66, 0.33, 0.0)  # how much of each is noise
GRAINS = 14  # across one picture
SMOOTH = 4  # drawn so many times as large
PAPER, PETAL, HEART, INK, FAINT = "#10243e", "#ffb627", "#7a3b12", "#f4f6fa", "#9fb3cc"
PETALS = 12
COLOURS = 128


def flower(side: int) -> Image.Image:
    """Of PETALS petals, in a square."""
    size = side * SMOOTH
    picture = Image.new("RGB", (size, size), PAPER)
    draw, middle = ImageDraw.Draw(picture), size / 2
    reach, petal = 0.29 * size, 0.105 * size
    for place in range(PETALS):
        angle = 2 * math.pi * place / PETALS
        x, y = middle + reach * math.cos(angle), middle + reach * math.sin(angle)
        draw.line((middle, middle, x, y), PETAL, round(1.4 * petal))
        draw.ellipse((x - petal, y - petal, x + petal, y + petal), PETAL)
    heart = 0.17 * size
    draw.ellipse((middle - heart, middle - heart, middle + heart, middle + heart), HEART)
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def noise(side: int, chance: random.Random) -> Image.Image:
    """Grains of any colour, large enough to be seen where the picture is small."""
    grains = Image.new("RGB", (GRAINS, GRAINS))
    grains.putdata([tuple(chance.randrange(256) for _ in "RGB") for _ in range(GRAINS**2)])
    return grains.resize((side, side), Image.Resampling.NEAREST)


def steps(side: int) -> list[Image.Image]:
    chance = random.Random(0)
    return [Image.blend(flower(side), noise(side, chance), share) for share in STEPS]


def icon() -> Image.Image:
    """The four steps as two rows, with round corners."""
    gap = 8
    side = (ICON - gap) // 2
    picture = Image.new("RGB", (ICON, ICON), INK)
    for place, step in enumerate(steps(side)):
        picture.paste(step, (place % 2 * (side + gap), place // 2 * (side + gap)))
    corners = Image.new("L", (ICON * SMOOTH,) * 2)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, ICON * SMOOTH - 1, ICON * SMOOTH - 1), 56 * SMOOTH, 255)
    picture.putalpha(corners.resize((ICON, ICON), Image.Resampling.LANCZOS))
    return picture


def banner() -> Image.Image:
    """The four steps in a row above the pack's name."""
    width, height = BANNER
    picture = Image.new("RGB", BANNER, PAPER)
    draw = ImageDraw.Draw(picture)
    side, gap = 320, 32
    left = (width - len(STEPS) * side - (len(STEPS) - 1) * gap) // 2
    for place, step in enumerate(steps(side)):
        picture.paste(step, (left + place * (side + gap), 80))
    for text, size, y, ink in (
        ("SiD: few-step students and CleanStyle", 72, 510, INK),
        ("Sample in 1 to 4 steps. Distil your own model. Take a style, not its subject.", 40, 600, FAINT),
    ):
        draw.text((width // 2, y), text, ink, ImageFont.load_default(size), anchor="mm")
    return picture.quantize(COLOURS, dither=Image.Dither.NONE)


def main() -> None:
    for name, picture in (("icon", icon()), ("banner", banner())):
        path = OUT / f"{name}.png"
        picture.save(path, optimize=True)
        print(f"{path}: {picture.width}x{picture.height}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
