"""Cut the small pictures of the help pages out of the larger ones of real runs. From the repository's root:

    python -m dev.make_help_pictures

The larger ones: demo/contact_sheet.png (demo/overview.py draws it), those of the tutorial and the guide in docs/images,
those of the workflows (make_thumbnails.py) and the demo's real pictures. ComfyUI shows a help page some 280 pixels
wide; the pictures have up to twice as many, for screens of two pixels a point.
"""

from pathlib import Path

from PIL import Image, ImageOps

from demo.contact_sheet import ENLARGE, GAP, MARGIN, TITLE_WIDTH

from .workflows.titles import TITLES

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "web" / "docs" / "images"
CELL, WIDTH, COLOURS = 64 * ENLARGE, 560, 64
MODELS = 3  # rows of each subject in the contact sheet: the teacher, and the students in 4 steps and in 1
ROCKET = 1  # the subject of these rows that shows the styles best

Box = tuple[int, int, int, int]
# What is cut out of the tutorial's and the guide's pictures, from the top: left, top, right, bottom.
PREVIEWS: list[Box] = [(0, 28, 512, 96), (0, 432, 512, 500)]  # in 4 steps after 50 iterations, and after 500
CURVES: list[Box] = [(0, 0, 460, 218), (0, 226, 460, 436)]  # the fake score's loss, a batch's spread
REAL: Box = (0, 0, 576, 192)  # three subjects in nine styles
# Workflows whose pictures are shown whole.
OF_WORKFLOWS = {
    "guided": "demo_teacher",
    "changed": "demo_change_picture",
    "smaller": "demo_extract_lora",
    "cleaned": "demo_cleanstyle",
    "evaluated": "demo_evaluate",
}
SPECTRUM: list[Box] = [(362, 226, 712, 350)]  # keys and values of the middle block


def main() -> None:
    OUT.mkdir(exist_ok=True)
    sheet = Image.open(ROOT / "demo" / "contact_sheet.png").convert("RGB")
    subjects = [MODELS * subject for subject in range(4)]
    write("students", tiled([cell(sheet, row + model, 0) for model in range(MODELS) for row in subjects], 4))
    write("styles", tiled([cell(sheet, MODELS * ROCKET, style) for style in range(9)], 3))
    for name, source, boxes in (
        ("previews", "previews", PREVIEWS),
        ("curves", "curves", CURVES),
        ("spectrum", "cleanstyle_spectrum", SPECTRUM),
    ):
        picture = Image.open(ROOT / "docs" / "images" / f"{source}.png").convert("RGB")
        write(name, tiled([picture.crop(box) for box in boxes], 1))
    write("real", Image.open(ROOT / "demo" / "assets" / "reference.png").convert("RGB").crop(REAL))
    for name, workflow in OF_WORKFLOWS.items():
        picture = Image.open(ROOT / "workflows" / f"{TITLES[workflow]}.jpg").convert("RGB")
        write(name, picture.crop(ImageOps.invert(picture).point(beyond_white).getbbox()))


def beyond_white(difference: int) -> int:
    """What a JPEG makes of white paper is not a part of the picture."""
    return max(0, difference - 16)


def cell(sheet: Image.Image, row: int, column: int) -> Image.Image:
    left, top = MARGIN + TITLE_WIDTH + column * (CELL + GAP), MARGIN + row * (CELL + GAP)
    return sheet.crop((left, top, left + CELL, top + CELL))


def tiled(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Row by row; all of one width, and of one height within a row."""
    width, heights = pictures[0].width + GAP, [picture.height + GAP for picture in pictures[::columns]]
    whole = Image.new("RGB", (columns * width - GAP, sum(heights) - GAP), "white")
    for place, picture in enumerate(pictures):
        whole.paste(picture, (place % columns * width, sum(heights[: place // columns])))
    return whole


def write(name: str, picture: Image.Image) -> None:
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, picture.height * WIDTH // picture.width), Image.Resampling.LANCZOS)
    path = OUT / f"{name}.png"
    picture.quantize(COLOURS).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {picture.width}x{picture.height}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
