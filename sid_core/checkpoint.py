"""A run's whole state to and from disk, and the one way this project writes a file of tensors."""

import contextlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .distill import Run

FORMAT = "sid-run-1"


class NotACheckpointError(ValueError):
    """The file is not what it should be: truncated, or of another kind."""


class OtherRunError(ValueError):
    """The checkpoint belongs to a run of other settings, base or prompts."""


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write safetensors under a temporary name and rename: whatever happens, `path` is the old file or the new one.

    Raises OSError with the size wanted when the file could not be written; the previous file is then untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    contiguous = {key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # save_file would leave the file readable by its owner alone
        save_file(contiguous, temporary, metadata)
        temporary.chmod(mode)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        size = sum(tensor.nbytes for tensor in contiguous.values()) / 1e6
        raise OSError(
            f"could not write {path} ({size:.0f} MB): {error}. Free some space or choose another folder and try "
            "again; a previous file of that name is unchanged."
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


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
    tensors: dict[str, Tensor] = {}
    for role, module in _modules(run).items():
        tensors |= {f"{role}.{key}": value for key, value in module.state_dict().items()}
    tensors |= {f"ema.{i}": value for i, value in enumerate(run.ema.average)}
    for role, optimizer in _optimizers(run).items():
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{role}.{i}.{key}": torch.as_tensor(value) for key, value in state.items()}
    counters = {"iteration": run.iteration, "images": run.images}
    metadata = {
        "format": FORMAT,
        "settings": json.dumps(run.settings.as_dict()),
        "identity": json.dumps(identity),
        "counters": json.dumps(counters),
    }
    write_tensors(path, tensors, metadata)


def load_run(run: Run, path: Path, identity: dict[str, str]) -> None:
    """Bring a new `run` of the same settings to where the saved one was.

    Raises NotACheckpointError, or OtherRunError naming the settings that differ.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise NotACheckpointError(f"{path} is no distillation state ({FORMAT}); its metadata is {metadata or 'empty'}")
    saved = json.loads(metadata["settings"]) | json.loads(metadata["identity"])
    now = json.loads(json.dumps(run.settings.as_dict())) | identity
    if differing := {key for key in saved.keys() | now.keys() if saved.get(key) != now.get(key)}:
        listed = ", ".join(f"{key}: {saved.get(key)} then, {now.get(key)} now" for key in sorted(differing))
        raise OtherRunError(
            f"{path} is of a run with other settings ({listed}). Give this run another name, set these back, or "
            "delete that folder."
        )
    for role, module in _modules(run).items():
        module.load_state_dict(_under(tensors, f"{role}."))
    for i, average in enumerate(run.ema.average):
        average.copy_(tensors[f"ema.{i}"])
    for role, optimizer in _optimizers(run).items():
        _load_optimizer(optimizer, _under(tensors, f"{role}."))
    counters = json.loads(metadata["counters"])
    run.iteration, run.images = counters["iteration"], counters["images"]


def _modules(run: Run) -> dict[str, nn.Module]:
    return {"student": run.student, "fake": run.fake}


def _optimizers(run: Run) -> dict[str, torch.optim.Optimizer]:
    return {"student_optimizer": run.student_optimizer, "fake_optimizer": run.fake_optimizer}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
