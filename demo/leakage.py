"""Measure how much of a style picture's subject comes along, without CleanStyle and with it (see leakage_protocol.py).

    python demo/leakage.py [--minutes 30] [--json .sid/leakage.json]   (measures; a second run goes on, or prints again)
    python demo/leakage.py --report .sid/leakage.json > tables.md      (prints what was measured)
    python demo/leakage.py --sheet demo/leakage.png                    (draws ten pairs in some settings)
    python demo/leakage.py --spectrum                                  (shows where subject and style sit)

Wants the pictures of gather_pictures.py. Draws by the pack's own nodes in ComfyUI: the 10-step teacher with guidance,
the 4-step student, and the teacher without: 129 settings, some 40 minutes on one idle CPU core.
"""

import argparse
import hashlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from contact_sheet import COLOURS, contact_sheet
from drawing import Artist
from features import kept_features
from host import ROOT, start_comfyui
from image_prompt import ADAPTER, image_tokens, prompted, rows_of
from leakage_measure import Measure
from leakage_protocol import AMONG, Pairs, Scores, choose_pairs
from leakage_results import HEADER, Results, table_row
from leakage_spectrum import spectrum_table
from leakage_trials import TEACHER, WORKING_WEIGHT, Trial, all_trials, sheet_trials
from pictures import ASSETS, FILE, HELD_OUT_PAIR, HELD_OUT_SUBJECT, STYLES, load_pictures
from PIL import Image
from reference import FILE as REFERENCE
from reference import load_reference
from torch import Tensor

RESULTS = ROOT / ".sid" / "leakage.json"
WEIGHTS_OF = ("teacher", "codec", "student_4_steps", "image_encoder", "image_prompt")  # files in assets
EACH = 17  # of a style; the rarest has no more
SEEDS = 3
BATCH = 104
DRAWABLE_SEEDS = (100, 101)
SHEET_PAIRS = 10


class Leakage:
    """The pairs, drawn with any trial's settings, and measured."""

    def __init__(self, measure: Measure, pairs: Pairs, artist: Artist):
        from sid_pack.nodes.demo.image_encoder import load_image_encoder
        from sid_pack.nodes.image_prompts.ip_adapter_files import load_adapter

        self.measure, self.pairs, self.artist = measure, pairs, artist
        self.adapter = load_adapter(ADAPTER)
        self.style_pictures = measure.pictures.image(pairs.pictures)
        self.shown = measure(self.style_pictures)
        self.tokens = image_tokens(self.adapter, load_image_encoder(), self.style_pictures)

    def patch(self, trial: Trial, picked: Tensor) -> Callable | None:
        """For `Artist.draw` of these pairs (P,): the trial's image prompt, and CleanStyle on it."""
        from sid_pack.nodes.cleanstyle.model import clean
        from sid_pack.nodes.cleanstyle.purify import Settings
        from sid_pack.nodes.host.unet_layers import ALL, LISTED

        if trial.weight == 0:
            return None

        def patch(model, rows: slice):
            tokens = rows_of(self.tokens, picked[rows])
            model = prompted(model, self.adapter, tokens, trial.weight, trial.put_in)
            if trial.clean is None:
                return model
            return clean(model, Settings(**trial.clean), LISTED if trial.cleaned_in else ALL, trial.cleaned_in)

        return patch

    def draw(self, trial: Trial, seed: int, picked: Tensor) -> Tensor:
        """A picture for each of these pairs (P,)."""
        return self.artist.draw(trial.draw, self.pairs.prompts[picked], seed, self.patch(trial, picked)).images

    def score(self, images: Tensor) -> Scores:
        return self.measure.judges.score(self.pairs, self.measure(images), self.shown)

    def scores_of(self, trial: Trial, seeds: range) -> Scores:
        everything = torch.arange(len(self.pairs))
        return Scores.joined([self.score(self.draw(trial, seed, everything)) for seed in seeds])

    def real_scores(self) -> dict[str, Scores]:
        """Of real pictures of the prompts in the styles asked for, most of which the judges know, and of copies."""
        pictures = self.measure.pictures
        wished = pictures.image(pictures.grid()[self.pairs.styles, self.pairs.prompts])
        return {
            "real picture of the prompt in the style": self.score(wished),
            "the style picture": self.score(self.style_pictures),
        }

    def about(self) -> Iterator[str]:
        """Lines for the head of the report."""
        pictures, pairs = self.measure.pictures, self.pairs
        held_out = int((pictures.held_out[pairs.pictures] == HELD_OUT_PAIR).sum())
        accuracy = ", ".join(f"{name} {value:.3f}" for name, value in self.measure.accuracy().items())
        chance = AMONG / len(pictures.captions)
        yield f"{len(pairs)} pairs; {held_out} of their style pictures were held out of all training."
        yield f"The judges on {int(self.measure.aside.sum())} real pictures that they don't know: {accuracy}."
        yield f"By chance a subject is named first {chance / AMONG:.4f}, among ten {chance:.4f}."
        yield from ("", *HEADER)
        for name, scores in self.real_scores().items():
            yield table_row(name, scores, None)


def drawable(measure: Measure, artist: Artist) -> Tensor:
    """Subjects (K,) that the teacher draws without an image prompt so that the judge names them, every time."""
    trained = torch.ones(len(measure.pictures.captions), dtype=torch.bool)
    trained[measure.pictures.subjects[measure.pictures.where(HELD_OUT_SUBJECT)]] = False
    subjects = trained.nonzero()[:, 0]
    for seed in DRAWABLE_SEEDS:
        images = artist.draw(TEACHER, subjects, seed).images
        subjects = subjects[measure.nameable(images, subjects)]
        log(f"{len(subjects)} subjects are drawable")
    return subjects


def pairs_of(results: Results, measure: Measure, artist: Artist, embeddings: Tensor, each: int) -> Pairs:
    """Chosen once, then as the results have them: finding out what is drawable takes minutes."""
    if "pairs" not in results.about:
        pictures = measure.pictures
        pool = drawable(measure, artist)
        chosen = choose_pairs(measure.candidates(), pictures.subjects, pictures.styles, pool, embeddings, each)
        results.about["pairs"] = [chosen.prompts.tolist(), chosen.pictures.tolist()]
        results.save()
    prompts, pictures = (torch.tensor(column) for column in results.about["pairs"])
    return Pairs(prompts, pictures, measure.pictures.subjects[pictures], measure.pictures.styles[pictures])


def measured_with(each: int, seeds: range) -> dict:
    """What must be the same for rows to be compared."""
    files = [FILE, REFERENCE, *(ASSETS / f"{name}.safetensors" for name in WEIGHTS_OF)]
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files}
    return digests | {"number of pairs": each, "seeds": [seeds.start, seeds.stop]}


def measure_all(leakage: Leakage, results: Results, trials: list[Trial], seeds: range, minutes: float) -> None:
    """Those that the results have not yet, until the time is over."""
    left = [trial for trial in trials if results.scores_of(trial) is None]
    began = time.monotonic()
    for number, trial in enumerate(left):
        spent = (time.monotonic() - began) / 60
        if spent >= minutes:
            log(f"{len(left) - number} settings are left: run this again to go on")
            return
        results.add(trial, leakage.scores_of(trial, seeds))
        each = ((time.monotonic() - began) / 60) / (number + 1)
        log(
            f"{number + 1} of {len(left)}: {trial.draw.title}, {trial.title}; {each * (len(left) - number - 1):.0f} min"
        )


def sheet(leakage: Leakage, weight: float) -> Image.Image:
    """A pair of each style and one more, drawn in several ways; above them their style pictures."""
    columns = torch.arange(SHEET_PAIRS) * len(leakage.pairs) // SHEET_PAIRS
    rows = {"style picture": leakage.style_pictures[columns]}
    # The sheet's font has no Greek.
    rows |= {trial.title.replace("α", "alpha"): leakage.draw(trial, 0, columns) for trial in sheet_trials(weight)}
    captions = leakage.measure.pictures.captions
    names = [
        f"{captions[prompt]} + {STYLES[style]} {captions[shown]}"
        for prompt, shown, style in zip(
            leakage.pairs.prompts[columns], leakage.pairs.shown[columns], leakage.pairs.styles[columns], strict=True
        )
    ]
    return contact_sheet(rows, names).quantize(COLOURS)


def log(text: str) -> None:
    """What is no part of the report."""
    print(text, file=sys.stderr, flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path, default=RESULTS, help="where rows are kept (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no other setting after these")
    parser.add_argument("--each", type=int, default=EACH, help="pairs of each style (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="drawings of each pair (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="for other drawings, into another --json")
    parser.add_argument("--weight", type=float, default=WORKING_WEIGHT, help="of the image prompt, where one is swept")
    parser.add_argument("--only", default="", help="settings whose 'sampler: title' this regular expression finds")
    parser.add_argument("--sheet", type=Path, help="draw the contact sheet into this PNG, and measure nothing")
    parser.add_argument("--spectrum", action="store_true", help="print where subject and style sit, and draw nothing")
    parser.add_argument("--report", type=Path, help="print what this file of results has, and do nothing else")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    if args.report:
        print("\n".join(Results(args.report).markdown()))
        return
    start_comfyui()
    pictures = load_pictures()
    if args.spectrum:
        print("\n".join(spectrum_table(pictures)))
        return
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    results = Results(args.json, measured_with(args.each, seeds))
    reference = load_reference()
    features = kept_features(pictures.images, FILE.with_name("features.safetensors"))
    measure, artist = Measure(pictures, features, reference.probe), Artist(pictures.captions, BATCH)
    pairs = pairs_of(results, measure, artist, reference.judge.embeddings, args.each)
    leakage = Leakage(measure, pairs, artist)
    if args.sheet:
        sheet(leakage, args.weight).save(args.sheet, optimize=True)
        return
    results.about["lines"] = list(leakage.about())
    results.save()
    trials = [t for t in all_trials(args.weight) if re.search(args.only, f"{t.draw.title}: {t.title}")]
    measure_all(leakage, results, trials, seeds, args.minutes)
    print("\n".join(results.markdown()))


if __name__ == "__main__":
    main()
