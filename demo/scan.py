"""Find the stock sampler that draws the demo teacher's best pictures in a given number of steps.

    python demo/scan.py 4 [--json scan_4.json]

Three rounds on a few training captions: every sampler of ComfyUI with a few schedulers; the best with other guidance
scales; the best of those with all other schedulers. The finalists go through the whole demo protocol. A step is what
KSampler's widget counts. Samplers that evaluate the model more than twice for each are left out; second-order ones are
in, though they cost twice the forwards.
"""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from demo_protocol import SEEDS, Protocol
from drawing import Artist, Setting
from evaluate import BATCH, Result, as_json, evaluate, held_out_table, row, table
from host import start_comfyui
from reference import TRAINING, load_reference

FIRST_SCHEDULERS = ("karras", "sgm_uniform", "beta")
FIRST_CFG = 2.0
OTHER_CFGS = (1.0, 1.5, 2.5, 3.5, 5.0)
KEPT = (6, 3)  # after the first and second round
EVALUATIONS_PER_STEP = 2
CAPTIONS = 128
PROBE = 4
FINALISTS = 2


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


class Scan:
    """Results on a few training captions, one seed, best first; a setting is tried once."""

    def __init__(self, artist: Artist, protocol: Protocol):
        self.artist, self.protocol = artist, protocol
        self.prompts = {TRAINING: protocol.some_prompts(CAPTIONS)[TRAINING]}
        self.results: list[Result] = []

    def add(self, settings: Iterable[Setting]) -> None:
        tried = {result.setting for result in self.results}
        for setting in dict.fromkeys(settings):  # several of the best may lead to the same one
            if setting not in tried and affordable(setting, self.artist):
                self.results.append(evaluate(setting, self.artist, self.protocol, self.prompts, seeds=1))
                print(row(self.results[-1], self.results[0].distance), flush=True)
        self.results.sort(key=lambda result: result.distance)

    def best(self, count: int) -> list[Setting]:
        return [result.setting for result in self.results[:count]]


def search(steps: int, scan: Scan) -> None:
    """The three rounds. Left out are others' twins: `_gpu` draws its noise on another device, ddim is euler here."""
    import comfy.samplers

    samplers = [name for name in comfy.samplers.SAMPLER_NAMES if not name.endswith("_gpu") and name != "ddim"]
    scan.add(Setting(steps, sampler, scheduler, FIRST_CFG) for sampler in samplers for scheduler in FIRST_SCHEDULERS)
    scan.add(replace(setting, cfg=cfg) for setting in scan.best(KEPT[0]) for cfg in OTHER_CFGS)
    schedulers = comfy.samplers.SCHEDULER_NAMES
    scan.add(replace(setting, scheduler=name) for setting in scan.best(KEPT[1]) for name in schedulers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("steps", type=int)
    parser.add_argument("--json", type=Path, help="also write the finalists' results to this file")
    args = parser.parse_args()
    start_comfyui()
    import comfy.model_management

    protocol = Protocol(load_reference(), comfy.model_management.get_torch_device())
    artist = Artist(protocol.captions, BATCH)
    scan = Scan(artist, protocol)
    search(args.steps, scan)
    print("\nfinalists, by the whole protocol")
    finals = [evaluate(setting, artist, protocol, protocol.prompts) for setting in scan.best(FINALISTS)]
    finals.sort(key=lambda result: result.distance)
    print(f"{table(finals, protocol)}\n\n{held_out_table(finals, protocol)}")
    if args.json:
        args.json.write_text(as_json(finals, protocol, protocol.prompts, SEEDS), encoding="utf-8")


if __name__ == "__main__":
    main()
