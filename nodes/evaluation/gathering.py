"""Draws a contender's pictures batch by batch and keeps what is measured of them; the pictures themselves go."""

import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sid_core.evaluation.feature_files import FORMAT, Batch, FeatureFolder
from ...sid_core.evaluation.feature_rows import FeatureRows
from ...sid_core.training.distill import generator_for
from ..host.fingerprints import digest_of, text_encoder_parts
from ..host.image_features import ImageFeatures, likeness
from ..training.previews import first_frames
from .contenders import Contender
from .progress import EvaluationProgress
from .prompting import Prompting, batches

SHOWN = 6  # pictures of each contender to look at
SHOWN_SIDE = 256  # pixels at most
# What noise is drawn for: a teacher's is not its students', or each of them would be nearer to it than it is.
TEACHER, STUDENTS, LOOK = -10, -11, -12


@dataclass
class Gathered:
    """What is known of a contender's pictures. alignment: (N, 2) or None; seconds: an image's, in the middle batch."""

    contender: Contender
    rows: FeatureRows
    alignment: Tensor | None = None
    seconds: float = 0.0
    forwards: float = 0.0
    shown: Tensor | None = None


@dataclass
class Gathering:
    """How pictures are drawn and looked at, the same for all contenders. shape: (C, …) of their latents."""

    prompting: Prompting
    vae: object
    features: ImageFeatures | None
    shape: tuple[int, ...]
    pictures: int
    batch_size: int
    seed: int
    folder: Path
    _common: str = field(init=False)

    def __post_init__(self) -> None:
        texts, prompts, features = self.prompting.texts, self.prompting.prompts, self.features
        self._common = digest_of(
            *(FORMAT, text_encoder_parts(self.prompting.clip, prompts), prompts.digest, self.vae.patcher),
            *(text_encoder_parts(texts.clip, prompts) if texts else None, features and features.digest),
            *(list(self.shape), self.batch_size, self.seed, self.prompting.in_group),
        )

    @property
    def batches(self) -> int:
        """All of them whole, also where fewer pictures are asked for: more may be another time."""
        return -(-self.pictures // self.batch_size)

    def kept(self, contender: Contender, spare: Path) -> FeatureFolder:
        """spare: where what can't be told apart from others may lie for as long as this run lasts."""
        if contender.identity is None:
            return FeatureFolder(spare / digest_of(contender.label))
        return FeatureFolder(self.folder / digest_of(self._common, contender.identity))

    def missing(self, kept: FeatureFolder) -> list[int]:
        return [number for number in range(self.batches) if kept.read(number, self.batch_size) is None]

    def gather(
        self, contender: Contender, kept: FeatureFolder, missing: list[int], progress: EvaluationProgress
    ) -> Gathered:
        """Draw what is missing, and read all of it."""
        shown = kept.shown(SHOWN)
        if shown is None:
            shown = self._look(contender)
            kept.show(shown)
        for number in missing:
            kept.write(number, self._draw(contender, number))
            done = min((number + 1) * self.batch_size, self.pictures)
            progress.drawn(contender.cost * self.batch_size, f"{contender.label}: picture {done}/{self.pictures}")
        rows = FeatureRows(self.features.width if self.features else 0)
        alignments, seconds, forwards = [], [], 0.0
        for number in range(self.batches):
            comfy.model_management.throw_exception_if_processing_interrupted()
            batch = kept.read(number, self.batch_size)
            if batch is None:  # damaged or deleted since
                batch = self._draw(contender, number)
                kept.write(number, batch)
            left = self.pictures - number * self.batch_size
            rows.append(batch.features[:left])
            alignments.append(None if batch.alignment is None else batch.alignment[:left])
            seconds.append(batch.seconds)
            forwards = batch.forwards
        lacking = any(each is None for each in alignments)
        alignment = None if lacking else torch.cat(alignments)
        return Gathered(contender, rows, alignment, statistics.median(seconds), forwards, shown)

    def _draw(self, contender: Contender, number: int) -> Batch:
        first = number * self.batch_size
        turns = self.prompting.turns(first, first + self.batch_size)
        draw = generator_for(self.seed, number, TEACHER if contender.is_teacher else STUDENTS)
        pictures, seconds, forwards = self._pictures(contender, turns, draw)
        features = self.features.of(pictures) if self.features else torch.zeros(len(pictures), 0)
        alignment = None
        if self.prompting.texts:
            alignment = torch.stack([likeness(features, texts) for texts in self.prompting.aligned(turns)], 1)
        return Batch(features, alignment, seconds, forwards)

    def _look(self, contender: Contender) -> Tensor:
        """Pictures (SHOWN, H, W, 3) of the first prompts, from the same noise for all contenders."""
        turns = [i % len(self.prompting.prompts) for i in range(SHOWN)]
        shown = []
        for part in torch.arange(SHOWN).split(self.batch_size):
            draw = generator_for(self.seed, int(part[0]), LOOK)
            pictures = self._pictures(contender, [turns[i] for i in part.tolist()], draw)[0]
            shown.append(_small(pictures))
        return torch.cat(shown)

    def _pictures(self, contender: Contender, turns: list[int], draw: torch.Generator) -> tuple[Tensor, float, float]:
        """IMAGE (B, H, W, 3) of these prompts; seconds and forwards an image."""
        noise = torch.randn(len(turns), *self.shape, generator=draw)
        seed = int(torch.randint(2**31, (), generator=draw))
        found: list[Tensor | None] = [None] * len(turns)
        seconds = forwards = 0.0
        conditionings = {turn: self.prompting.conditioning(turn) for turn in dict.fromkeys(turns)}
        for places, conditioning in batches([conditionings[turn] for turn in turns]):
            comfy.model_management.throw_exception_if_processing_interrupted()
            began = time.perf_counter()
            latents, each = contender.draw(conditioning, noise[places], seed)
            seconds += time.perf_counter() - began
            forwards += each * len(places)
            for place, picture in zip(places, first_frames(self.vae.decode(latents)), strict=True):
                found[place] = picture
        return torch.stack(found).float().clamp(0, 1), seconds / len(turns), forwards / len(turns)


def features_of_images(images: Tensor, features: ImageFeatures, batch_size: int) -> FeatureRows:
    """Of real pictures (N, H, W, 3). Raises ValueError where they have no finite features."""
    rows = FeatureRows(features.width)
    for pictures in images.split(batch_size):
        comfy.model_management.throw_exception_if_processing_interrupted()
        rows.append(features.of(pictures[..., :3]))
    if rows.not_finite:
        raise ValueError(
            f"Connect other images: {rows.not_finite} of the {len(rows)} have features that are not finite numbers."
        )
    return rows


def require_one_family(models: list[ModelPatcher]) -> None:
    """Raise ValueError where the models' latents are not of one kind."""
    kinds = {model.get_model_object("latent_format").latent_channels for model in models}
    if len(kinds) > 1:
        raise ValueError(
            f"Connect models of one family, for which one vae and latent serve: their latents have "
            f"{', '.join(map(str, sorted(kinds)))} channels."
        )


def _small(pictures: Tensor) -> Tensor:
    side = max(pictures.shape[1:3])
    if side <= SHOWN_SIDE:
        return pictures
    size = [max(1, round(length * SHOWN_SIDE / side)) for length in pictures.shape[1:3]]
    return torch.nn.functional.interpolate(pictures.movedim(-1, 1), size, mode="area").movedim(1, -1)
