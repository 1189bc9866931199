"""The demo protocol: one fixed way to measure a text-to-emoji sampler, so that numbers of different days compare.

- A run is one picture for each of the 1,405 captions; a score is the mean over 5 runs with different seeds.
- *Demo distance*: Fréchet distance between the run's pictures for the training captions and those captions' real
  pictures, in EfficientNet-lite0 features projected on the first 64 principal components of those real pictures.
  Its *floor* is the distance between two random halves of the real pictures: a perfect sampler that draws as many
  pictures as a run comes out below it, for halves are smaller sets.
- *Alignment*: R@10 of a linear map from image features to sentence embeddings of captions. For each of 5 folds of the
  captions it is fitted to the real pictures of the other four, so it has never seen the picture of a caption that it
  judges; the caption competes with the others of its fold. Training and held-out captions are reported apart.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from emoji import ASSETS, EmojiSet
from features import image_features, load_feature_network
from host import load_pack
from safetensors import safe_open
from torch import Tensor

load_pack()
# The pack has this name only once it is loaded.
from sid_pack.sid_core.evaluation.distances import frechet_distance  # noqa: E402
from sid_pack.sid_core.evaluation.linear import fit_pca, ridge_map  # noqa: E402
from sid_pack.sid_core.evaluation.neighbours import recall_at  # noqa: E402

SEEDS = 5
PCA_DIMS = 64
FOLDS = 5
RIDGE_PENALTY = 3e3
RECALL_AT = 10
FLOOR_SPLITS = 10


def captions_digest(captions: list[str]) -> str:
    """SHA-256 that ties a table of embeddings to the captions, and their order, that it was made from."""
    return hashlib.sha256(json.dumps(captions).encode()).hexdigest()


def load_caption_embeddings(captions: list[str], file: Path = ASSETS / "captions.safetensors") -> Tensor:
    """Sentence embeddings (N, 384) of exactly these captions. Raises ValueError where the file is of other ones."""
    with safe_open(file, framework="pt") as table:
        if table.metadata()["captions_sha256"] != captions_digest(captions):
            raise ValueError(f"{file.name} was made for other captions: run demo/embed_captions.py again")
        return table.get_tensor("embeddings").float()


@dataclass(frozen=True)
class Scores:
    """One sampler's result. Alignment is a share of 1; `distance_std` is over the runs."""

    distance: float
    distance_std: float
    alignment_training: float
    alignment_held_out: float


class DemoProtocol:
    """The real pictures' statistics, made once, and the scores of others against them."""

    def __init__(self, emoji: EmojiSet, device: torch.device | str = "cpu"):
        self.emoji = emoji
        self.network = load_feature_network(device)
        self.real_features = image_features(self.network, emoji.images)
        self.is_training = torch.ones(len(emoji.captions), dtype=torch.bool)
        self.is_training[emoji.held_out] = False
        self.pca = fit_pca(self.real_features[self.is_training], PCA_DIMS)
        self.real_projected = self.pca.project(self.real_features[self.is_training])
        self.embeddings = load_caption_embeddings(emoji.captions)
        self.fold = torch.randperm(len(emoji.captions), generator=torch.Generator().manual_seed(0)) % FOLDS
        self.maps = [
            ridge_map(self.real_features[self.fold != fold], self.embeddings[self.fold != fold], RIDGE_PENALTY)
            for fold in range(FOLDS)
        ]

    def score(self, runs: Iterable[Tensor], captions: Tensor) -> Scores:
        """Score runs of pictures, each (N, H, W, 3) in [0, 1], made for the captions of these N indices."""
        distances, hits = [], []
        for images in runs:
            features = image_features(self.network, images)
            distances.append(self.distance(features[self.is_training[captions]]))
            hits.append(self.recalled(features, captions))
        distance, alignment = torch.tensor(distances), torch.stack(hits).double().mean(0)
        return Scores(
            distance=distance.mean().item(),
            distance_std=distance.std(correction=min(1, len(distances) - 1)).item(),
            alignment_training=alignment[self.is_training[captions]].mean().item(),
            alignment_held_out=alignment[~self.is_training[captions]].mean().item(),
        )

    def distance(self, features: Tensor) -> float:
        """Fréchet distance of image features (N, 1280) to those of all the training captions' real pictures."""
        return frechet_distance(self.pca.project(features), self.real_projected)

    def floor(self) -> float:
        """The distance between two halves of the real pictures, averaged over a few random splits."""
        generator = torch.Generator().manual_seed(0)
        half = len(self.real_projected) // 2
        orders = [torch.randperm(len(self.real_projected), generator=generator) for _ in range(FLOOR_SPLITS)]
        pairs = [(self.real_projected[order[:half]], self.real_projected[order[half:]]) for order in orders]
        return sum(frechet_distance(a, b) for a, b in pairs) / FLOOR_SPLITS

    def recalled(self, features: Tensor, captions: Tensor) -> Tensor:
        """Whether each picture finds its own caption. features: (N, 1280), captions: (N,) indices → (N,) bool.

        Similarity is the cosine after the mean caption is taken away: what all captions share tells none apart.
        """
        found = torch.zeros(len(captions), dtype=torch.bool)
        for fold, to_text in enumerate(self.maps):
            mine = self.fold[captions] == fold
            members = (self.fold == fold).nonzero()[:, 0]
            found[mine] = recall_at(
                to_text(features[mine]) - to_text.y_mean,
                torch.searchsorted(members, captions[mine]),
                self.embeddings[members] - to_text.y_mean,
                RECALL_AT,
            )
        return found

    def real_scores(self) -> Scores:
        """What the real pictures themselves score; their distance is the floor."""
        captions = torch.arange(len(self.emoji.captions))
        hits = self.recalled(self.real_features, captions).double()
        training, held_out = hits[self.is_training].mean().item(), hits[~self.is_training].mean().item()
        return Scores(self.floor(), 0.0, training, held_out)

    def chance(self) -> float:
        """R@10 of a guess."""
        return (RECALL_AT / self.fold.bincount()).mean().item()
