"""Draw twelve subjects in all nine styles by one setting, what was held out of training in a red frame.

    python demo/draw_sheet.py sheet.png --teacher 50 dpmpp_2m karras 4
    python demo/draw_sheet.py sheet.png --student demo/assets/student_4_steps.safetensors 4

One framed in its row: that pair of subject and style was held out. A whole row: the subject was, in all styles.
"""

import argparse
from pathlib import Path

import torch
from contact_sheet import COLOURS, contact_sheet
from drawing import Artist, Setting
from evaluate import student_setting, teacher_setting
from host import start_comfyui
from pictures import STYLES, TRAINING
from PIL import Image
from sheet import load_sheet

SUBJECTS = (
    "airplane",
    "cat",
    "cherries",
    "elephant",
    "fire",
    "grapes",
    "guitar",
    "house with garden",
    "mushroom",
    "rose",
    "sailboat",
    "umbrella",
)
BATCH = 54


def draw(setting: Setting) -> Image.Image:
    real = load_sheet()
    captions = [f"{subject}, {style}" for subject in SUBJECTS for style in STYLES]
    drawn = Artist(captions, BATCH).draw(setting, torch.arange(len(captions)), seed=0).images
    held_out = torch.stack([real.held_out[real.subjects == real.captions.index(name)] for name in SUBJECTS]) != TRAINING
    rows = dict(zip(SUBJECTS, drawn.split(len(STYLES)), strict=True))
    return contact_sheet(rows, list(STYLES), held_out).quantize(COLOURS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path, help="the PNG to write")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--teacher", nargs=4, metavar=("STEPS", "SAMPLER", "SCHEDULER", "CFG"))
    what.add_argument("--student", nargs=2, metavar=("FILE", "STEPS"))
    args = parser.parse_args()
    start_comfyui()
    setting = teacher_setting(args.teacher) if args.teacher else student_setting(args.student)
    draw(setting).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
