"""Make the pictures of the guides in docs/. From the repository's root:

    python -m dev.make_guide_pictures                  what CleanStyle takes out, by the ComfyUI at COMFYUI_PATH
    python -m dev.make_guide_pictures --server URL     the same by a running one that has this pack
    python -m dev.make_guide_pictures --run FOLDER     the tutorial's, of a run's folder in output/sid_runs

The tutorial's run is that of workflows/api/demo_distil.json with 500 iterations. `python -m dev.make_help_pictures`
then cuts the help pages' pictures out of these.
"""

import argparse
import json
import shutil
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "images"
SHOWN_AT = (50, 500)  # iterations of the tutorial's previews
GAP, COLOURS = 20, 256
# The guide shows a stronger CleanStyle than the authors', so that what it does is seen.
ALPHA, STEPS = 0.05, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", metavar="URL")
    parser.add_argument("--run", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    if options.run:
        tutorial(options.run)
        return
    # Not above: they take the repository's root on the path, as `python -m` has it.
    from .make_thumbnails import run
    from .make_workflows import comfyui

    with comfyui(options.server) as url:
        (picture,) = run(url, spectrum_graph())
    picture.save(OUT / "cleanstyle_spectrum.png", optimize=True)


def spectrum_graph() -> dict:
    """The demo's image prompt and CleanStyle, as the shipped workflow has them, and what CleanStyle Spectrum draws."""
    graph = json.loads((ROOT / "workflows" / "api" / "demo_cleanstyle.json").read_text(encoding="utf-8"))
    (cleaned,) = (key for key, node in graph.items() if node["class_type"] == "CleanStyle")
    graph[cleaned]["inputs"]["alpha"] = ALPHA
    kept = upstream(graph, cleaned)
    scheduled = {"model": [cleaned, 0], "scheduler": "karras", "steps": STEPS, "denoise": 1.0}
    kept["sigmas"] = {"class_type": "BasicScheduler", "inputs": scheduled}
    drawn = {"model": [cleaned, 0], "sigmas": ["sigmas", 0], "picture": 1}
    kept["spectrum"] = {"class_type": "CleanStyleSpectrum", "inputs": drawn}
    saved = {"images": ["spectrum", 0], "filename_prefix": "guide/spectrum"}
    kept["saved"] = {"class_type": "SaveImage", "inputs": saved}
    return kept


def upstream(graph: dict, key: str) -> dict:
    """The node and all that it needs."""
    links = [value[0] for value in graph[key]["inputs"].values() if isinstance(value, list)]
    return {key: graph[key]} | {name: node for link in links for name, node in upstream(graph, link).items()}


def tutorial(folder: Path, out: Path = OUT) -> None:
    """Its curves, and two of its previews below each other."""
    shutil.copyfile(folder / "curves.png", out / "curves.png")
    shown = [Image.open(preview_at(folder, iteration)).convert("RGB") for iteration in SHOWN_AT]
    width, height = shown[0].size
    whole = Image.new("RGB", (width, len(shown) * (height + GAP) - GAP), "white")
    for place, picture in enumerate(shown):
        whole.paste(picture, (0, place * (height + GAP)))
    whole.quantize(COLOURS).save(out / "previews.png", optimize=True)


def preview_at(folder: Path, iteration: int) -> Path:
    """Raises FileNotFoundError where the run had none then."""
    for file in (folder / "previews").glob("*.png"):
        if int(file.stem.rpartition("_")[2]) == iteration:
            return file
    raise FileNotFoundError(
        f"Run the graph to {max(SHOWN_AT)} iterations: {folder.name} has no preview at {iteration}."
    )


if __name__ == "__main__":
    main()
