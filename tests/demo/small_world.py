"""A world of which all is known: features that are linear in what a picture shows, and a protocol's reference of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

SUBJECTS, TEXT, SEEN, FOLDS = 60, 8, 12, 3
LEARNT = 30  # the first subjects, which have pictures in the set "training"
STYLES_EACH = 8  # of a caption in the set "variety"


@dataclass(frozen=True)
class SmallWorld:
    """Of each subject an embedding (S, 8), which a map (8, 12) turns into features; a style is a one-hot stroke."""

    embeddings: Tensor
    to_features: Tensor

    def features(self, subjects: Tensor, styles: Tensor, seed: int = 0):
        """What pictures look like: the same subject in another style is a little elsewhere."""
        from features import Features

        generator = torch.Generator().manual_seed(seed)
        wobble = 0.1 * torch.randn(9, SEEN, generator=torch.Generator().manual_seed(9), dtype=torch.float64)[styles]
        noise = 0.01 * torch.randn(len(subjects), SEEN, generator=generator, dtype=torch.float64)
        return Features(
            self.embeddings[subjects] @ self.to_features + wobble + noise,
            torch.nn.functional.one_hot(styles, 9).double(),
        )

    def reference(self):
        """With exact maps: the probe reads the stroke off, the judge's maps are the inverse of `to_features`."""
        from reference import NO_STYLE, PAIRS, TRAINING, VARIETY, Reference, SubjectJudge
        from reference import SUBJECTS as NEW_SUBJECTS

        from sid_pack.sid_core.evaluation.linear import LinearMap, LinearProbe, fit_pca

        nothing = torch.zeros(TEXT, dtype=torch.float64)
        back = LinearMap(torch.zeros(SEEN, dtype=torch.float64), torch.linalg.pinv(self.to_features), nothing)
        everything = torch.arange(SUBJECTS).repeat_interleave(9), torch.arange(9).repeat(SUBJECTS)
        bare = Reference(
            [f"thing {i}" for i in range(SUBJECTS)],
            fit_pca(self.features(*everything).subject, 6),
            LinearProbe(torch.eye(9).double(), torch.zeros(9).double()),
            SubjectJudge(self.embeddings, torch.arange(SUBJECTS) % FOLDS, [back] * FOLDS),
        )

        def seen(subjects: Tensor, styles: Tensor, asked: Tensor):
            return bare.measure(self.features(subjects, styles), subjects, asked)

        def styled(first: int, last: int, per_subject: int):
            subjects = torch.arange(first, last).repeat_interleave(per_subject)
            styles = (torch.arange(len(subjects)) * 4) % 9
            return seen(subjects, styles, styles)

        variety = torch.arange(4).repeat_interleave(STYLES_EACH)
        bare.real[TRAINING] = styled(0, LEARNT, 3)
        bare.real[PAIRS] = styled(0, LEARNT, 1)
        bare.real[NEW_SUBJECTS] = styled(LEARNT, SUBJECTS, 1)
        every_style = torch.arange(len(variety)) % STYLES_EACH
        bare.real[VARIETY] = seen(variety, every_style, torch.full_like(variety, NO_STYLE))
        return bare


def small_world() -> SmallWorld:
    generator = torch.Generator().manual_seed(1)
    return SmallWorld(
        torch.randn(SUBJECTS, TEXT, generator=generator, dtype=torch.float64),
        torch.randn(TEXT, SEEN, generator=generator, dtype=torch.float64),
    )
