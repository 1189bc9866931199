"""Distillation in the graph: a guided teacher and prompts in, a few-step student out."""

import hashlib
import re
from dataclasses import asdict, astuple
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io

from ...sid_core.files.run_folder import RunFolder
from ...sid_core.files.student import StudentInfo
from ...sid_core.training.adapters import DEFAULT_TARGETS, TARGETS
from ...sid_core.training.distill import Bucket
from ...sid_core.training.run import Run
from ...sid_core.training.settings import Settings
from ...sid_core.words import log
from ..host import say
from ..host.fingerprints import weights_digest
from ..host.latents import latent_shapes, model_latent
from ..host.model import compute_dtype, process_of, signature_of
from ..host.node import Node
from ..host.progress import Progress
from ..host.weights import with_gradients
from ..sampling.attached import as_student, with_lora
from ..sampling.guiders import SiDGuider
from ..sampling.loras import lora_tensors
from .encoding import encoded
from .loop import Schedule, Training, decoder
from .memory import Savings
from .options import CUSTOM, PRESETS, Options
from .prompts import Prompts
from .roles import LoRAOptions, full_roles, lora_roles

CONTINUE, START_OVER = "continue it", "start over"
LORA, FULL = "lora", "full"


def run_folder(name: str) -> Path:
    """output/sid_runs/NAME. Raises ValueError for a name that is no plain folder name."""
    if not re.fullmatch(r"[\w\- ]+", name):
        raise ValueError(f"run_name is {name!r}; expected letters, digits, spaces, '-' and '_' only")
    return Path(folder_paths.get_output_directory()) / "sid_runs" / name


class SiDDistill(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDDistill",
            display_name="SiD Distill",
            category="SiD/training",
            description="Distils the guider's model into a student of a few steps, from prompts alone: into a LoRA on "
            "the model as it is loaded, or the whole network. Cancel keeps what was learnt: queue again, and the run "
            "goes on.",
            inputs=[
                io.Guider.Input("guider", tooltip="A SiD guider: the teacher, its guidance and the ∅-prompt."),
                io.Clip.Input("clip", tooltip="The text encoder of the teacher, for the prompts."),
                Prompts.Input("prompts", tooltip="From SiDPrompts. The more varied, the better the student."),
                io.Latent.Input("latent", tooltip="An empty latent of the size to learn; its contents are not used."),
                io.Int.Input(
                    "iterations",
                    default=1000,
                    min=1,
                    max=10_000_000,
                    tooltip="Updates of the student, 1 or more. SD1.5 wants thousands; raise it later to go on.",
                ),
                io.Int.Input(
                    "batch_size", default=4, min=1, max=4096, tooltip="Pictures an iteration. The authors use 512."
                ),
                io.Int.Input("steps", default=4, min=1, max=64, tooltip="The student's steps, usually 1 to 4."),
                io.Float.Input(
                    "t_init",
                    default=0.0,
                    min=0.0,
                    max=999.0,
                    step=1.0,
                    tooltip="Training time of its first step, 1 to 999 (SD) or up to 1.0 (flow). 0: 625 or 1.0.",
                ),
                io.Float.Input(
                    "student_learning_rate",
                    default=1e-6,
                    min=0.0,
                    max=1.0,
                    step=1e-7,
                    round=1e-9,
                    tooltip="Of the student. The authors' 1e-6 is for batch 512; small models bear 1e-4.",
                ),
                io.Float.Input(
                    "fake_learning_rate",
                    default=1e-6,
                    min=0.0,
                    max=1.0,
                    step=1e-7,
                    round=1e-9,
                    tooltip="Of the fake score. As the student's or higher: it has to keep up.",
                ),
                io.Boolean.Input(
                    "learning_rate_decay",
                    default=False,
                    tooltip="Let both learning rates fall to zero over the iterations. Better at the end, but the run "
                    "can't be made longer afterwards.",
                ),
                io.Float.Input(
                    "alpha",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="α of the student's loss, 0 to 2: 1 for text-to-image; above, more contrast.",
                ),
                io.Float.Input(
                    "ema_half_life",
                    default=50_000.0,
                    min=0.0,
                    max=1e9,
                    step=100.0,
                    tooltip="Of the student's average, in images; it is the average that comes out. 0: no average.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**53 - 1,
                    # The browser would else draw a new seed after each run, which then could not be continued.
                    control_after_generate=False,
                    tooltip="Of prompts, noise and times. The same seed learns the same student.",
                ),
                io.String.Input(
                    "run_name",
                    default="student",
                    tooltip="The run's folder in output/sid_runs: its settings, metrics, checkpoints and previews.",
                ),
                io.Combo.Input(
                    "existing_run",
                    options=[CONTINUE, START_OVER],
                    default=CONTINUE,
                    tooltip="When a run of that name is there. 'start over' replaces it when the new one first saves.",
                ),
                io.Int.Input(
                    "preview_every",
                    default=100,
                    min=1,
                    max=1_000_000,
                    tooltip="Iterations between preview pictures of 8 of the prompts, in 1 to all of its steps (with "
                    "a VAE connected).",
                ),
                io.Int.Input(
                    "save_every",
                    default=500,
                    min=1,
                    max=1_000_000,
                    tooltip="Iterations between checkpoints of the whole state. Cancel and errors save too; a crash or "
                    "closing ComfyUI costs what came after the last one.",
                ),
                io.Int.Input(
                    "keep_last",
                    default=2,
                    min=1,
                    max=1000,
                    optional=True,  # graphs of version 0.1.0 in API format lack it
                    tooltip="Checkpoints to keep, 1 or more. Each holds the whole state; with 2, a damaged one costs "
                    "save_every iterations and not the run.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="For previews."),
                # Optional, so that graphs of before these inputs run as they did then.
                io.Combo.Input(
                    "mode",
                    options=[LORA, FULL],
                    default=LORA,
                    optional=True,
                    tooltip="lora: two LoRAs (student and fake score) on one model, which stays as it is. full: the "
                    "whole network is trained, in three copies; some 40 bytes of memory for each of its parameters.",
                ),
                io.Int.Input(
                    "student_rank",
                    default=64,
                    min=1,
                    max=1024,
                    optional=True,
                    tooltip="Of the student's LoRA, 1 to 1024. More can learn more, in a larger file. Mode lora only.",
                ),
                io.Int.Input(
                    "fake_rank",
                    default=32,
                    min=1,
                    max=1024,
                    optional=True,
                    tooltip="Of the fake score's LoRA, 1 to 1024. Mode lora only.",
                ),
                io.Combo.Input(
                    "lora_targets",
                    options=list(TARGETS),
                    default=DEFAULT_TARGETS,
                    optional=True,
                    tooltip="The layers that have a LoRA. Mode lora only.",
                ),
                io.Int.Input(
                    "micro_batch",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip="At most so many pictures go through the model at once; less takes less memory and learns "
                    "the same. 0: as many as fit, by an estimate that is shown before it begins.",
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=True,
                    optional=True,
                    tooltip="Compute activations twice instead of keeping them: much less memory, a third more time.",
                ),
                io.Combo.Input(
                    "preset",
                    options=[CUSTOM, *PRESETS],
                    default=CUSTOM,
                    optional=True,
                    tooltip="Other than 'as set here', it decides mode, batch_size, both learning rates and "
                    "ema_half_life, and says so; what is set for these is not used.",
                ),
                io.String.Input(
                    "more_sizes",
                    default="",
                    optional=True,
                    tooltip="Further sizes to learn, in pixels, such as 832x1216, 1216x832. An iteration's pictures "
                    "are of one of them or of latent's. Empty: none.",
                ),
                Options.Input("options", optional=True, tooltip="From SiDTrainingOptions: what few need to change."),
            ],
            outputs=[
                io.Model.Output(display_name="student"),
                io.String.Output(display_name="run_folder"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        guider,
        clip,
        prompts,
        latent,
        iterations,
        batch_size,
        steps,
        t_init,
        student_learning_rate,
        fake_learning_rate,
        learning_rate_decay,
        alpha,
        ema_half_life,
        seed,
        run_name,
        existing_run,
        preview_every,
        save_every,
        keep_last=2,
        vae=None,
        mode=FULL,
        student_rank=64,
        fake_rank=32,
        lora_targets=DEFAULT_TARGETS,
        micro_batch=0,
        gradient_checkpointing=False,
        preset=CUSTOM,
        options=None,
        more_sizes="",
    ):
        if not isinstance(guider, SiDGuider):
            raise ValueError(
                f"the guider is a {type(guider).__name__}; expected SiDLSGGuider, SiDZeroCFGGuider or "
                "SiDAntiCFGGuider, which say how teacher and fake score are guided."
            )
        if preset != CUSTOM:
            log.info("preset %s: %s", preset, PRESETS[preset])
            mode, batch_size, student_learning_rate, fake_learning_rate, ema_half_life = astuple(PRESETS[preset])
        settings = Settings(
            guidance=guider.guidance,
            steps=steps,
            t_init=t_init or None,
            batch=batch_size,
            student_learning_rate=student_learning_rate,
            fake_learning_rate=fake_learning_rate,
            learning_rate_decay_iterations=iterations if learning_rate_decay else 0,
            alpha=alpha,
            ema_half_life_images=ema_half_life,
            seed=seed,
            **(options or {}),
        )
        teacher = guider.model_patcher
        guider = guider.with_ordinary_weights()
        model = guider.model_patcher
        process = process_of(model)
        shape = tuple(model_latent(model, latent["samples"]).shape[1:])
        base = signature_of(model)
        sizes = latent_shapes(model, more_sizes)
        # All of it in every run, for what a saved run does not know is not compared with.
        identity = {
            "mode": mode,
            "base": base,
            "weights": weights_digest(model),
            "prompts": prompts.digest[:16],
            "latent": "x".join(map(str, shape)),
            "more_sizes": ", ".join("x".join(map(str, size)) for size in sizes) or None,
        }
        lora = LoRAOptions(student_rank, fake_rank, lora_targets) if mode == LORA else None
        if lora:
            identity |= asdict(lora)
        info = StudentInfo(
            steps=steps,
            t_init=settings.t_init or process.default_t_init,
            base=base,
            run=f"{run_name} {hashlib.sha256(repr((settings, identity)).encode()).hexdigest()[:8]}",
            guidance=guider.guidance.name,
        )
        savings = Savings(
            batch_size, gradient_checkpointing, can_offload=bool(lora) and model.load_device.type != "cpu"
        )
        with RunFolder(run_folder(run_name), keep_last) as folder, with_gradients():
            progress = Progress(iterations, batch_size, cls.hidden.unique_id)
            buckets = [
                Bucket(size, encoded(clip, prompts, guider, torch.zeros(1, *size), cls.hidden.unique_id))
                for size in (shape, *sizes)
            ]
            if model.load_device.type != "cpu":
                comfy.model_management.unload_all_models()  # the text encoder has done its part
            roles = lora_roles(guider, process, lora, savings) if lora else full_roles(guider, process, savings)
            in_float16 = compute_dtype(model) == torch.float16
            run = Run(roles.student, roles.fake, settings, loss_scaling=in_float16)
            training = Training(
                run=run,
                roles=roles,
                buckets=buckets,
                process=process,
                device=model.load_device,
                folder=folder,
                identity=identity,
                progress=progress,
                schedule=Schedule(iterations, save_every, preview_every, keep_last),
                savings=savings,
            )
            planned = training.plan_memory(micro_batch)
            log.info("%s", planned)
            say.on_node(planned, cls.hidden.unique_id)
            if existing_run == START_OVER:
                folder.start_over()
            training.resume()
            training.train(decoder(model, vae))
            if lora:
                with run.averaged_weights():
                    student = with_lora(teacher, lora_tensors(model, roles.student), info)
            else:
                weights = {key: weight.detach().cpu() for key, weight in run.averaged().items()}
                student = as_student(teacher, weights, info)
        return io.NodeOutput(student, str(folder.path))


NODES = [SiDDistill]
