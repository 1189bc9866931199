"""Pictures side by side, and labelled, as one picture."""

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

WIDTH = 768  # that small pictures are enlarged to


def picture_grid(pictures: Tensor, columns: int = 4) -> Image.Image:
    """IMAGE (B, H, W, 3) in [0, 1] as one picture, row by row."""
    batch, height, width, _ = pictures.shape
    columns = min(columns, batch)
    sheet = Image.new("RGB", (columns * width, -(-batch // columns) * height), "white")
    for i, picture in enumerate(pictures.clamp(0, 1).mul(255).round().byte().cpu().numpy()):
        sheet.paste(Image.fromarray(picture), (i % columns * width, i // columns * height))
    return sheet


def labelled_rows(sections: dict[str, Tensor], beside: int | None = None) -> Image.Image:
    """{label: IMAGE (B, H, W, 3)} as one picture: each label above its pictures; small ones enlarged to be seen.

    beside: how many sections a picture has that it is to have the columns of.
    """
    columns = 4 if (beside or len(sections)) <= 2 else 8
    grids = {label: picture_grid(pictures, columns) for label, pictures in sections.items()}
    widest = max(grid.width for grid in grids.values())
    factor = max(1, WIDTH // widest)
    width = factor * widest
    text_size = width // 32
    band = 2 * text_size
    sheet = Image.new("RGB", (width, sum(band + factor * grid.height for grid in grids.values())), "white")
    draw, y = ImageDraw.Draw(sheet), 0
    for label, grid in grids.items():
        # Pillow's own font, at the left and in the middle of its band.
        draw.text((text_size // 2, y + band // 2), label, "black", ImageFont.load_default(text_size), anchor="lm")
        sheet.paste(grid.resize((factor * grid.width, factor * grid.height), Image.Resampling.LANCZOS), (0, y + band))
        y += band + factor * grid.height
    return sheet
