"""Draw the pictures that the template browser shows beside the workflows. From the repository's root:

    python -m dev.make_thumbnails                 starts the ComfyUI at COMFYUI_PATH
    python -m dev.make_thumbnails --server URL    asks a running one that has this pack

Each demo workflow is run as it is shipped, and its picture is made of what it saves. Two are not run, as they train for
minutes: theirs are those of the tutorial, which a run of the same graph has made. A workflow that needs weights to be
got gets the picture of its demo twin, with the family's name below it.
"""

import argparse
import io
import json
import time
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .make_workflows import ROOT, WORKFLOWS, comfyui
from .workflows.titles import TITLES

SIDE, BAND, MOST_BYTES = 400, 52, 20_000
# The tutorial's pictures, and what of them is shown: left, top, right, bottom.
OF_A_RUN = {
    "demo_distil": ("previews.png", (0, 404, 512, 788)),
    "demo_distil_best": ("curves.png", (0, 0, 460, 440)),
}
TWINS = {
    "sdxl_sample_student": "demo_sample_student",
    "sdxl_second_pass": "demo_sample_student",
    "sdxl_distil_lora": "demo_distil",
    "sd15_distil_images": "demo_distil_best",
    "sdxl_cleanstyle": "demo_cleanstyle",
    "sdxl_cleanstyle_before_after": "demo_cleanstyle",
    "sdxl_cleanstyle_student": "demo_cleanstyle_student",
    "sd15_cleanstyle_styleshot": "demo_cleanstyle",
    "sdxl_cleanstyle_ipadapter_plus": "demo_cleanstyle",
    "flux_cleanstyle_redux": "demo_cleanstyle",
}
RUN_LIMIT_S = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", metavar="URL")
    demos = [name for name in TITLES if name not in TWINS]
    with comfyui(parser.parse_args().server) as url:
        pictures = {name: picture(url, name) for name in demos}
    for name, title in TITLES.items():
        drawn = pictures[name] if name in pictures else labelled(pictures[TWINS[name]], title.rpartition(" - ")[2])
        save(drawn, WORKFLOWS / f"{title}.jpg")


def picture(url: str, name: str) -> Image.Image:
    if name in OF_A_RUN:
        file, part = OF_A_RUN[name]
        return square([Image.open(ROOT / "docs" / "images" / file).convert("RGB").crop(part)])
    return square(run(url, json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))))


def run(url: str, graph: dict) -> list[Image.Image]:
    """What its SaveImage has saved. Raises TimeoutError, or KeyError where it has saved nothing."""
    body = json.dumps({"prompt": graph, "prompt_id": str(uuid.uuid4())}).encode()
    request = urllib.request.Request(f"{url}/prompt", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        prompt = json.load(answer)["prompt_id"]
    (saving,) = (key for key, node in graph.items() if node["class_type"] == "SaveImage")
    end = time.monotonic() + RUN_LIMIT_S
    while time.monotonic() < end:
        with urllib.request.urlopen(f"{url}/history/{prompt}") as answer:
            history = json.load(answer)
        if prompt in history:
            return [_fetched(url, image) for image in history[prompt]["outputs"][saving]["images"]]
        time.sleep(1)
    raise TimeoutError(f"no end of {prompt} in {RUN_LIMIT_S:.0f} s")


def _fetched(url: str, image: dict[str, str]) -> Image.Image:
    with urllib.request.urlopen(f"{url}/view?{urllib.parse.urlencode(image)}") as answer:
        return Image.open(io.BytesIO(answer.read())).convert("RGB")


def square(images: list[Image.Image]) -> Image.Image:
    """As many of them as fill a square: rows of what is wide, and four of what is square already."""
    width, height = images[0].size
    across = 2 if width == height and len(images) >= 4 else 1
    shown = images[: across * max(1, round(across * width / height))]
    rows = -(-len(shown) // across)
    sheet = Image.new("RGB", (across * width, rows * height), "white")
    for i, image in enumerate(shown):
        sheet.paste(image, (i % across * width, i // across * height))
    sheet.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    filled = Image.new("RGB", (SIDE, SIDE), "white")
    filled.paste(sheet, ((SIDE - sheet.width) // 2, (SIDE - sheet.height) // 2))
    return filled


def labelled(image: Image.Image, text: str) -> Image.Image:
    copy = image.copy()
    draw = ImageDraw.Draw(copy)
    draw.rectangle((0, SIDE - BAND, SIDE, SIDE), fill="#1d2b36")
    draw.text((SIDE / 2, SIDE - BAND / 2), text, fill="white", font=ImageFont.load_default(30), anchor="mm")
    return copy


def save(image: Image.Image, path: Path) -> None:
    """At the best quality that is small enough."""
    for quality in range(90, 20, -5):
        kept = io.BytesIO()
        image.save(kept, "JPEG", quality=quality, optimize=True)
        if kept.tell() <= MOST_BYTES:
            break
    path.write_bytes(kept.getvalue())
    print(path.relative_to(ROOT), kept.tell())


if __name__ == "__main__":
    main()
