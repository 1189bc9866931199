"""The best student of a run so far: found by evaluations on the way, and kept beside the checkpoints."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sid_core.data.conditioning import Cond
from ...sid_core.evaluation.feature_rows import FeatureRows
from ...sid_core.evaluation.streamed import FeatureSet, frechet_distance, kernel_distance
from ...sid_core.files.plain import is_count, is_number, parse
from ...sid_core.files.run_folder import BEST_STUDENT, TEACHER_FEATURES
from ...sid_core.files.student import StudentInfo
from ...sid_core.files.tensors import NotACheckpointError, checksum, read_tensors, write_tensors
from ...sid_core.method.sampling import few_step, step_times
from ...sid_core.training.distill import generator_for
from ...sid_core.words import log
from ..host import say
from ..host.fingerprints import digest_of
from ..host.image_features import ImageFeatures
from .curves import FRECHET_DISTANCE, KERNEL_DISTANCE
from .evaluation import KERNEL, EvaluationInputs
from .loop import Training
from .previews import first_frames

AT_ONCE = 16  # pictures that noise is drawn for together, whatever goes through the network at once
STUDENT_NOISE, TEACHER_NOISE, ORDER = -2, -3, -4  # no ranks, so that training never draws the same
SCORED = "sid.best"  # in the best student's metadata: iteration, score and by what
LONGEST = 1000
CHECKSUM = "checksum"  # in the metadata of the teacher's features


@dataclass
class Evaluation:
    """model: whose latents they are. tensors: the averaged student as its file holds it, by names of stock loaders."""

    asked: EvaluationInputs
    features: ImageFeatures
    vae: object
    model: ModelPatcher
    info: StudentInfo
    tensors: Callable[[], dict[str, Tensor]]
    best: tuple[int, float] | None = None  # iteration, score
    scores: dict[int, float | None] = field(default_factory=dict)  # by iteration; None: not finite

    @property
    def metric(self) -> str:
        """Its name in metrics.jsonl."""
        return KERNEL_DISTANCE if self.asked.metric == KERNEL else FRECHET_DISTANCE

    @property
    def stale(self) -> int:
        """Evaluations since the best."""
        return sum(iteration > self.best[0] for iteration in self.scores) if self.best else 0

    def recall(self, training: Training) -> None:
        """What the folder knows of evaluations up to the run's iteration."""
        rows = training.folder.metrics.rows()
        self.scores = {row["iteration"]: row[self.metric] for row in rows if self.metric in row}
        said = _said_of_best(training.folder.path / BEST_STUDENT)
        if said is not None and said["by"] != self._by(training):
            self.scores = {}
            training.progress.remark(
                "the run was evaluated otherwise before, and such scores can't be compared: the next one is the best"
            )
        elif said is not None:
            self.best = said["iteration"], said["score"]
        self.scores, self.best = training.ranks.shared_in_step((self.scores, self.best))
        # Stopped between a score and the writing of its student, which the checkpoint has.
        at = training.run.iteration
        if self._is_best(self.scores.get(at)):
            self._keep(training, at, self.scores[at])

    def stops(self, training: Training) -> bool:
        """Evaluate where that is due; → whether the run is to end, for it got no better for as long as is borne."""
        at, end = training.run.iteration, training.schedule.iterations
        if at > 0 and (at % self.asked.every == 0 or at >= end) and at not in self.scores:
            self._evaluate(training)
        if not self.asked.patience or self.stale < self.asked.patience or at >= end:
            return False
        training.folder.end_early()
        training.progress.remark(
            f"ended at iteration {at}: {self.stale} evaluations in a row were no better than that of iteration "
            f"{self.best[0]}; raise patience to train on"
        )
        return True

    def _evaluate(self, training: Training) -> None:
        at, settings = training.run.iteration, training.run.settings
        times = step_times(settings.steps, process=training.process, t_init=settings.t_init)
        with training.run.averaged_weights():
            features = self._features(training, times, STUDENT_NOISE, "student")
        distance = kernel_distance if self.asked.metric == KERNEL else frechet_distance
        finite = bool(features.isfinite().all())
        score = math.nan
        if finite:
            score = distance(_set_of(features), _set_of(self._teacher(training)), parts=1).value
        score = training.ranks.shared_in_step(score)  # to the last bit, as all do by it what comes next
        self.scores[at] = score if math.isfinite(score) else None
        training.folder.metrics.append({"iteration": at, self.metric: score})
        if self._is_best(self.scores[at]):
            training.save()  # first: what is the best is then never of an iteration that is to be trained once more
            self._keep(training, at, score)
        best = f"; the best is {self.best[1]:.4g}, of iteration {self.best[0]}" if self.best else ""
        training.progress.tell(f"{self.asked.metric} {score:.4g} at iteration {at}{best}")

    def _is_best(self, score: float | None) -> bool:
        return score is not None and (self.best is None or score < self.best[1])

    def _keep(self, training: Training, iteration: int, score: float) -> None:
        """Write the averaged student as best.safetensors: the one before is there until this one is whole."""
        facts = {"iteration": iteration, "score": score, "by": self._by(training)}
        metadata = self.info.to_metadata() | {SCORED: json.dumps(facts)}
        tensors = self.tensors()  # which ranks may have in parts, and have to ask for together
        if training.ranks.leads:
            write_tensors(training.folder.path / BEST_STUDENT, tensors, metadata)
        self.best = iteration, score

    def _by(self, training: Training) -> str:
        """Digest of all that scores have to have in common to be compared."""
        return digest_of(self.asked.metric, self._of_teacher(training))

    def _of_teacher(self, training: Training) -> str:
        """Of all that the teacher's pictures depend on."""
        settings, asked = training.run.settings, self.asked
        known = [self._vae_and_features, training.identity, list(training.buckets[0].latent_shape), settings.seed]
        return digest_of(*known, settings.guidance.teacher, asked.samples, asked.teacher_steps)

    @cached_property
    def _vae_and_features(self) -> str:
        return digest_of(self.vae.patcher, self.features.digest)

    def _teacher(self, training: Training) -> Tensor:
        """The teacher's features (N, D), drawn once for a run."""
        path, drawn_for = training.folder.path / TEACHER_FEATURES, self._of_teacher(training)
        known = training.ranks.shared_in_step(self._known_of_teacher(path, drawn_for))
        if known is not None:
            return known
        steps, process = self.asked.teacher_steps, training.process
        times = step_times(steps, process=process, t_init=process.first_times(steps)[1])
        features = self._features(training, times, TEACHER_NOISE, "teacher")
        if not features.isfinite().all():
            raise ValueError(
                "Lower the guider's guidance, connect the VAE and a CLIP_VISION that belong to the model, or take SiD "
                "Training Evaluation off: the teacher's pictures have features that are not finite."
            )
        tensors = {"features": features}
        write_tensors(path, tensors, {"of": drawn_for, CHECKSUM: str(checksum(tensors))})
        return features

    def _known_of_teacher(self, path: Path, drawn_for: str) -> Tensor | None:
        """The features that were drawn before."""
        if not path.exists():
            return None
        try:
            tensors, metadata = read_tensors(path)
        except NotACheckpointError as error:
            log.warning("%s is not used (%s), and is drawn again", path.name, error.why)
            return None
        if metadata.get("of") != drawn_for:
            return None
        if metadata.get(CHECKSUM) != str(checksum(tensors)):
            log.warning("%s is not used (it is damaged), and is drawn again", path.name)
            return None
        return tensors["features"]

    def _features(self, training: Training, times: Tensor, noise: int, whose: str) -> Tensor:
        """Of the prompts in an order that is the same each time, and from the same noise."""
        bucket, count = training.buckets[0], self.asked.samples
        order = torch.randperm(len(bucket.prompts), generator=generator_for(training.run.settings.seed, 0, ORDER))
        rows = order[torch.arange(count) % len(order)]
        found = []
        for first in range(0, count, AT_ONCE):
            comfy.model_management.throw_exception_if_processing_interrupted()
            say.on_node(f"evaluating at iteration {training.run.iteration}: {whose}, picture {first + 1}/{count}")
            part = rows[first : first + AT_ONCE]
            latents = training.drawn(partial(self._latents, training, part, times, (first, noise)))
            with torch.inference_mode():
                pictures = self.vae.decode(self.model.get_model_object("latent_format").process_out(latents.cpu()))
                found.append(self.features.of(first_frames(pictures)).clone())
        return torch.cat(found).clone()

    def _latents(self, training: Training, rows: Tensor, times: Tensor, draw: tuple[int, int]) -> Tensor:
        """Pictures (B, C, …) of these prompts in the method's scale: the student's own way, or DDIM for the teacher.

        draw: the number of the first picture, and whose noise.
        """
        bucket, device = training.buckets[0], training.device
        student = draw[1] == STUDENT_NOISE
        generator = generator_for(training.run.settings.seed, *draw)
        noises = torch.randn(len(times) if student else 1, len(rows), *bucket.latent_shape, generator=generator)
        done = []
        for part in torch.arange(len(rows)).split(training.savings.micro_batch or len(rows)):
            cond = _on(bucket.prompts.batch(rows[part]), device)
            uncond = {} if student else _on(bucket.prompts.unconditional(len(part)), device)
            first, *others = (each[part].to(device) for each in noises)
            following = iter(others)

            def predict(x_t: Tensor, t: Tensor, cond: Cond = cond, uncond: Cond = uncond) -> Tensor:
                roles = training.roles.predict
                return roles.student(x_t, t, cond) if student else roles.teacher(x_t, t, cond, uncond)

            mode = "fresh" if student else "ddim"
            done.append(few_step(predict, first, times, training.process, mode=mode, next_noise=following.__next__))
        return torch.cat(done)


def _set_of(features: Tensor) -> FeatureSet:
    """On the disk, so that as many as a user asks for can be compared."""
    rows = FeatureRows(features.shape[1])
    rows.append(features)
    return FeatureSet(rows, check=comfy.model_management.throw_exception_if_processing_interrupted)


def _on(cond: Cond, device: torch.device) -> Cond:
    return {name: values.to(device) for name, values in cond.items()}


def _said_of_best(path) -> dict | None:
    """What the best student's file says of its score; None where there is no such file."""
    if not path.exists():
        return None
    try:
        said = parse(read_tensors(path)[1].get(SCORED, ""), LONGEST)
        if not isinstance(said, dict) or not isinstance(said.get("by"), str):
            raise ValueError("it does not say what it is")
        if not (is_count(said.get("iteration")) and is_number(said.get("score")) and math.isfinite(said["score"])):
            raise ValueError("its score can't be read")
    except (NotACheckpointError, ValueError) as error:
        log.warning("%s is not used: %s", path.name, getattr(error, "why", None) or error)
        return None
    return said
