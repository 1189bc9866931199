"""A run's whole state out of it, as a checkpoint, and back into it."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

import torch
from torch import Tensor, nn

from ..files.checkpoint import Changes, Checkpoint, differences
from ..files.tensors import NotACheckpointError, is_finite
from .run import NotFiniteError, Run
from .settings import Settings
from .sharding import is_in_parts, part_here, parted_as

# What may change within a run. Everything else would leave a student that no settings describe.
APPLIED = ("student_learning_rate", "fake_learning_rate")
# Parts of an identity that runs of earlier versions did without.
NONE_BEFORE = {"images": None, "student": None}
AS_WEIGHTS = ("exp_avg", "exp_avg_sq")  # of an optimizer's values, those that are in parts as the weights are
INNER = "/"  # between the names of an optimizer's value that is a dict, as the 8-bit one's


class OtherRunError(ValueError):
    """The checkpoint belongs to a run of other settings, base or prompts."""


def checkpoint_of(run: Run, identity: dict[str, Any]) -> Checkpoint:
    """All that `restore` needs to go on. identity: what must be the same then (base, prompts).

    Its tensors are the run's own: write it before the run goes on. Raises NotFiniteError for a run that has diverged.
    """
    if not _is_finite(run):
        raise NotFiniteError(
            "Lower the learning rates and queue again: the weights are no longer finite at iteration "
            f"{run.iteration}, and are not saved."
        )
    parts = _parts(run)
    tensors = {key: value for key, value in parts.items() if isinstance(value, Tensor)}
    return Checkpoint(
        tensors=tensors,
        values={key: value for key, value in parts.items() if key not in tensors},
        settings=run.settings.as_dict(),
        identity=identity,
        counters=counters_of(run),
        further=sorted(run.further),
    )


def restore(run: Run, checkpoint: Checkpoint, identity: dict[str, Any]) -> Changes:
    """Bring a new `run` to where the saved one was. → the settings of APPLIED that are others now.

    The run may be sharded where the saved one was not, or otherwise, or the other way round. Raises OtherRunError
    naming what else differs, and leaves the run as it is.
    """
    known = {field.name for field in fields(Settings)}
    if newer := sorted(checkpoint.settings.keys() - known):
        raise OtherRunError(
            f"Give this run another name, or update this pack: the run of that name has settings that this version "
            f"does not know ({', '.join(newer):.200})."
        )
    now = Checkpoint({}, {}, run.settings.as_dict(), identity, {}, sorted(run.further))
    defaults = {field.name: field.default for field in fields(Settings) if field.default is not MISSING} | NONE_BEFORE
    changes = differences(checkpoint, now, defaults)
    if refused := {key: change for key, change in changes.items() if key not in APPLIED}:
        listed = ", ".join(f"{key}: {then} then, {now} now" for key, (then, now) in sorted(refused.items()))
        raise OtherRunError(
            f"Give this run another name, set its settings back, or start over: the run of that name has others "
            f"({listed})."
        )
    _require_the_same_weights(run, checkpoint)
    like = parts_like(run)
    parts = {
        name: value if (mine := like(name)) is None else parted_as(value, mine)
        for name, value in checkpoint.parts.items()
    }
    for role, module in _modules(run).items():
        module.load_state_dict(_under(parts, f"{role}."))
    for i, average in enumerate(run.ema.average):
        average.copy_(parts[f"ema.{i}"])
    for role, optimizer in _optimizers(run).items():
        try:
            _load_optimizer(optimizer, _under(parts, f"{role}."))
        except (ValueError, LookupError) as error:
            why = f"it is damaged, for there is no {role.replace('_', ' ')} in it ({error!s:.200})"
            raise NotACheckpointError(f"Start over, or copy the checkpoint again: {why}.", why) from error
    for name, part in run.further.items():
        part.load_state_dict(_under(checkpoint.parts, f"further.{name}."))
    counters = checkpoint.counters
    run.iteration, run.images = counters["iteration"], counters["images"]
    run.fake_updated, run.fake_loss = counters["fake_updated"], counters["fake_loss"]
    run.discriminator_loss = counters.get("discriminator_loss")
    return changes


def parts_like(run: Run) -> Callable[[str], Tensor | None]:
    """like(name): what a tensor of the run's state of that name is in parts as; None for those that are whole."""
    known = _networks(run) | _average(run)
    weights = {
        role: [weight for group in optimizer.param_groups for weight in group["params"]]
        for role, optimizer in _optimizers(run).items()
    }

    def like(name: str) -> Tensor | None:
        role, *of = name.split(".", 2)
        if role in weights and len(of) == 2 and of[0].isdigit() and int(of[0]) < len(weights[role]):
            mine = weights[role][int(of[0])] if of[1] in AS_WEIGHTS else None
        else:
            mine = known.get(name)
        return mine if mine is not None and is_in_parts(mine) else None

    return like


def _require_the_same_weights(run: Run, checkpoint: Checkpoint) -> None:
    """Raises OtherRunError where the networks or their average are others than the saved ones."""
    mine = {name: value.shape for name, value in (_networks(run) | _average(run)).items()}
    roles = tuple(f"{role}." for role in (*_modules(run), "ema"))
    saved = {name: value.shape for name, value in checkpoint.tensors.items() if name.startswith(roles)}
    others = sorted(name for name in mine.keys() | saved.keys() if mine.get(name) != saved.get(name))
    if others:
        raise OtherRunError(
            "Give this run another name, set mode and ranks back, or start over: the run of that name trains other "
            f"weights ({', '.join(others[:3])}{', …' * (len(others) > 3)})."
        )


def counters_of(run: Run) -> dict[str, Any]:
    """How far a run is."""
    counters = {name: getattr(run, name) for name in ("iteration", "images", "fake_updated", "fake_loss")}
    return counters | ({} if run.discriminator_loss is None else {"discriminator_loss": run.discriminator_loss})


def _is_finite(run: Run) -> bool:
    weights = [*run.student.parameters(), *run.fake.parameters(), *run.ema.average]
    odd = not all(is_finite(part_here(weight.detach())) for weight in weights)
    return not (run.ranks.agree(odd).sums[0] if run.ranks.in_step else odd)


def _parts(run: Run) -> dict[str, Any]:
    """All that is to be saved, by name: tensors, and the plain values between them."""
    parts: dict[str, Any] = {**_networks(run), **_average(run)}
    for role, optimizer in _optimizers(run).items():
        for i, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                inner = value if isinstance(value, dict) else {"": value}
                parts |= {f"{role}.{i}.{key}{INNER * bool(name)}{name}": each for name, each in inner.items()}
    for name, part in run.further.items():
        parts |= {f"further.{name}.{key}": value for key, value in part.state_dict().items()}
    return parts


def _networks(run: Run) -> dict[str, Tensor]:
    return {
        f"{role}.{key}": value for role, module in _modules(run).items() for key, value in module.state_dict().items()
    }


def _average(run: Run) -> dict[str, Tensor]:
    return {f"ema.{i}": value for i, value in enumerate(run.ema.average)}


def _modules(run: Run) -> dict[str, nn.Module]:
    return {"student": run.student, "fake": run.fake}


def _optimizers(run: Run) -> dict[str, torch.optim.Optimizer]:
    return {"student_optimizer": run.student_optimizer, "fake_optimizer": run.fake_optimizer}


def _under(parts: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key[len(prefix) :]: value for key, value in parts.items() if key.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, parts: dict[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, value in parts.items():
        index, name = key.split(".", 1)
        name, _, inner = name.partition(INNER)
        values = state.setdefault(int(index), {})
        # A copy, as a loaded tensor is the file itself mapped into memory, and the optimizer would keep it.
        value = value.clone() if isinstance(value, Tensor) else value
        if inner:
            values.setdefault(name, {})[inner] = value
        else:
            values[name] = value
    # Everything but the state, such as the learning rate, is as the run's settings are now.
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
