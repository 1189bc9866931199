"""What measuring needs of the real pictures, in one small file, so that whoever measures needs no icon set.

`pack_reference.py` makes the file. Here are its parts, and how pictures are looked at with them.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from features import Features
from host import load_pack
from pictures import STYLES
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

load_pack()
# The pack has this name only once it is loaded.
from sid_pack.sid_core.evaluation.linear import PCA, LinearMap, LinearProbe  # noqa: E402
from sid_pack.sid_core.evaluation.neighbours import recall_at  # noqa: E402

FILE = Path(__file__).parent / "assets" / "reference.safetensors"
TRAINING, PAIRS, SUBJECTS, VARIETY = SETS = ("training", "pairs", "subjects", "variety")
RECALL_AT = 10
NO_STYLE = -1


@dataclass(frozen=True)
class Measured:
    """N pictures as measuring sees them.

    `subjects` and `styles` (N,): what the caption asks for, the style NO_STYLE where it asks for none. `projected`
    (N, K): principal coordinates of the features. `answers` (N,): the style that the probe names. `found` (N,) bool:
    whether the caption's subject is among the RECALL_AT that the judge finds likeliest.
    """

    subjects: Tensor
    styles: Tensor
    projected: Tensor
    answers: Tensor
    found: Tensor

    def __getitem__(self, rows: Tensor | slice) -> "Measured":
        return Measured(**{name: tensor[rows] for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class SubjectJudge:
    """Names subjects by maps from image features to embeddings of their captions.

    The subjects are dealt to folds, `fold` (S,). The map of a fold is fitted to the real pictures of the other folds'
    subjects, so that it never saw a picture of a subject that it judges; the subject competes with those of its fold.
    `embeddings`: (S, E).
    """

    embeddings: Tensor
    fold: Tensor
    maps: list[LinearMap]

    def finds(self, features: Tensor, subjects: Tensor, k: int = RECALL_AT) -> Tensor:
        """Whether each picture finds its subject. features: (N, 1280), subjects: (N,) → (N,) bool.

        Similarity is the cosine after the mean caption is taken away: what all captions share tells none apart.
        """
        found = torch.zeros(len(subjects), dtype=torch.bool)
        for fold, to_text in enumerate(self.maps):
            mine = self.fold[subjects] == fold
            members = (self.fold == fold).nonzero()[:, 0]
            found[mine] = recall_at(
                to_text(features[mine]) - to_text.y_mean,
                torch.searchsorted(members, subjects[mine]),
                self.embeddings[members] - to_text.y_mean,
                k,
            )
        return found

    def chance(self, subjects: Tensor, k: int = RECALL_AT) -> float:
        """The share of these subjects (N,) that a guess finds."""
        return (k / self.fold.bincount()[self.fold[subjects]]).clamp(max=1).mean().item()


@dataclass(frozen=True)
class Reference:
    """The subjects' captions; what pictures are looked at with; and the sets of SETS, as they were seen.

    `real`: the real pictures of each set. `teacher`: the teacher's own samples of the same captions, as many as the
    protocol has prompts; empty where there are none yet. `codec`: real pictures of TRAINING as a model without a fault
    would draw them, at the sizes and places that models learn, and out of the codec.
    """

    captions: list[str]
    pca: PCA
    probe: LinearProbe
    judge: SubjectJudge
    real: dict[str, Measured] = field(default_factory=dict)
    teacher: dict[str, Measured] = field(default_factory=dict)
    codec: dict[str, Measured] = field(default_factory=dict)

    def measure(self, features: Features, subjects: Tensor, styles: Tensor) -> Measured:
        """Look at pictures that were made for captions of these subjects and styles, (N,) each."""
        return Measured(
            subjects,
            styles,
            self.pca.project(features.subject),
            self.probe.answers(features.strokes),
            self.judge.finds(features.subject, subjects),
        )

    def caption(self, subject: int, style: int) -> str:
        return self.captions[subject] if style == NO_STYLE else f"{self.captions[subject]}, {STYLES[style]}"


def to_tensors(reference: Reference) -> dict[str, Tensor]:
    """As they are kept in the file: rounded to float16, but for means, which are few and add up."""
    judge = reference.judge
    tensors = {
        "pca.mean": reference.pca.mean.float(),
        "pca.axes": reference.pca.axes.half(),
        "probe.weight": reference.probe.weight.float(),
        "probe.bias": reference.probe.bias.float(),
        "judge.embeddings": judge.embeddings.half(),
        "judge.fold": judge.fold.byte(),
        "judge.x_mean": torch.stack([one.x_mean for one in judge.maps]).float(),
        "judge.weight": torch.stack([one.weight for one in judge.maps]).half(),
        "judge.y_mean": torch.stack([one.y_mean for one in judge.maps]).float(),
    }
    for source in ("real", "teacher", "codec"):
        for name, seen in getattr(reference, source).items():
            kept = Measured(
                seen.subjects.short(), seen.styles.char(), seen.projected.half(), seen.answers.byte(), seen.found
            )
            tensors |= {f"{source}.{name}.{part}": tensor for part, tensor in vars(kept).items()}
    # A safetensors file takes no two tensors that share memory.
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def from_tensors(tensors: dict[str, Tensor], captions: list[str]) -> Reference:
    wide = {
        name: tensor.double() if tensor.is_floating_point() else tensor if tensor.dtype == torch.bool else tensor.long()
        for name, tensor in tensors.items()
    }

    def seen(source: str) -> dict[str, Measured]:
        return {
            name: Measured(**{part: wide[f"{source}.{name}.{part}"] for part in Measured.__dataclass_fields__})
            for name in SETS
            if f"{source}.{name}.found" in wide
        }

    parts = (wide[f"judge.{part}"] for part in ("x_mean", "weight", "y_mean"))
    maps = [LinearMap(*one) for one in zip(*parts, strict=True)]
    return Reference(
        captions,
        PCA(wide["pca.mean"], wide["pca.axes"]),
        LinearProbe(wide["probe.weight"], wide["probe.bias"]),
        SubjectJudge(wide["judge.embeddings"], wide["judge.fold"], maps),
        seen("real"),
        seen("teacher"),
        seen("codec"),
    )


def load_reference(file: Path = FILE) -> Reference:
    with safe_open(file, framework="pt") as kept:
        tensors = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118  it is no dict
        return from_tensors(tensors, json.loads(kept.metadata()["captions"]))


def save_reference(reference: Reference, file: Path, notes: dict[str, str]) -> None:
    unfinished = file.with_suffix(".tmp")
    save_file(to_tensors(reference), unfinished, notes | {"captions": json.dumps(reference.captions)})
    unfinished.replace(file)
