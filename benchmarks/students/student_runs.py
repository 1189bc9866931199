"""One student's training, whatever the method: begun, gone on with after a stop, and saved as the pack's own file."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from contestants import DMD2, FAKE_RANK, LCM, LORA_TARGETS, STUDENT_RANK
from cost import Cost
from dmd2 import Judge, dmd2
from gan_head import Head
from jobs import Job, OutOfTimeError
from lcm import lcm
from torch import nn
from training import lower_precision
from world import World

from sid_pack.nodes.host.model import signature_of
from sid_pack.nodes.host.weights import with_gradients
from sid_pack.nodes.sampling.loras import lora_tensors
from sid_pack.nodes.training.memory import Savings
from sid_pack.nodes.training.roles import LoRAOptions, Roles, lora_roles
from sid_pack.sid_core.files.run_folder import RunFolder
from sid_pack.sid_core.files.student import StudentInfo
from sid_pack.sid_core.files.tensors import read_tensors, write_tensors
from sid_pack.sid_core.training.adapters import LoRASet
from sid_pack.sid_core.training.distill import Bucket, distill
from sid_pack.sid_core.training.run import Run
from sid_pack.sid_core.training.run_state import checkpoint_of, restore

CHECKPOINT_EVERY = 60.0  # seconds
HEAD_SEED = 2


def train(job: Job, world: World, file: Path, folder: Path, deadline: float) -> Cost:
    """Train to the end and write the student's file; → what it cost, the time of earlier starts included.

    folder: for checkpoints, of this job alone; removed at the end. deadline: of `time.monotonic()`. Raises
    OutOfTimeError there, RunInUseError where another process is at it.
    """
    with with_gradients():
        with RunFolder(folder, keep_last=1) as place:
            cost = _train(job, world, file, place, deadline)
        shutil.rmtree(folder)
    return cost


def _train(job: Job, world: World, file: Path, place: RunFolder, deadline: float) -> Cost:
    settings = job.contestant.run_settings(job.choice, job.steps, job.seed, job.batch, job.iterations)
    roles = _roles(job, world, settings.guidance)
    run, iterations = prepared(job, world, roles, settings)
    cost, identity = Cost(), job.facts() | {"begins": job.begins and job.begins.name}
    run.further["cost"] = cost
    place.resume(lambda checkpoint: restore(run, checkpoint, identity))
    kept = time.monotonic()
    # Weights change between forwards, so no copy in lower precision is kept.
    lower = lower_precision(world.model.load_device, cache_weights=False)
    with roles.ready(), lower, cost.counting(roles.network):
        while run.iteration < job.iterations:
            began = time.monotonic()
            if began > deadline:
                place.save(checkpoint_of(run, identity))
                raise OutOfTimeError
            if began - kept > CHECKPOINT_EVERY:
                place.save(checkpoint_of(run, identity))
                kept = began
            next(iterations)
            cost.seconds += time.monotonic() - began
    info = StudentInfo(
        settings.steps,
        settings.t_init or world.process.default_t_init,
        signature_of(world.model),
        file.stem,
        settings.guidance.name,
        method=job.contestant.trainer.lower(),
    )
    with run.averaged_weights():
        tensors = {name: tensor.half() for name, tensor in lora_tensors(world.model, roles.student).items()}
    write_tensors(file, tensors, info.to_metadata())
    return cost


def _roles(job: Job, world: World, guidance) -> Roles:
    # The student's average of an LCM takes the fake score's place, and so is of the student's rank.
    ranks = STUDENT_RANK, STUDENT_RANK if job.contestant.trainer == LCM else FAKE_RANK
    savings = Savings(job.batch, recompute=False, can_offload=False)
    roles = lora_roles(world.guider(guidance), world.process, LoRAOptions(*ranks, LORA_TARGETS), savings)
    if job.begins:
        load_lora(roles.student, world.model, job.begins)
    return roles


def load_lora(adapters: LoRASet, model, file: Path) -> None:
    """Set adapters of the same rank to those of a student's file."""
    tensors, _ = read_tensors(file)
    names = lora_tensors(model, adapters)
    order = [weight for layer in adapters.by_layer().values() for weight in (layer.down, layer.up)]
    with torch.no_grad():
        for name, weight in zip((name for name in names if not name.endswith(".alpha")), order, strict=True):
            weight.copy_(tensors[name])


def prepared(job: Job, world: World, roles: Roles, settings) -> tuple[Run, Iterator]:
    """A run at its beginning, and the generator that trains it, by the contestant's method."""
    contestant, device = job.contestant, world.model.load_device
    pictures = world.pairs if contestant.real_pictures else None
    fake: nn.Module = roles.fake
    if contestant.trainer == LCM:
        roles.fake.load_state_dict(roles.student.state_dict())
    judge = None
    if contestant.trainer == DMD2 and pictures:
        layer = roles.network.middle_block[-1]
        judge = Judge(layer, Head(roles.network.model_channels, HEAD_SEED).to(device), pictures)
        # One optimizer for both, as they are trained on one loss.
        fake = nn.ModuleDict({"lora": roles.fake, "head": judge.head})
    run = Run(roles.student, fake, settings)
    for optimizer in (run.student_optimizer, run.fake_optimizer):
        for group in optimizer.param_groups:
            group["betas"] = (contestant.beta1, settings.adam_beta2)
    if contestant.trainer == LCM:
        return run, lcm(run, roles.predict, world.prompts, pictures, world.process, device)
    if contestant.trainer == DMD2:
        return run, dmd2(run, roles.predict, world.prompts, world.latent_shape, world.process, device, judge)
    real = {"images": pictures} if pictures else {}
    return run, distill(run, roles.predict, [Bucket(world.latent_shape, world.prompts, **real)], world.process, device)
