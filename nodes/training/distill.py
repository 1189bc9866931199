"""Distillation in the graph: a guided teacher and prompts in, a few-step student out."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import comfy.model_management
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ...sid_core.files.run_folder import BEST_STUDENT, RunFolder
from ...sid_core.files.student import StudentInfo
from ...sid_core.method.process import VP, Flow
from ...sid_core.method.sampling import step_times
from ...sid_core.training.distill import Bucket
from ...sid_core.training.ranks import Ranks
from ...sid_core.training.run import Run
from ...sid_core.training.settings import Settings
from ...sid_core.training.sharding import whole
from ..host.families import FULL, LORA, before_training, family_of, require_use
from ..host.fingerprints import digest_of, text_encoder_parts, weights_digest, weights_sample
from ..host.folder_names import named_folder
from ..host.inputs import widgets
from ..host.latents import latent_shapes, model_latent, unusual_size
from ..host.model import compute_dtype, process_of, signature_of
from ..host.node import Node
from ..host.search import found_by
from ..host.under_way import times_stopped, under_way
from ..host.weights import with_gradients
from ..sampling.attached import as_student, with_lora
from ..sampling.guiders import SiDGuider
from ..sampling.loras import lora_tensors
from ..sampling.patches import before_distilling
from ..sampling.students import PREFIX, load_own
from .adversarial import before_adversarial
from .best import Evaluation
from .encoding import encoded
from .evaluation import BEST
from .initial import Initial
from .inputs import START_OVER, Inputs
from .loop import Training
from .memory import Savings
from .previews import decoder
from .progress import TrainingProgress
from .real_pictures import left_out, real_pictures, shares_of
from .roles import LoRAOptions, Roles, full_roles, lora_roles
from .trial import require_trainable, try_out

Shape = tuple[int, ...]  # (C, H, W) of latents


def identity_of(inputs: Inputs, guider: SiDGuider, shapes: list[Shape]) -> dict[str, str]:
    """What must be the same for a run to go on, besides its settings: the models, the data, sizes and LoRAs.

    All of it in every run, for what a saved run does not know is not compared with.
    """
    latent, *more = ("x".join(map(str, shape)) for shape in shapes)
    model, weaker, lora = guider.model_patcher, guider.weaker, inputs.lora()
    encodes = inputs.images is not None and any(picture.image for picture in inputs.images.pictures)
    return {
        "mode": inputs.mode,
        "base": signature_of(model),
        "weights": weights_digest(model),
        "weaker_model": weights_digest(weaker) if weaker else None,
        "weaker_strength": guider.strength if weaker else None,
        "negative": digest_of(guider.empty_prompt)[:16],
        "clip": digest_of(text_encoder_parts(inputs.clip, inputs.prompts))[:16],
        "vae": digest_of(inputs.vae.patcher)[:16] if encodes and inputs.vae is not None else None,
        "prompts": inputs.prompts.digest[:16],
        "latent": latent,
        "more_sizes": ", ".join(more) or None,
        "images": inputs.images.digest[:16] if inputs.images is not None else None,
        "student": weights_digest(inputs.student) if inputs.student is not None else None,
    } | (asdict(lora) if lora else {})


def student_info(
    inputs: Inputs, settings: Settings, t_init: float, identity: dict[str, str], model: ModelPatcher
) -> StudentInfo:
    """What the student says of itself. Its run is named by what decides it, too, so that no two are called the same."""
    digest = hashlib.sha256(repr((settings, identity)).encode()).hexdigest()[:8]
    return StudentInfo(
        steps=settings.steps,
        t_init=t_init,
        base=identity["base"],
        run=f"{inputs.run_name} {digest}",
        guidance=settings.guidance.name,
        base_weights=weights_sample(model),
    )


class SiDDistill(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDDistill",
            **found_by(
                "distillation",
                "few step",
                "4 steps",
                "train lora",
                "turbo",
                "lightning",
                "lcm",
                "dmd",
                "train a student",
            ),
            display_name="SiD Distill",
            category="SiD/training",
            description="Distils the guider's model into a student of a few steps, from prompts alone: into a LoRA on "
            "the model as it is loaded, or the whole network. Cancel keeps what was learnt: queue again, and the run "
            "goes on.",
            inputs=widgets(Inputs),
            outputs=[
                io.Model.Output(display_name="student"),
                io.String.Output(display_name="run_folder"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **given):
        """A run that was stopped goes on when it is queued again, though nothing on the node has changed."""
        return times_stopped(given.get("run_name"))

    @classmethod
    def execute(cls, **given):
        inputs = Inputs(**given).with_preset()
        teacher = require_sid_guider(inputs.guider)
        guider = teacher.with_ordinary_weights()
        model = guider.model_patcher
        require_use(model, LORA if inputs.lora() else FULL)
        process = process_of(model)
        settings = inputs.settings(guider.guidance)
        step_times(settings.steps, process=process, t_init=settings.t_init, kind=family_of(model).name)  # refuses
        of_images = before_adversarial(inputs.images is not None, settings, inputs.iterations)
        if settings.adversarial_weight == 0:
            inputs = replace(inputs, images=None)
        adversarial = inputs.images is not None
        require_trainable(model, adversarial)
        initial = None if inputs.student is None else Initial.of(inputs.student, model, inputs.lora())
        first = tuple(model_latent(model, inputs.latent).shape[1:])
        shapes = [first, *latent_shapes(model, inputs.more_sizes, first[1:-2])]
        identity = identity_of(inputs, guider, shapes)
        info = student_info(inputs, settings, settings.t_init or process.default_t_init, identity, model)
        shares = shares_of(inputs.images, model, shapes, inputs.vae)
        lora, on_cpu = inputs.lora(), model.load_device.type == "cpu"
        savings = Savings(inputs.batch_size, inputs.gradient_checkpointing, can_offload=bool(lora) and not on_cpu)
        place = named_folder("sid_runs", "run_name", inputs.run_name, "my student")
        ranks = Ranks.of_environment(model.load_device)
        batch = inputs.batch_size * ranks.size
        progress = TrainingProgress(inputs.iterations, batch, cls.hidden.unique_id, inputs.run_name)
        with (
            progress.ending(),
            under_way(inputs.run_name) as stop,
            folder_of(place, inputs.keep_last, ranks) as folder,
            ranks.leaving(comfy.model_management.InterruptProcessingException),
            with_gradients(),
        ):
            require_the_same(ranks, settings, identity)
            odd = [*before_training(model, inputs.preset, inputs.mode)]
            odd += filter(None, (unusual_size(model, shape) for shape in shapes))
            for told in [*before_distilling(teacher), *odd, *(initial.remarks(info) if initial else [])]:
                progress.warn(told)
            for told in of_images:
                progress.remark(told)
            require_evaluable(inputs)
            show = decoder(model, inputs.vae, shapes[0])
            try_out(guider, teacher.model_patcher, process, lora, shapes, settings, info, adversarial)
            for said in left_out(inputs.images, shares, batch):
                progress.warn(said)
            latents = [torch.zeros(1, *shape) for shape in shapes]
            encodings, real = ranks.first_before_others(
                lambda: (
                    [encoded(inputs.clip, inputs.prompts, guider, x, cls.hidden.unique_id) for x in latents],
                    [real_pictures(share, inputs.clip, inputs.vae, guider, progress) for share in shares],
                ),
                look=comfy.model_management.throw_exception_if_processing_interrupted,
            )
            if not on_cpu:
                comfy.model_management.unload_all_models()  # the text encoder and the VAE have done their part
            ranks.in_step = ranks.size > 1 and lora is None
            roles = roles_of(guider, process, lora, savings, initial, ranks)
            in_float16 = compute_dtype(model) == torch.float16 and not ranks.in_step
            run = Run(roles.student, roles.fake, settings, loss_scaling=in_float16, ranks=ranks)
            evaluation = evaluation_of(inputs, model, info, run) if ranks.looks else None
            training = Training(
                run=run,
                roles=roles,
                buckets=list(map(Bucket, shapes, encodings, real or [None] * len(shapes))),
                process=process,
                device=model.load_device,
                folder=folder,
                identity=identity,
                progress=progress,
                schedule=inputs.schedule(),
                savings=savings,
                evaluation=evaluation,
                stop=stop,
            )
            progress.tell(training.plan_memory(inputs.micro_batch))
            if inputs.existing_run == START_OVER:
                training.start_over()
            training.resume()
            training.train(show)
            best = ranks.shared(best_of(evaluation))
            if best is not None:
                iteration, score, metric = best
                progress.remark(f"the student is the best, of iteration {iteration} ({metric} {score:.4g})")
            file = place / BEST_STUDENT if best else None
            student = student_of(teacher.model_patcher, training, file, info, model if lora else None)
        return io.NodeOutput(student, str(place))


@contextmanager
def folder_of(place: Path, keep_last: int, ranks: Ranks) -> Iterator[RunFolder]:
    """The run's folder; on other ranks than the first, one of their own that goes with the run."""
    if ranks.leads:
        with RunFolder(place, keep_last) as folder:
            yield folder
        return
    temporary = Path(folder_paths.get_temp_directory())
    temporary.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=temporary) as scratch, RunFolder(Path(scratch) / place.name, keep_last) as folder:
        yield folder


def require_the_same(ranks: Ranks, settings: Settings, identity: dict[str, str]) -> None:
    """Raise ValueError where this rank has another model, prompts or settings than the first."""
    mine = settings.as_dict() | identity
    first = ranks.shared(mine)
    if others := sorted(name for name, value in mine.items() if first[name] != value):
        raise ValueError(
            f"Give all processes of this run the same models, prompts and images: of the {ranks.rank + 1}th, "
            f"{', '.join(others)} is another than of the first."
        )


def roles_of(
    guider: SiDGuider,
    process: VP | Flow,
    lora: LoRAOptions | None,
    savings: Savings,
    initial: Initial | None,
    ranks: Ranks,
) -> Roles:
    """Of the mode that is asked for, the student beginning as `initial` or as the model itself."""
    if lora:
        return lora_roles(guider, process, lora, savings, *([initial.begin] if initial else []))
    return full_roles(guider, process, savings, initial.with_ordinary_weights() if initial else None, ranks)


def best_of(evaluation: Evaluation | None) -> tuple[int, float, str] | None:
    """Iteration, score and metric of what the student is to be; None where it is the last."""
    if evaluation is None or evaluation.asked.student != BEST or evaluation.best is None:
        return None
    return *evaluation.best, evaluation.asked.metric


def student_of(
    base: ModelPatcher,
    training: Training,
    best: Path | None,
    info: StudentInfo,
    adapted: ModelPatcher | None,
) -> ModelPatcher:
    """What was learnt, as a MODEL: the best, where that is evaluated and asked for, else the last.

    best: the file of that. adapted: the MODEL that the LoRAs are on; None where the whole network was trained.
    """
    if best is not None:
        return load_own(base, best)
    weights = averaged_tensors(training.run, adapted)
    return as_student(base, weights, info) if adapted is None else with_lora(base, weights, info)


def averaged_tensors(run: Run, adapted: ModelPatcher | None) -> dict[str, Tensor]:
    """The averaged student's whole network, or its LoRA as files have it; on the CPU."""
    if adapted is None:
        return {key: whole(weight.detach()).cpu() for key, weight in run.averaged().items()}
    with run.averaged_weights():
        return lora_tensors(adapted, run.student)


def require_evaluable(inputs: Inputs) -> None:
    """Raise ValueError where an evaluation lacks what it sees pictures by."""
    if inputs.evaluation is not None and inputs.vae is None:
        raise ValueError("Connect a vae, by which SiD Training Evaluation sees the pictures, or take it off: none is.")


def evaluation_of(inputs: Inputs, model: ModelPatcher, info: StudentInfo, run: Run) -> Evaluation | None:
    """Of a run on its way; None where it was not asked for."""
    if inputs.evaluation is None:
        return None
    lora = inputs.lora() is not None

    def tensors() -> dict[str, Tensor]:
        averaged = averaged_tensors(run, model if lora else None)
        return averaged if lora else {PREFIX + key: weight for key, weight in averaged.items()}

    return Evaluation(inputs.evaluation, inputs.evaluation.features(), inputs.vae, model, info, tensors)


def require_sid_guider(guider: object) -> SiDGuider:
    """The guider, if it says how teacher and fake score are guided. Raises ValueError for others."""
    if not isinstance(guider, SiDGuider):
        raise ValueError(
            "Connect SiD LSG Guider, SiD Zero-CFG Guider or SiD Anti-CFG Guider as guider: they say how teacher and "
            f"fake score are guided, and this is a {type(guider).__name__}."
        )
    return guider


NODES = [SiDDistill]
