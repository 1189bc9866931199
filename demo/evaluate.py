"""Measure the demo's models by the demo protocol (see `demo_protocol.py`) and print a table.

    python demo/evaluate.py --teacher 50 dpmpp_2m karras 3 --teacher 4 dpmpp_2m karras 3 \
        --student demo/assets/student_4_steps.safetensors 4

The first setting is the one that the others' distances are compared with. COMFYUI_PATH names the ComfyUI to use.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from demo_protocol import SEEDS, DemoProtocol, Scores
from drawing import Artist, Setting
from emoji import load_emoji
from host import start_comfyui
from torch import Tensor

BATCH = 128
HEADER = (
    "| setting | sampler | scheduler | CFG | forwards | demo distance | ratio | R@10 training | R@10 held out | s |",
    "|:--|:--|:--|--:|--:|--:|--:|--:|--:|--:|",
)


@dataclass(frozen=True)
class Result:
    """A setting's scores and its cost for one picture."""

    setting: Setting
    scores: Scores
    forwards: float
    seconds: float


def evaluate(setting: Setting, artist: Artist, protocol: DemoProtocol, captions: Tensor, seeds: int = SEEDS) -> Result:
    """Draw the captions of these indices once for each seed, and score the pictures."""
    forwards, seconds = 0, 0.0

    def runs() -> Iterator[Tensor]:
        nonlocal forwards, seconds
        for seed in range(seeds):
            drawn = artist.draw(setting, captions, seed)
            forwards += drawn.forwards
            seconds += drawn.seconds
            yield drawn.images

    scores = protocol.score(runs(), captions)
    pictures = seeds * len(captions)
    return Result(setting, scores, forwards / pictures, seconds / pictures)


def some_captions(total: int, count: int | None) -> Tensor:
    """Indices of all captions, or of the same `count` ones every time, spread over training and held-out alike."""
    order = torch.randperm(total, generator=torch.Generator().manual_seed(1))
    return order[:count].sort().values


def table(results: list[Result], protocol: DemoProtocol) -> str:
    """The results as Markdown, the real pictures and chance below them for scale."""
    reference = results[0].scores.distance
    real, chance = protocol.real_scores(), protocol.chance()
    return "\n".join(
        [
            *HEADER,
            *(row(result, reference) for result in results),
            f"| real pictures (distance: floor) | | | | | {real.distance:.1f} | {real.distance / reference:.2f} "
            f"| {real.alignment_training:.3f} | {real.alignment_held_out:.3f} | |",
            f"| chance | | | | | | | {chance:.3f} | {chance:.3f} | |",
        ]
    )


def row(result: Result, reference: float) -> str:
    setting, scores = result.setting, result.scores
    spread = f" ± {scores.distance_std:.1f}" if scores.distance_std else ""  # one run has none
    return (
        f"| {setting.title} | {setting.sampler} | {setting.scheduler} | {setting.cfg:g} | {result.forwards:g} "
        f"| {scores.distance:.1f}{spread} | {scores.distance / reference:.2f} "
        f"| {scores.alignment_training:.3f} | {scores.alignment_held_out:.3f} | {result.seconds:.4f} |"
    )


def as_json(results: list[Result], protocol: DemoProtocol, captions: int, seeds: int) -> str:
    report = {
        "captions": captions,
        "seeds": seeds,
        "real": asdict(protocol.real_scores()),
        "chance": protocol.chance(),
        "results": [asdict(result) | {"title": result.setting.title} for result in results],
    }
    return json.dumps(report, indent=1, default=str) + "\n"


def teacher_setting(values: list[str]) -> Setting:
    steps, sampler, scheduler, cfg = values
    return Setting(int(steps), sampler, scheduler, float(cfg))


def student_setting(values: list[str]) -> Setting:
    file, steps = values
    return Setting(int(steps), student=Path(file))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    settings = parser.add_argument_group("what to measure, each as often as wanted")
    add = {"action": "append", "default": [], "dest": "settings"}
    settings.add_argument("--teacher", nargs=4, metavar=("STEPS", "SAMPLER", "SCHEDULER", "CFG"), **add)
    settings.add_argument("--student", nargs=2, metavar=("FILE", "STEPS"), **add)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs (default: %(default)s, the protocol's)")
    parser.add_argument("--captions", type=int, help="draw only this many of the captions (default: all)")
    parser.add_argument("--batch", type=int, default=BATCH, help="pictures drawn at a time (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    args = parser.parse_args()
    if not args.settings:
        parser.error("nothing to measure: give at least one --teacher or --student")
    args.settings = [
        teacher_setting(values) if len(values) == 4 else student_setting(values) for values in args.settings
    ]
    return args


def main() -> None:
    args = parse_arguments()
    start_comfyui()
    import comfy.model_management

    emoji = load_emoji()
    protocol = DemoProtocol(emoji, comfy.model_management.get_torch_device())
    artist = Artist(emoji.captions, args.batch)
    captions = some_captions(len(emoji.captions), args.captions)
    results = []
    for setting in args.settings:
        results.append(evaluate(setting, artist, protocol, captions, args.seeds))
        print(row(results[-1], results[0].scores.distance), flush=True)
    print("\n" + table(results, protocol))
    if args.json:
        args.json.write_text(as_json(results, protocol, len(captions), args.seeds), encoding="utf-8")


if __name__ == "__main__":
    main()
