"""The demo: distil the text-to-emoji model in a real ComfyUI, sample students, and measure them against their teacher.

`python dev/demo.py` makes an environment and runs this in it. Everything it writes lies in .sid/demo.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from contact_sheet import contact_sheet
from drawing import Artist, Setting
from emoji import ASSETS, load_emoji
from evaluate import evaluate, some_captions, table
from host import ROOT, start_comfyui

BASE = ROOT / ".sid" / "demo"
WORKFLOWS = ROOT / "workflows" / "api"
# The teacher's best stock samplers, those for few steps by demo/scan.py.
TEACHER_50 = Setting(50, "dpmpp_2m", "karras", 3.5)
TEACHER_4 = Setting(4, "dpmpp_sde", "kl_optimal", 2.5)
TEACHER_2 = Setting(2, "seeds_2", "karras", 2.0)
SHOWN = (
    "grinning face with smiling eyes",
    "red apple",
    "heavy black heart",
    "sunflower",
    "crescent moon",
    "tomato",
    "rocket",
    "birthday cake",
    "soccer ball",
    "cat face",
)


def run_workflow(name: str, *settings: str) -> None:
    """Run one of the pack's workflows in a ComfyUI of its own, headless, as anyone can from a shell."""
    command = [sys.executable, "-m", "sid_core", "run", str(WORKFLOWS / f"{name}.json")]
    command += ["--comfyui", os.environ["COMFYUI_PATH"], "--base-directory", str(BASE)]
    for setting in settings:
        command += ["--set", setting]
    code = subprocess.run(command, cwd=ROOT).returncode
    if code:
        sys.exit(code)


def newest_student(name: str) -> Path:
    """The last file that SiDSaveStudent wrote under this name."""
    files = (BASE / "output" / "diffusion_models").glob(f"{name}_*.safetensors")
    return max(files, key=lambda file: file.stat().st_mtime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--iterations", type=int, default=150, help="of the distillation (default: %(default)s)")
    parser.add_argument("--captions", type=int, default=256, help="pictures for each row (default: %(default)s)")
    args = parser.parse_args()
    began = time.monotonic()

    print(f"\n1/3 Distilling the demo teacher into a 4-step student, {args.iterations} iterations", flush=True)
    run_workflow("demo_distil", f"SiDDistill.iterations={args.iterations}", "SiDDistill.existing_run=start over")
    print("\n2/3 Sampling the student that comes with the pack", flush=True)
    run_workflow("demo_sample_student")

    print(f"\n3/3 Measuring teacher and students on {args.captions} captions", flush=True)
    start_comfyui()
    import comfy.model_management
    from demo_protocol import DemoProtocol

    emoji = load_emoji()
    protocol = DemoProtocol(emoji, comfy.model_management.get_torch_device())
    artist = Artist(emoji.captions, batch=64)
    mine = newest_student("emoji_student")
    settings = [
        TEACHER_50,
        TEACHER_4,
        TEACHER_2,
        Setting(4, student=ASSETS / "student_4_steps.safetensors", name="student"),
        Setting(1, student=ASSETS / "student_1_step.safetensors", name="student"),
        Setting(4, student=mine, name=f"yours ({args.iterations} iterations)"),
    ]
    captions = some_captions(len(emoji.captions), args.captions)
    results = []
    for setting in settings:
        print(f"  {setting.title}", flush=True)
        results.append(evaluate(setting, artist, protocol, captions, seeds=1))

    shown = torch.tensor([emoji.captions.index(caption) for caption in SHOWN])
    rows = {setting.title: artist.draw(setting, shown, seed=0).images for setting in settings}
    sheet_file = BASE / "output" / "contact_sheet.png"
    contact_sheet(rows, list(SHOWN)).save(sheet_file)

    print("\n" + table(results, protocol))
    print(
        f"\nLess distance and more R@10 are better; README.md says what they are. With {args.captions} pictures, a few "
        "percent are chance: its table is of all 1,405, in five runs."
    )
    print(f"Your student: {mine}")
    print(f"Contact sheet: {sheet_file}")
    print(f"Done in {(time.monotonic() - began) / 60:.1f} min")


if __name__ == "__main__":
    main()
