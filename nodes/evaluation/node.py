"""How good students are: models × steps × prompts in, a table, plots, pictures side by side and JSON out."""

import json
import tempfile
from itertools import count
from pathlib import Path

import comfy.model_management
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ...sid_core.files.atomic import remove_dead, write_new
from ..host import say
from ..host.folder_names import named_folder
from ..host.image_features import ImageFeatures, TextFeatures
from ..host.inputs import widgets
from ..host.latents import model_latent
from ..host.node import Node
from ..host.search import found_by
from ..pictures.bars import Bars, draw_bars
from ..pictures.grid import labelled_rows
from .contenders import Contender, student, teacher
from .gathering import Gathered, Gathering, features_of_images, require_one_family
from .inputs import EvaluationInputs
from .measuring import (
    CLIP_SCORE,
    FORWARDS,
    FRECHET,
    KERNEL,
    METRICS,
    PRECISION,
    RECALL,
    SECONDS,
    VARIETY,
    Measured,
    Reference,
    feature_set,
    measure,
)
from .progress import EvaluationProgress
from .prompting import Prompting
from .report import Setting, as_json, table

BETTER = {
    KERNEL: "lower is nearer",
    FRECHET: "lower is nearer",
    PRECISION: "higher: more like the reference",
    RECALL: "higher: more of the reference",
    VARIETY: "as the reference's is best",
    CLIP_SCORE: "higher: more of what was asked",
    FORWARDS: "lower is faster",
    SECONDS: "lower is faster",
}


def features_folder() -> Path:
    """Where features of drawn pictures are kept. All of it may be deleted at any time."""
    return Path(folder_paths.get_output_directory()) / "sid_features"


class SiDEvaluate(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDEvaluate",
            **found_by("benchmark", "compare models", "metrics", "kid", "fid", "clip score"),
            display_name="SiD Evaluate",
            category="SiD/evaluation",
            description="How near students are to their teacher, or to real pictures, how varied, how true to their "
            "prompts and how fast. Pictures are measured and not kept. Cancel keeps what was measured: queue again, "
            "and it goes on.",
            inputs=widgets(EvaluationInputs),
            outputs=[
                io.String.Output(display_name="table"),
                io.Image.Output(display_name="plots"),
                io.Image.Output(display_name="grid"),
                io.String.Output(display_name="json"),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, **given):
        inputs = EvaluationInputs(**given)
        folder = named_folder("sid_evaluations", "name", inputs.name, "evaluation")
        contenders = contenders_of(inputs)
        features = None if inputs.clip_vision is None else ImageFeatures(inputs.clip_vision)
        texts, why_no_clip_score = text_features(inputs, features)
        gathering = Gathering(
            prompting=Prompting(inputs.prompts, inputs.clip, texts, inputs.per_prompt, inputs.seed),
            vae=inputs.vae,
            features=features,
            shape=tuple(model_latent(contenders[0].models[0], inputs.latent).shape[1:]),
            pictures=inputs.samples,
            batch_size=inputs.batch_size,
            seed=inputs.seed,
            folder=features_folder(),
        )
        real = None
        if features is not None and inputs.images is not None:
            real = features_of_images(inputs.images, features, inputs.batch_size)
        gathered = gather_all(contenders, gathering, cls.hidden.unique_id)
        prompts = len(inputs.prompts)
        used = min(prompts, -(-inputs.samples // inputs.per_prompt))
        if real is not None:
            reference = Reference(feature_set(real, 1, prompts), f"{len(real):,} real images", is_teacher=False)
        else:
            reference = of_teacher(gathered, inputs.per_prompt, used)
        measured = [measure(each, inputs.per_prompt, used, reference, why_no_clip_score) for each in gathered]
        setting = Setting(
            prompts=used,
            in_group=inputs.per_prompt,
            size="x".join(map(str, reversed(gathered[0].shown.shape[1:3]))),
            seed=inputs.seed,
            teacher=f"{inputs.teacher_steps} steps of {inputs.sampler_name}, {inputs.scheduler}",
            features=features.name if features else "none, for no clip_vision is connected",
            reference=reference if isinstance(reference, str) else reference.whose,
            reference_pictures=0 if isinstance(reference, str) else len(reference.features),
        )
        said = table(measured, setting)
        written = json.dumps(as_json(measured, setting), indent=1, ensure_ascii=False)
        file = write_new(
            folder,
            (f"evaluation_{i:05}.json" for i in count(1)),
            lambda temporary: temporary.write_text(written + "\n", encoding="utf-8"),
        )
        say.on_node(f"{said}\n{say.shown(file)}", cls.hidden.unique_id)
        grid = labelled_rows({each.contender.label: each.shown for each in gathered})
        return io.NodeOutput(said, as_image(draw_bars(panels(measured))), as_image(grid), written, ui={"text": [said]})


def contenders_of(inputs: EvaluationInputs) -> list[Contender]:
    """The teacher first. Raises ValueError for none, and for models that can't be compared in one evaluation."""
    found = []
    if inputs.teacher is not None:
        found.append(teacher(inputs.teacher, inputs.teacher_steps, inputs.sampler_name, inputs.scheduler))
    counts = inputs.step_counts()
    for name, model in inputs.students():
        found += {each.label: each for each in (student(model, steps, name) for steps in counts)}.values()
    if not found:
        raise ValueError("Connect a student, or a SiD guider as teacher: there is nothing to evaluate.")
    require_one_family([model for each in found for model in each.models])
    return found


def text_features(inputs: EvaluationInputs, features: ImageFeatures | None) -> tuple[TextFeatures | None, str | None]:
    """The CLIP to score pictures with, or why there is none."""
    if features is None:
        return None, "no clip_vision is connected"
    texts = TextFeatures(inputs.clip if inputs.score_clip is None else inputs.score_clip, features)
    return (None, texts.why_not) if texts.why_not else (texts, None)


def gather_all(contenders: list[Contender], gathering: Gathering, node_id: str | None) -> list[Gathered]:
    """All contenders' features: those on disk, and those that are drawn now."""
    with tempfile.TemporaryDirectory() as spare:
        kept = [gathering.kept(each, Path(spare)) for each in contenders]
        for folder in kept:
            folder.path.mkdir(parents=True, exist_ok=True)
            remove_dead(folder.path)
        missing = [gathering.missing(folder) for folder in kept]
        total = sum(each.cost * len(lacks) for each, lacks in zip(contenders, missing, strict=True))
        progress = EvaluationProgress(total * gathering.batch_size, node_id)
        for each, lacks in zip(contenders, missing, strict=True):
            if len(lacks) < gathering.batches:
                measured = (gathering.batches - len(lacks)) * gathering.batch_size
                progress.remark(f"{each.label}: {min(measured, gathering.pictures)} pictures are measured already")
            if each.unknown:
                progress.remark(
                    f"{each.label}: its pictures are drawn anew each time, for what {', '.join(each.unknown)} does "
                    "can't be told apart"
                )
        return [
            gathering.gather(each, folder, lacks, progress)
            for each, folder, lacks in zip(contenders, kept, missing, strict=True)
        ]


def of_teacher(gathered: list[Gathered], in_group: int, prompts: int) -> Reference | str:
    """The teacher's pictures as what distances are to, or why they are not."""
    first = gathered[0]
    if not first.contender.is_teacher:
        return "neither a teacher nor images are connected"
    if not first.rows.width:
        return "no clip_vision is connected"
    if first.rows.not_finite:
        return f"{first.rows.not_finite} of the teacher's pictures have features that are not finite"
    comfy.model_management.throw_exception_if_processing_interrupted()
    whose = f"{len(first.rows):,} pictures of the {first.contender.label}"
    return Reference(feature_set(first.rows, in_group, prompts), whose, is_teacher=True)


def panels(measured: list[Measured]) -> list[Bars]:
    """One for each metric that any of them has."""
    found = []
    for name in METRICS:
        estimates = [(row.label, row.values[name]) for row in measured]
        values = [
            (label, None, None) if isinstance(value, str) else (label, value.value, value.margin)
            for label, value in estimates
        ]
        if any(value is not None for _, value, _ in values):
            found.append(Bars(f"{name} ({BETTER[name]})", values))
    return found


def as_image(picture: Image.Image) -> Tensor:
    """IMAGE (1, H, W, 3) in [0, 1]."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]


NODES = [SiDEvaluate]
