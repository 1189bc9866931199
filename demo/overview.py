"""Draw what the demo shows: subjects in all styles by the shipped models, and what an image prompt takes along.

    python demo/overview.py demo/contact_sheet.png

Below the subjects are a style picture of each style and what the teacher draws by it, without CleanStyle and with it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from contact_sheet import COLOURS, contact_sheet
from drawing import Artist, Setting
from host import start_comfyui
from image_prompt import ADAPTER, image_tokens, prompted, rows_of
from leakage_trials import TEACHER, WORKING_WEIGHT
from pictures import ASSETS, STYLES
from PIL import Image
from sheet import load_sheet
from torch import Tensor

# The best stock samplers that were tried; dev/LOG.md has them all.
TEACHER_50 = Setting(50, "lcm", "karras", 5.0)
TEACHER_4 = Setting(4, "seeds_2", "normal", 3.5)
TEACHER_2 = Setting(2, "seeds_3", "simple", 2.0)
STUDENT_4 = Setting(4, student=ASSETS / "student_4_steps.safetensors", name="student")
STUDENT_1 = Setting(1, student=ASSETS / "student_1_step.safetensors", name="student")
SHIPPED = (TEACHER_50, TEACHER_4, TEACHER_2, STUDENT_4, STUDENT_1)
# Nearer by the protocol's distance is lcm, and nicer to look at this.
SHOWN = (Setting(50, "dpmpp_2m", "karras", 3.0), STUDENT_4, STUDENT_1)
SUBJECTS = ("red apple", "rocket", "sunflower", "house with garden")
STYLE_SUBJECT, STYLED_SUBJECT = "guitar", "red apple"  # what the style pictures show, and what is drawn in their style
BATCH = 64


def overview(settings: Sequence[Setting] = SHOWN) -> Image.Image:
    """Of each subject a row for each setting, below one another. Needs `start_comfyui()` first."""
    captions = [f"{subject}, {style}" for subject in SUBJECTS for style in STYLES]
    artist, wanted = Artist(captions, BATCH), torch.arange(len(captions))
    drawn = {setting.title: artist.draw(setting, wanted, seed=0).images.split(len(STYLES)) for setting in settings}
    rows = {
        f"{subject}: {title}": pictures[place]
        for place, subject in enumerate(SUBJECTS)
        for title, pictures in drawn.items()
    }
    return contact_sheet(rows | style_rows(), list(STYLES)).quantize(COLOURS)


def style_rows() -> dict[str, Tensor]:
    """A style picture of each style, and what the teacher draws by it, without CleanStyle and with it."""
    from sid_pack.nodes.cleanstyle.model import clean
    from sid_pack.nodes.cleanstyle.purify import Settings
    from sid_pack.nodes.demo.image_encoder import load_image_encoder
    from sid_pack.nodes.image_prompts.ip_adapter_files import load_adapter

    pictures = load_sheet()
    shown = pictures.image(pictures.subjects == pictures.captions.index(STYLE_SUBJECT))
    adapter = load_adapter(ADAPTER)
    tokens = image_tokens(adapter, load_image_encoder(), shown)

    def styled(model, rows: slice):
        return prompted(model, adapter, rows_of(tokens, rows), WORKING_WEIGHT)

    def cleaned(model, rows: slice):
        return clean(styled(model, rows), Settings())

    artist, wanted = Artist([STYLED_SUBJECT], BATCH), torch.zeros(len(STYLES), dtype=torch.long)
    drawn = {f"{STYLED_SUBJECT} in their style": styled, f"{STYLED_SUBJECT} with CleanStyle": cleaned}
    rows = {title: artist.draw(TEACHER, wanted, seed=0, patch=patch).images for title, patch in drawn.items()}
    return {f"style pictures: {STYLE_SUBJECT}": shown} | rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path, help="the PNG to write")
    args = parser.parse_args()
    start_comfyui()
    overview().save(args.out, optimize=True)


if __name__ == "__main__":
    main()
