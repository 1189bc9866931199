"""A labelled sheet of pictures: one row for each setting or subject, one column for each caption or style."""

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

ENLARGE = 2
GAP = 16
MARGIN = 28
TITLE_WIDTH = 190
TITLE_SIZE, CAPTION_SIZE = 19, 15
LINE = 1.35
INK, FAINT, PAPER, MARK = "#202124", "#e4e6ea", "white", "#d93025"
MARK_WIDTH = 3
COLOURS = 128  # of a sheet that is committed: a palette makes the file a third


def contact_sheet(rows: dict[str, Tensor], captions: list[str], marked: Tensor | None = None) -> Image.Image:
    """`rows` maps a title to pictures (len(captions), H, W, 3) in [0, 1], all of one size.

    marked: (len(rows), len(captions)) bool, which pictures to frame, such as those whose caption was held out.
    """
    for title, images in rows.items():
        if len(images) != len(captions):
            raise ValueError(f"{title!r} has {len(images)} pictures for {len(captions)} captions")
    title_font, caption_font = (ImageFont.load_default(size) for size in (TITLE_SIZE, CAPTION_SIZE))
    height, width = (ENLARGE * side for side in next(iter(rows.values())).shape[1:3])
    labels = [wrapped(caption, caption_font, width) for caption in captions]
    footer = round(max(label.count("\n") + 1 for label in labels) * CAPTION_SIZE * LINE)
    left = MARGIN + TITLE_WIDTH
    sheet = Image.new(
        "RGB",
        (left + len(captions) * (width + GAP) - GAP + MARGIN, 2 * MARGIN + len(rows) * (height + GAP) + footer),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    for row, (title, images) in enumerate(rows.items()):
        top = MARGIN + row * (height + GAP)
        text = wrapped(title, title_font, TITLE_WIDTH - GAP)
        draw.text((MARGIN, top + height // 2), text, INK, title_font, anchor="lm", spacing=TITLE_SIZE * (LINE - 1))
        for column, image in enumerate(images):
            x = left + column * (width + GAP)
            sheet.paste(enlarged(image), (x, top))
            if marked is not None and marked[row, column]:
                around = (x - MARK_WIDTH, top - MARK_WIDTH, x + width + MARK_WIDTH - 1, top + height + MARK_WIDTH - 1)
                draw.rectangle(around, outline=MARK, width=MARK_WIDTH)
    below = MARGIN + len(rows) * (height + GAP)
    draw.line((MARGIN, below - GAP // 2, sheet.width - MARGIN, below - GAP // 2), FAINT)
    for column, label in enumerate(labels):
        middle = left + column * (width + GAP) + width // 2
        draw.text(
            (middle, below), label, INK, caption_font, anchor="ma", align="center", spacing=CAPTION_SIZE * (LINE - 1)
        )
    return sheet


def enlarged(image: Tensor) -> Image.Image:
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    picture = Image.fromarray(pixels)
    return picture.resize((ENLARGE * picture.width, ENLARGE * picture.height), Image.Resampling.BICUBIC)


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text with line breaks at spaces, so that each line fits the width where its words do."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
