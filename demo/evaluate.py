"""Measure the demo's models by the demo protocol (see `demo_protocol.py`) and print two tables.

    python demo/evaluate.py --teacher 50 dpmpp_2m karras 5 --teacher 4 dpmpp_2m karras 3 \
        --student demo/assets/student_4_steps.safetensors 4

The first setting is the one that the others' distances are compared with. COMFYUI_PATH names the ComfyUI to use.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from demo_protocol import SEEDS, Prompts, Protocol, Score, Scores
from drawing import Artist, Setting
from host import start_comfyui
from reference import FILE, PAIRS, SUBJECTS, TRAINING, VARIETY, Measured, load_reference

BATCH = 128
MAIN = {
    "distance": (TRAINING, "distance"),
    "kernel distance": (TRAINING, "kernel_distance"),
    "to teacher's": (TRAINING, "distance_to_teacher"),
    "subject": (TRAINING, "subject"),
    "style": (TRAINING, "style"),
    "entropy of real": (VARIETY, "entropy_of_real"),
    "spread of real": (VARIETY, "spread_of_real"),
    "precision": (TRAINING, "precision"),
    "recall": (TRAINING, "recall"),
}
HELD_OUT = {
    "distance": "distance",
    "kernel distance": "kernel_distance",
    "to teacher's": "distance_to_teacher",
    "subject": "subject",
    "style": "style",
    "precision": "precision",
    "recall": "recall",
}
SETS_HELD_OUT = (PAIRS, SUBJECTS)
ALL_SETS = (TRAINING, *SETS_HELD_OUT, VARIETY)


@dataclass(frozen=True)
class Result:
    """A setting's scores and its cost for one picture."""

    setting: Setting
    scores: Scores
    forwards: float
    seconds: float

    @property
    def distance(self) -> float:
        """The one number that settings are ranked by: to the real pictures of the training captions."""
        return self.scores[TRAINING]["distance"].mean


def evaluate(
    setting: Setting, artist: Artist, protocol: Protocol, prompts: dict[str, Prompts], seeds: int = SEEDS
) -> Result:
    """Draw the prompts of some or all sets once for each seed, and score the pictures.

    artist: one for the captions of the protocol; prompts: `Protocol.prompts` or part of them.
    """
    forwards, seconds = 0, 0.0

    def run(seed: int) -> Iterator[tuple[str, Measured]]:
        nonlocal forwards, seconds
        for name, wanted in prompts.items():
            drawn = artist.draw(setting, wanted.places, seed)
            forwards += drawn.forwards
            seconds += drawn.seconds
            yield name, protocol.measure(drawn.images, wanted)

    scores = protocol.score(dict(run(seed)) for seed in range(seeds))
    pictures = seeds * sum(len(wanted.places) for wanted in prompts.values())
    return Result(setting, scores, forwards / pictures, seconds / pictures)


def table(results: list[Result], protocol: Protocol) -> str:
    """The training captions' scores as Markdown, the real pictures and chance below them for scale."""
    first = results[0].distance
    real, perfect, chance = protocol.real_scores, protocol.perfect_scores, protocol.chance
    floor, best = (
        [cell(scores.get(name, {}).get(measure), measure) for name, measure in MAIN.values()]
        for scores in (real, perfect)
    )
    guess = [cell(one(chance[name].get(measure)), measure) for name, measure in MAIN.values()]
    return "\n".join(
        [
            header(["setting", "sampler", "scheduler"], ["CFG", "forwards", "ratio", *MAIN, "s"]),
            *(row(result, first) for result in results),
            line("real pictures at models' sizes and places, out of the codec", "", "", "", "", "", *best, ""),
            line("real pictures (distances, precision, recall: half against half)", "", "", "", "", "", *floor, ""),
            line("chance", "", "", "", "", "", *guess, ""),
        ]
    )


def row(result: Result, first: float) -> str:
    """One setting's line of `table`. first: the distance that its own is compared with."""
    setting, scores = result.setting, result.scores
    return line(
        setting.title,
        setting.sampler,
        setting.scheduler,
        f"{setting.cfg:g}",
        f"{result.forwards:g}",
        f"{result.distance / first:.2f}",
        *(cell(scores.get(name, {}).get(measure), measure) for name, measure in MAIN.values()),
        f"{result.seconds:.4f}",
    )


def held_out_table(results: list[Result], protocol: Protocol) -> str:
    """What was held out of training, by set, as Markdown."""
    lines = [header(["captions of", "setting"], list(HELD_OUT))]
    for name in (name for name in SETS_HELD_OUT if name in results[0].scores):
        guess = {measure: one(value) for measure, value in protocol.chance[name].items()}
        rows = {result.setting.title: result.scores[name] for result in results}
        rows |= {"real pictures": protocol.real_scores[name], "chance": guess}
        for title, scores in rows.items():
            lines.append(line(name, title, *(cell(scores.get(measure), measure) for measure in HELD_OUT.values())))
    return "\n".join(lines)


def header(words: list[str], numbers: list[str]) -> str:
    return f"{line(*words, *numbers)}\n|{':--|' * len(words)}{'--:|' * len(numbers)}"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def one(value: float | None) -> Score | None:
    return None if value is None else Score(value)


def cell(score: Score | None, measure: str) -> str:
    """Mean ± deviation, in as many digits as the measure is worth; empty where there is none."""
    if score is None:
        return ""
    digits = 1 if measure.startswith("distance") else 2 if measure.startswith("kernel") else 3
    spread = f" ± {score.std:.{digits}f}" if score.std else ""
    return f"{score.mean:.{digits}f}{spread}"


def as_json(results: list[Result], protocol: Protocol, prompts: dict[str, Prompts], seeds: int) -> str:
    report = {
        "prompts": {name: len(wanted.places) for name, wanted in prompts.items()},
        "seeds": seeds,
        "real": plain(protocol.real_scores),
        "chance": protocol.chance,
        "results": [
            {
                "title": result.setting.title,
                "setting": asdict(result.setting),
                "scores": plain(result.scores),
                "forwards": result.forwards,
                "seconds": result.seconds,
            }
            for result in results
        ],
    }
    return json.dumps(report, indent=1, default=str) + "\n"


def plain(scores: Scores) -> dict:
    return {name: {measure: asdict(score) for measure, score in of.items()} for name, of in scores.items()}


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
    parser.add_argument("--captions", type=int, help="draw about this many of each set of prompts (default: all)")
    parser.add_argument(
        "--sets", nargs="+", choices=ALL_SETS, default=ALL_SETS, help=f"of prompts, and {TRAINING} (default: all)"
    )
    parser.add_argument("--batch", type=int, default=BATCH, help="pictures drawn at a time (default: %(default)s)")
    parser.add_argument("--reference", type=Path, default=FILE, help="the real pictures' file (default: the shipped)")
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

    protocol = Protocol(load_reference(args.reference), comfy.model_management.get_torch_device())
    artist = Artist(protocol.captions, args.batch)
    prompts = {
        name: some for name, some in protocol.some_prompts(args.captions).items() if name in {TRAINING, *args.sets}
    }
    results = []
    for setting in args.settings:
        results.append(evaluate(setting, artist, protocol, prompts, args.seeds))
        print(row(results[-1], results[0].distance), flush=True)
    print(f"\n{table(results, protocol)}\n\n{held_out_table(results, protocol)}")
    if args.json:
        args.json.write_text(as_json(results, protocol, prompts, args.seeds), encoding="utf-8")


if __name__ == "__main__":
    main()
