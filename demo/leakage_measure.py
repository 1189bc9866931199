"""The judges of the leakage protocol, fitted to real pictures, and the real pictures that they may not know."""

import torch
from features import Features, image_features, load_feature_network
from leakage_protocol import AMONG, NAMEABLE_AMONG, Judges, LinearProbe, Measured, layout, set_aside
from pictures import HELD_OUT_PAIR, Pictures
from torch import Tensor


class Measure:
    """Measures pictures with an EfficientNet's features.

    aside: (N,), which real pictures the judges are not fitted to.
    """

    def __init__(self, pictures: Pictures, features: Features, probe: LinearProbe):
        self.pictures, self.features = pictures, features
        self.network = load_feature_network()
        self.aside = set_aside(pictures.styles, pictures.held_out)
        self.judges = Judges(features.subject[~self.aside], pictures.subjects[~self.aside], probe)

    def __call__(self, images: Tensor) -> Measured:
        features = image_features(self.network, images)
        return Measured(features.subject, features.strokes, layout(images))

    def nameable(self, images: Tensor, subjects: Tensor) -> Tensor:
        """Whether the judge names a picture's subject: (B,) bool."""
        features = image_features(self.network, images)
        return self.judges.subjects.ranks(features.subject, subjects) <= NAMEABLE_AMONG

    def candidates(self) -> Tensor:
        """Style pictures to choose from: set aside, their subject named; those held out of all training first."""
        aside = self.aside.nonzero()[:, 0]
        ranks = self.judges.subjects.ranks(self.features.subject[aside], self.pictures.subjects[aside])
        named = aside[ranks <= NAMEABLE_AMONG]
        shuffled = named[torch.randperm(len(named), generator=torch.Generator().manual_seed(0))]
        trained_with = self.pictures.held_out[shuffled] != HELD_OUT_PAIR
        return shuffled[trained_with.int().argsort(stable=True)]

    def accuracy(self) -> dict[str, float]:
        """Of the judges, on the real pictures that they don't know."""
        subject, strokes = self.features.subject[self.aside], self.features.strokes[self.aside]
        subjects, styles = self.pictures.subjects[self.aside], self.pictures.styles[self.aside]
        others = subjects[torch.randperm(len(subjects), generator=torch.Generator().manual_seed(0))]
        ranks, of_others = (self.judges.subjects.ranks(subject, which) for which in (subjects, others))
        found = {
            "R@1": ranks == 1,
            f"R@{AMONG}": ranks <= AMONG,
            "another, random subject named before its own": of_others < ranks,
            "style named": self.judges.probe.answers(strokes) == styles,
        }
        return {name: values.double().mean().item() for name, values in found.items()}
