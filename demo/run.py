"""The demo: distil the demo model in a real ComfyUI, sample students, and measure them against their teacher.

`python dev/demo.py` makes an environment and runs this in it. Everything it writes lies in .sid/demo.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from drawing import Artist, Setting
from evaluate import evaluate, held_out_table, table
from host import ROOT, load_pack, start_comfyui
from overview import SHIPPED, SHOWN, STUDENT_4, overview
from timing import Ticker, in_words

BASE = ROOT / ".sid" / "demo"
WORKFLOWS = ROOT / "workflows" / "api"
# Evaluations of the network for one picture: guidance takes two for each, and some samplers more than one a step.
FORWARDS = {("lcm", 50): 100, ("seeds_2", 4): 14, ("seeds_3", 2): 8, ("lcm", 4): 4, ("lcm", 1): 1}
# What an iteration of demo_distil costs, in evaluations of the network for one picture; and what the rest of a workflow
# does, in times that it takes to load ComfyUI here. Both are about the same on any machine.
ITERATION_FORWARDS = 700
WORKFLOW_LOADS = 8
TRIED_AT_ONCE = 64


def run_graph(graph: Path, *settings: str) -> None:
    """Run a graph in a ComfyUI of its own, headless, as anyone can from a shell."""
    load_pack()
    from sid_pack.sid_core.headless.command import main as headless

    line = ["run", str(graph), "--comfyui", os.environ["COMFYUI_PATH"]]
    line += ["--base-directory", str(BASE)]
    for setting in settings:
        line += ["--set", setting]
    code = headless(line)
    if code:
        sys.exit(code)


def newest_student(name: str) -> Path:
    """The last that SiDSaveStudent wrote under this name, a LoRA or a whole network."""
    files = (BASE / "output").glob(f"*/{name}_*.safetensors")
    return max(files, key=lambda file: file.stat().st_mtime)


def main() -> None:
    args = parse_arguments()
    load_pack()
    from sid_pack.sid_core.headless.console import open_outputs

    say = open_outputs()[0].write
    demo = Demo(args, say)
    demo.announce()
    say(f"\n1/3 Distilling the demo teacher into a 4-step student: {in_words(demo.distilling_s())}")
    existing = "start over" if args.start_over else "continue it"
    run_graph(
        WORKFLOWS / "demo_distil.json",
        f"SiDDistill.iterations={args.iterations}",
        f"SiDDistill.existing_run={existing}",
    )
    say(f"\n2/3 Sampling the student that comes with the pack: {in_words(demo.sampling_s())}")
    run_graph(WORKFLOWS / "demo_sample_student.json")
    say(
        f"\n3/3 Measuring teacher and students on {args.captions} captions of each kind: {in_words(demo.measuring_s())}"
    )
    demo.measure()
    say(f"Done in {(time.monotonic() - demo.began) / 60:.1f} min")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--iterations", type=positive, default=45, help="of the distillation (default: %(default)s)")
    parser.add_argument("--captions", type=positive, default=64, help="captions of each kind (default: %(default)s)")
    parser.add_argument(
        "--start-over",
        action="store_true",
        help="distil anew (default: an earlier run goes on where it was stopped, and one that is complete is used)",
    )
    return parser.parse_args()


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"give a number from 1 on, not {text}")
    return int(text)


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Demo:
    """What is measured, with what, and how fast this machine turned out to be."""

    def __init__(self, args: argparse.Namespace, say: Callable[[str], None]) -> None:
        self.args, self.say, self.began = args, say, time.monotonic()
        with Ticker(say, "loading ComfyUI and trying this machine's speed"):
            start_comfyui()
            import comfy.model_management
            from demo_protocol import Protocol
            from features import image_features
            from reference import load_reference

            self.load_s = time.monotonic() - self.began
            self.protocol = Protocol(load_reference(), comfy.model_management.get_torch_device())
            self.prompts = self.protocol.some_prompts(args.captions)
            self.pictures = sum(len(wanted.places) for wanted in self.prompts.values())
            self.artist = Artist(self.protocol.captions, batch=TRIED_AT_ONCE)
            drawn, self.forward_s = self._try()
            looked_s = seconds_of(lambda: image_features(self.protocol.network, drawn))
            self.score_s = looked_s / TRIED_AT_ONCE

    def _try(self) -> tuple[torch.Tensor, float]:
        """Some pictures, and seconds for one evaluation of the network for one, by the second of two batches."""
        for _warm_up_first in range(2):
            drawn = self.artist.draw(STUDENT_4, torch.arange(TRIED_AT_ONCE), seed=0)
        return drawn.images, drawn.seconds / drawn.forwards

    def distilling_s(self) -> float:
        """An estimate: without what an earlier run has done already."""
        return WORKFLOW_LOADS * self.load_s + self.args.iterations * ITERATION_FORWARDS * self.forward_s

    def sampling_s(self) -> float:
        return WORKFLOW_LOADS * self.load_s

    def setting_s(self, setting: Setting) -> float:
        return self.pictures * (FORWARDS[setting.sampler, setting.steps] * self.forward_s + self.score_s)

    def measuring_s(self) -> float:
        return sum(self.setting_s(setting) for setting in (*SHIPPED, STUDENT_4))

    def announce(self) -> None:
        parts = {"distilling": self.distilling_s(), "sampling": self.sampling_s(), "measuring": self.measuring_s()}
        listed = ", ".join(f"{name} {in_words(seconds)}" for name, seconds in parts.items())
        self.say(f"On this machine it takes {in_words(sum(parts.values()))} in all: {listed}. Each part corrects that.")

    def measure(self) -> None:
        """Draw and score with each setting, and say and show what came out."""
        mine = newest_student("demo_student")
        own = Setting(4, student=mine, name=f"yours ({self.args.iterations} iterations)")
        settings, results = [*SHIPPED, own], []
        for number, setting in enumerate(settings):
            left_s = sum(self.setting_s(later) for later in settings[number:])
            self.say(f"  {setting.title} ({in_words(left_s)} left)")
            with Ticker(self.say, setting.title, self.setting_s(setting)):
                results.append(evaluate(setting, self.artist, self.protocol, self.prompts, seeds=1))
            self.forward_s = results[-1].seconds / results[-1].forwards
        with Ticker(self.say, "drawing the contact sheet"):
            sheet_file = BASE / "output" / "contact_sheet.png"
            overview((*SHOWN, own)).save(sheet_file, optimize=True)
        self.say(
            f"\n{table(results, self.protocol)}\n\nHeld out of training:\n{held_out_table(results, self.protocol)}"
        )
        self.say(
            "\nLess distance and more of all else are better; README.md says what they are. With "
            f"{self.args.captions} captions of each kind, a few percent are chance: its table is of more, in five runs."
        )
        self.say(f"Your student: {mine}\nContact sheet: {sheet_file}")


if __name__ == "__main__":
    main()
