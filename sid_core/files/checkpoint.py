"""A checkpoint: the state of a run as tensors and plain values, with what must be known to go on from it."""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .parts import read_parts, write_parts
from .plain import is_count, is_number, parse
from .tensors import damaged, read_tensors, write_tensors

# 1: of version 0.1.0, without checksum, plain values and half iterations. 2: the checksum is of the tensors alone.
OLDER = ("sid-run-1", "sid-run-2")
FORMAT = "sid-run-3"
CHECKSUM = "checksum"
PARTS = "parts"  # in the metadata: how many bytes each file has in the folder of the same name, which has the tensors
LONGEST = 10_000_000  # characters of one entry of the metadata; an optimizer's plain values are some for each weight

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

    def write(self, path: Path, more: dict[str, str] | None = None) -> None:
        """Raises OSError when the file could not be written; see `write_tensors`. more: metadata."""
        tensors = {key: tensor.detach().contiguous().cpu() for key, tensor in self.tensors.items()}
        metadata = {
            "format": FORMAT,
            "settings": json.dumps(self.settings),
            "identity": json.dumps(self.identity),
            "counters": json.dumps(self.counters),
            "values": json.dumps(self.values),
            "further": json.dumps(self.further),
        }
        metadata |= more or {}
        write_tensors(path, tensors, metadata | {CHECKSUM: _checksum(tensors, metadata)})

    def write_in_parts(self, path: Path, leads: bool) -> None:
        """The same for tensors of which each rank has a part. All ranks have to call it, with the first's path."""
        if leads:
            path.unlink(missing_ok=True)  # whose folder it is; it is written again when that is whole
        write_parts(folder_of_parts(path), self.tensors, leads)
        if leads:
            replace(self, tensors={}).write(path, {PARTS: json.dumps(_sizes(folder_of_parts(path)))})

    @classmethod
    def read(cls, path: Path, like: Callable[[str], Tensor | None] = lambda name: None) -> "Checkpoint":
        """Raises NotACheckpointError for a file that is not whole, not as it was written, or of another kind.

        like: see `read_parts`, for one that is written so.
        """
        tensors, metadata = read_tensors(path)
        kind, checksum = metadata.get("format"), metadata.pop(CHECKSUM, None)
        if kind not in (*OLDER, FORMAT):
            raise damaged(path, f"it is no distillation state of this version (its format is {kind!r:.40})")
        if kind == FORMAT or checksum is not None:  # a wrong bit can make an older format of the name
            expected = _checksum(tensors, metadata if kind == FORMAT else None)
            if checksum != expected:
                raise damaged(path, "it is damaged, for its checksum is wrong")
        if PARTS in metadata:
            parts = folder_of_parts(path)
            if not parts.is_dir() or json.dumps(_sizes(parts)) != metadata[PARTS]:
                raise damaged(path, f"it is not whole, for the files in {parts.name} are not those that were written")
            tensors = read_parts(parts, like)
        try:
            return cls(tensors, **_facts(metadata))
        except (ValueError, KeyError) as error:
            raise damaged(path, f"it is damaged ({error!s:.200})") from error


def folder_of_parts(path: Path) -> Path:
    """Where the tensors of a checkpoint are that is written in parts."""
    return path.with_suffix(".parts")


def _sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir())}


def differences(then: Checkpoint, now: Checkpoint, defaults: dict[str, Any]) -> Changes:
    """What one run's settings, identity and further parts are in a saved one, and in this one.

    Settings that the saved run's version did not know yet, it had at their defaults. Of its identity, what it did not
    know and what has no default is not compared.
    """
    before = defaults | then.settings | then.identity | {"further": then.further}
    known = defaults.keys() | then.identity.keys()
    after = now.settings | {key: value for key, value in now.identity.items() if key in known}
    before, after = as_written(before), as_written(after | {"further": now.further})
    names = before.keys() | after.keys()
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def as_written(facts: dict[str, Any]) -> dict[str, Any]:
    """As they are when they come back from a file: JSON knows no tuples."""
    return json.loads(json.dumps(facts))


def _facts(metadata: dict[str, str]) -> dict[str, Any]:
    """What a file says besides its tensors. Raises ValueError or KeyError for what no run can have written."""
    absent = {"values": "{}", "further": "[]"}  # as in the oldest format
    read = {
        name: parse(metadata[name] if name in metadata else absent[name], LONGEST)
        for name in ("values", "settings", "identity", "counters", "further")
    }
    odd = [name for name, value in read.items() if not isinstance(value, list if name == "further" else dict)]
    counters = {"fake_updated": 0, "fake_loss": 0.0} | (read["counters"] if not odd else {})
    odd += [name for name in ("iteration", "images", "fake_updated") if not is_count(counters.get(name))]
    odd += [name for name in ("fake_loss", "discriminator_loss") if not is_number(counters.get(name, 0.0))]
    if odd:
        raise ValueError(f"{', '.join(odd)} is not what a run has")
    return read | {"counters": counters}


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> str:
    """Of all that a file says and holds: safetensors itself notices a wrong length, but not a wrong byte.

    metadata: None is for the older format, in which only the names and values of the tensors counted.
    """
    total = 0
    if metadata is not None:
        shapes = [(name, str(tensor.dtype), list(tensor.shape)) for name, tensor in sorted(tensors.items())]
        total = zlib.crc32(json.dumps([sorted(metadata.items()), shapes]).encode())
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(_bytes(tensor), zlib.crc32(name.encode(), total))
    return f"{total:08x}"


def _bytes(tensor: Tensor) -> Any:
    """The values' bytes, without a copy where the tensor is contiguous and on the CPU."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
