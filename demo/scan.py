"""Find the stock sampler that draws the demo teacher's best pictures in a given number of steps.

    python demo/scan.py 4 [--json scan_4.json]

Every sampler and scheduler of ComfyUI, at a few guidance scales, draws the same few captions once; the best then go
through the whole demo protocol. A step is what KSampler's widget counts. Samplers that evaluate the model more than
twice for each are left out; second-order ones are in, though they cost twice the forwards.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from demo_protocol import SEEDS, DemoProtocol
from drawing import Artist, Setting
from emoji import load_emoji
from evaluate import BATCH, HEADER, Result, as_json, evaluate, row, some_captions, table
from host import start_comfyui

CFGS = (1.0, 2.0, 3.0, 5.0)
EVALUATIONS_PER_STEP = 2
CAPTIONS = 256
PROBE = 4
FINALISTS = 5


def candidates(steps: int) -> list[Setting]:
    """Every stock combination; the `_gpu` samplers are others' twins that draw their noise on another device."""
    import comfy.samplers

    return [
        Setting(steps, sampler, scheduler, cfg)
        for sampler in comfy.samplers.SAMPLER_NAMES
        if not sampler.endswith("_gpu")
        for scheduler in comfy.samplers.SCHEDULER_NAMES
        for cfg in CFGS
    ]


def affordable(setting: Setting, artist: Artist) -> bool:
    """Whether it draws a few captions at all, within the forwards that a second-order sampler would take."""
    rows_per_evaluation = 1 if setting.cfg == 1 else 2
    try:
        drawn = artist.draw(setting, torch.arange(PROBE), seed=0)
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        print(f"{setting.sampler}, {setting.scheduler}: cannot run {setting.steps} steps ({error})", flush=True)
        return False
    most = setting.steps * EVALUATIONS_PER_STEP * rows_per_evaluation
    return drawn.forwards <= most * PROBE and bool(drawn.images.isfinite().all())


def scan(settings: list[Setting], artist: Artist, protocol: DemoProtocol) -> Iterator[Result]:
    """Each affordable setting's result on a few captions, one seed."""
    captions = some_captions(len(protocol.emoji.captions), CAPTIONS)
    for setting in settings:
        if affordable(setting, artist):
            yield evaluate(setting, artist, protocol, captions, seeds=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("steps", type=int)
    parser.add_argument("--json", type=Path, help="also write the finalists' results to this file")
    args = parser.parse_args()
    start_comfyui()
    import comfy.model_management

    emoji = load_emoji()
    protocol = DemoProtocol(emoji, comfy.model_management.get_torch_device())
    artist = Artist(emoji.captions, BATCH)
    first_round = []
    for result in scan(candidates(args.steps), artist, protocol):
        first_round.append(result)
        print(row(result, first_round[0].scores.distance), flush=True)
    first_round.sort(key=lambda result: result.scores.distance)
    print("\n" + "\n".join([*HEADER, *(row(result, first_round[0].scores.distance) for result in first_round)]) + "\n")
    everything = some_captions(len(emoji.captions), None)
    finals = [evaluate(result.setting, artist, protocol, everything) for result in first_round[:FINALISTS]]
    finals.sort(key=lambda result: result.scores.distance)
    print(table(finals, protocol))
    if args.json:
        args.json.write_text(as_json(finals, protocol, len(everything), SEEDS), encoding="utf-8")


if __name__ == "__main__":
    main()
