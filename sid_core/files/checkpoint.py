"""A checkpoint: the state of a run as tensors and plain values, with what must be known to go on from it."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .tensors import NotACheckpointError, read_tensors, write_tensors

FORMAT = "sid-run-2"
READABLE = ("sid-run-1", FORMAT)  # 1: of version 0.1.0, without checksum, plain values and half iterations

Changes = dict[str, tuple[Any, Any]]  # name → (then, now)


@dataclass(frozen=True)
class Checkpoint:
    """tensors, values: the state by name. settings: of the run. identity: what must be the same to go on (base,
    prompts). counters: how far it is. further: what else belongs to the state, by name."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]
    settings: dict[str, Any]
    identity: dict[str, Any]
    counters: dict[str, Any]
    further: list[str]

    @property
    def iteration(self) -> int:
        return self.counters["iteration"]

    @property
    def parts(self) -> dict[str, Any]:
        """Tensors and plain values together."""
        return self.tensors | self.values

    def write(self, path: Path) -> None:
        """Raises OSError when the file could not be written; see `write_tensors`."""
        tensors = {key: tensor.detach().contiguous().cpu() for key, tensor in self.tensors.items()}
        metadata = {
            "format": FORMAT,
            "settings": json.dumps(self.settings),
            "identity": json.dumps(self.identity),
            "counters": json.dumps(self.counters),
            "values": json.dumps(self.values),
            "further": json.dumps(self.further),
            "checksum": _checksum(tensors),
        }
        write_tensors(path, tensors, metadata)

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Raises NotACheckpointError for a file that is not whole or of another kind."""
        tensors, metadata = read_tensors(path)
        if metadata.get("format") not in READABLE:
            raise NotACheckpointError(
                f"{path} is no distillation state ({FORMAT}); its metadata is {metadata or 'empty'}"
            )
        if metadata.get("checksum", "") not in ("", _checksum(tensors)):
            raise NotACheckpointError(f"{path} is damaged: its tensors are not those that were written")
        return cls(
            tensors=tensors,
            values=json.loads(metadata.get("values", "{}")),
            settings=json.loads(metadata["settings"]),
            identity=json.loads(metadata["identity"]),
            counters=json.loads(metadata["counters"]),
            further=json.loads(metadata.get("further", "[]")),
        )


def differences(then: Checkpoint, now: Checkpoint, defaults: dict[str, Any]) -> Changes:
    """What one run's settings, identity and further parts are in a saved one, and in this one.

    Settings that the saved run's version did not know yet, it had at their defaults. Of its identity, what it did not
    know is not compared.
    """
    before = defaults | then.settings | then.identity | {"further": then.further}
    after = now.settings | {key: value for key, value in now.identity.items() if key in then.identity}
    before, after = (json.loads(json.dumps(facts)) for facts in (before, after | {"further": now.further}))
    names = before.keys() | after.keys()
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _checksum(tensors: dict[str, Tensor]) -> str:
    """Of all bytes: safetensors itself notices a file of the wrong length, but not one with a wrong byte."""
    total = 0
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(_bytes(tensor), zlib.crc32(name.encode(), total))
    return f"{total:08x}"


def _bytes(tensor: Tensor) -> Any:
    """The values' bytes, without a copy where the tensor is contiguous and on the CPU."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
