"""The demo's world: pictures of subjects in nine styles, as `gather_pictures.py` drew them, and what is held out."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

ASSETS = Path(__file__).parent / "assets"
FILE = Path(__file__).parents[1] / ".sid" / "pictures" / "pictures.safetensors"
TILE = 64
SIZES = (56, 60, 64)  # that the models learn each picture in, in pixels
SCALED_AT_ONCE = 512
STYLES = ("shaded", "retro", "flat", "modern", "inked", "glossy", "woodcut", "simple", "cartoon")
TRAINING, HELD_OUT_SUBJECT, HELD_OUT_PAIR = 0, 1, 2
SUBJECTS_HELD_OUT, PAIRS_HELD_OUT = 1 / 20, 1 / 10
FEWEST_STYLES = 8  # of a subject that the models learn: with all of those in four, a small network takes days
FEWEST_LEFT = 3  # pictures of a subject that are trained with, whatever else of it is held out


@dataclass(frozen=True)
class Pictures:
    """Pictures (N, 64, 64, 3) in bytes; the subject, style and use (TRAINING, …) of each, (N,); subjects' captions."""

    images: Tensor
    subjects: Tensor
    styles: Tensor
    held_out: Tensor
    captions: list[str]

    def image(self, index: Tensor) -> Tensor:
        """As ComfyUI's IMAGE: (B, 64, 64, 3) in [0, 1]."""
        return self.images[index].float() / 255

    def caption(self, index: int, styled: bool = True) -> str:
        subject = self.captions[self.subjects[index]]
        return f"{subject}, {STYLES[self.styles[index]]}" if styled else subject

    def grid(self) -> Tensor:
        """Index of the picture of each subject in each style: (styles, subjects), -1 where there is none."""
        index = torch.full((len(STYLES), len(self.captions)), -1)
        index[self.styles, self.subjects] = torch.arange(len(self.subjects))
        return index

    def where(self, use: int) -> Tensor:
        """Indices of the pictures of one use."""
        return (self.held_out == use).nonzero()[:, 0]


def load_pictures(file: Path = FILE) -> Pictures:
    """Those that the models learn or are measured on: of subjects in FEWEST_STYLES or more, with words that are learnt.

    Raises FileNotFoundError where they are not gathered yet.
    """
    if not file.exists():
        raise FileNotFoundError(f"Run demo/gather_pictures.py first: there is no {file.name} yet.")
    with safe_open(file, framework="pt") as kept:
        tensors = {name: kept.get_tensor(name) for name in ("images", "subjects", "styles", "held_out")}
        everything = Pictures(**tensors, captions=json.loads(kept.metadata()["captions"]))
    enough = everything.subjects.bincount() >= FEWEST_STYLES
    left_out = torch.zeros_like(enough)
    left_out[everything.subjects[everything.where(HELD_OUT_SUBJECT)]] = True
    learnt = {word for subject in (enough & ~left_out).nonzero() for word in words_of(everything.captions[subject])}
    known = torch.tensor([learnt.issuperset(words_of(caption)) for caption in everything.captions])
    return of_subjects(everything, (enough & known).nonzero()[:, 0])


def of_subjects(pictures: Pictures, subjects: Tensor) -> Pictures:
    """The pictures of these subjects (S,) alone, which are numbered anew."""
    numbers = torch.full((len(pictures.captions),), -1)
    numbers[subjects] = torch.arange(len(subjects))
    rows = (numbers[pictures.subjects] >= 0).nonzero()[:, 0]
    return Pictures(
        pictures.images[rows],
        numbers[pictures.subjects[rows]],
        pictures.styles[rows],
        pictures.held_out[rows],
        [pictures.captions[subject] for subject in subjects.tolist()],
    )


def notes_of(captions: list[str]) -> dict[str, str]:
    return {"captions": json.dumps(captions)}


def words_of(caption: str) -> list[str]:
    return re.findall("[a-z0-9]+", caption)


def choose_held_out(captions: list[str], subjects: Tensor, styles: Tensor) -> Tensor:
    """What each picture is for (N,), the same every time.

    A twentieth of the subjects in all styles, of those whose every word is learnt from another subject too; and a tenth
    of the other pictures, of those whose subject keeps FEWEST_LEFT.
    """
    generator = torch.Generator().manual_seed(0)
    held_out = torch.full_like(subjects, TRAINING)
    words = [set(words_of(caption)) for caption in captions]
    known = Counter(word for caption in words for word in caption)
    left_out = 0
    for subject in torch.randperm(len(captions), generator=generator).tolist():
        if left_out < SUBJECTS_HELD_OUT * len(captions) and all(known[word] > 2 for word in words[subject]):
            held_out[subjects == subject] = HELD_OUT_SUBJECT
            known.subtract(words[subject])
            left_out += 1
    kept = (held_out == TRAINING).nonzero()[:, 0]
    pictures_left = subjects[kept].bincount(minlength=len(captions))
    pairs = int(PAIRS_HELD_OUT * len(kept))
    for index in kept[torch.randperm(len(kept), generator=generator)].tolist():
        if pairs and pictures_left[subjects[index]] > FEWEST_LEFT:
            held_out[index] = HELD_OUT_PAIR
            pictures_left[subjects[index]] -= 1
            pairs -= 1
    return held_out


def at_sizes(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, 64, 64) in bytes, in each of SIZES in the upper left of a white square → (S, N, 3, 64, 64) bytes.

    See `placed`.
    """
    canvases = torch.full((len(SIZES), *pictures.shape), 255, dtype=torch.uint8, device=pictures.device)
    for canvas, size in zip(canvases, SIZES, strict=True):
        parts = zip(canvas.split(SCALED_AT_ONCE), pictures.split(SCALED_AT_ONCE), strict=True)
        for part, unscaled in parts:
            scaled = nn.functional.interpolate(unscaled.float(), size=(size, size), mode="bicubic", antialias=True)
            part[..., :size, :size] = scaled.round().clamp(0, 255)
    return canvases


def placed(canvases: Tensor, pick: Tensor) -> Tensor:
    """The pictures of these indices (B,), each in a random size at a random place: (B, 3, 64, 64) in [0, 1].

    canvases: of `at_sizes`. Without this most pairs of a caption and a style have one picture only. A network then
    knows it by heart, a glance is as good as fifty steps, and few-step students have nothing to learn.
    """
    device = canvases.device
    chosen = torch.randint(len(SIZES), pick.shape, device=device)
    free = TILE - torch.tensor(SIZES, device=device)[chosen]
    corners = (torch.rand(2, len(pick), device=device) * (free + 1)).long()
    # Where each row and each column comes from; what leaves on one side and comes back on the other is white.
    rows, columns = (torch.arange(TILE, device=device) - corners[..., None]) % TILE
    pictures = canvases[chosen, pick.to(device)]
    pictures = pictures.gather(2, rows[:, None, :, None].expand_as(pictures))
    return pictures.gather(3, columns[:, None, None, :].expand_as(pictures)).float() / 255
