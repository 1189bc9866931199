"""A run's whole state to and from disk, and the one way this project writes a file of tensors."""

import json
import zlib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..training.run import Run
from ..training.settings import Settings
from .atomic import replacing

FORMAT = "sid-run-2"
READABLE = ("sid-run-1", FORMAT)  # 1: of version 0.1.0, without checksum, plain values and half iterations
# What may change within a run. Everything else would leave a student that no settings describe.
APPLIED = ("student_learning_rate", "fake_learning_rate")

Changes = dict[str, tuple[Any, Any]]  # name → (then, now)
INNER = "/"  # between the names of an optimizer's value that is a dict, as the 8-bit one's


class NotACheckpointError(ValueError):
    """The file is not what it should be: truncated, or of another kind."""


class OtherRunError(ValueError):
    """The checkpoint belongs to a run of other settings, base or prompts."""


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write safetensors under a temporary name and rename: whatever happens, `path` is the old file or the new one.

    Raises OSError with the size wanted when the file could not be written; the previous file is then untouched.
    """
    contiguous = {key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}
    try:
        with replacing(path) as temporary:
            save_file(contiguous, temporary, metadata)
    except (OSError, SafetensorError) as error:
        size = sum(tensor.nbytes for tensor in contiguous.values()) / 1e6
        raise OSError(
            f"could not write {path} ({size:.0f} MB): {error}. Free some space or choose another folder and try "
            "again; a previous file of that name is unchanged."
        ) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file and its metadata. Raises NotACheckpointError for any other or broken file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise NotACheckpointError(
            f"{path} is not a whole safetensors file ({error}). It may be truncated or of another format; "
            "copy or download it again."
        ) from error


def save_run(run: Run, path: Path, identity: dict[str, str]) -> None:
    """Write everything that `load_run` needs to go on. `identity`: what must be the same then (base, prompts)."""
    tensors, values = _parts(run)
    tensors = {key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}
    counters = {"iteration": run.iteration, "images": run.images, "fake_updated": run.fake_updated}
    counters |= {"fake_loss": run.fake_loss}
    metadata = {
        "format": FORMAT,
        "settings": json.dumps(run.settings.as_dict()),
        "identity": json.dumps(identity),
        "counters": json.dumps(counters),
        "values": json.dumps(values),
        "further": json.dumps(sorted(run.further)),
        "checksum": _checksum(tensors),
    }
    write_tensors(path, tensors, metadata)


def load_run(run: Run, path: Path, identity: dict[str, str]) -> Changes:
    """Bring a new `run` to where the saved one was. → the settings of APPLIED that are others now.

    Raises NotACheckpointError for a file that is not whole, or OtherRunError naming what else differs.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") not in READABLE:
        raise NotACheckpointError(f"{path} is no distillation state ({FORMAT}); its metadata is {metadata or 'empty'}")
    if metadata.get("checksum", "") not in ("", _checksum(tensors)):
        raise NotACheckpointError(f"{path} is damaged: its tensors are not those that were written")
    changes = _differences(run, metadata, identity)
    if refused := {key: change for key, change in changes.items() if key not in APPLIED}:
        listed = ", ".join(f"{key}: {then} then, {now} now" for key, (then, now) in sorted(refused.items()))
        raise OtherRunError(
            f"{path} is of a run with other settings ({listed}). Give this run another name, set these back, or "
            "start over."
        )
    for role, module in _modules(run).items():
        try:
            module.load_state_dict(_under(tensors, f"{role}."))
        except RuntimeError as error:
            raise OtherRunError(
                f"{path} holds other weights than this run trains ({str(error)[:200]} …): a run of another mode or "
                "rank. Give this run another name, set these back, or start over."
            ) from error
    for i, average in enumerate(run.ema.average):
        average.copy_(tensors[f"ema.{i}"])
    saved = tensors | json.loads(metadata.get("values", "{}"))
    for role, optimizer in _optimizers(run).items():
        _load_optimizer(optimizer, _under(saved, f"{role}."))
    for name, part in run.further.items():
        part.load_state_dict(_under(saved, f"further.{name}."))
    counters = json.loads(metadata["counters"])
    run.iteration, run.images = counters["iteration"], counters["images"]
    run.fake_updated, run.fake_loss = counters.get("fake_updated", 0), counters.get("fake_loss", 0.0)
    return changes


def _differences(run: Run, metadata: dict[str, str], identity: dict[str, str]) -> Changes:
    """What the saved run has otherwise than this one. What its version did not know yet, it had at the default."""
    defaults = {field.name: field.default for field in fields(Settings) if field.default is not MISSING}
    then = json.loads(json.dumps(defaults)) | json.loads(metadata["settings"])
    now = json.loads(json.dumps(run.settings.as_dict()))
    known = json.loads(metadata["identity"])
    then |= known | {"further": json.loads(metadata.get("further", "[]"))}
    now |= {key: value for key, value in identity.items() if key in known} | {"further": sorted(run.further)}
    return {key: (then.get(key), now.get(key)) for key in then.keys() | now.keys() if then.get(key) != now.get(key)}


def _parts(run: Run) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that is to be saved, by name: tensors, and the plain values between them."""
    parts: dict[str, Any] = {}
    for role, module in _modules(run).items():
        parts |= {f"{role}.{key}": value for key, value in module.state_dict().items()}
    parts |= {f"ema.{i}": value for i, value in enumerate(run.ema.average)}
    for role, optimizer in _optimizers(run).items():
        for i, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                inner = value if isinstance(value, dict) else {"": value}
                parts |= {f"{role}.{i}.{key}{INNER * bool(name)}{name}": each for name, each in inner.items()}
    for name, part in run.further.items():
        parts |= {f"further.{name}.{key}": value for key, value in part.state_dict().items()}
    tensors = {key: value for key, value in parts.items() if isinstance(value, Tensor)}
    return tensors, {key: value for key, value in parts.items() if key not in tensors}


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


def _checksum(tensors: dict[str, Tensor]) -> str:
    """Of all bytes: safetensors itself notices a file of the wrong length, but not one with a wrong byte."""
    total = 0
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(_bytes(tensor), zlib.crc32(name.encode(), total))
    return f"{total:08x}"


def _bytes(tensor: Tensor) -> Any:
    """The values' bytes, without a copy where the tensor is contiguous and on the CPU."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
