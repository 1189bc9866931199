"""Encoded prompts on disk: made once, shard by shard, and read row by row, so that memory never holds all of them.

A shard is a safetensors file with up to SHARD prompts, named after their texts, in a folder that is the text encoder's.
So another list with the same prompts in the same places finds them, a list that has grown keeps what it had, and what
is there after an interruption need not be made again. Every row has a checksum, which is looked at when it is read.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files.tensors import checksum, write_tensors
from ..words import log
from .conditioning import Cond, stack
from .prompts import PromptFile

FORMAT = "sid-encodings-1"
SHARD = 64  # prompts: what a killed process loses at most
CHECKSUMS = "checksums"
SHAPES = ".shapes"
HEADER_BYTES = 1 << 16  # of a shard's header, which has a line for each of a few tensors
Encode = Callable[[Sequence[str]], Iterator[Cond]]


class DamagedShardError(ValueError):
    """A shard is not what was written: cut short, changed, or missing. Its text says which, of "it"."""


@dataclass(frozen=True)
class Encodings:
    """Conditioning of N prompts, as a `PromptSet` gives it, out of the shards in `folder`.

    encode(texts): a conditioning of (1, …) for each; it is called again for a shard that turns out to be damaged.
    uncond: the ∅-prompt's, (1, …).
    """

    prompts: PromptFile
    folder: Path
    encode: Encode
    uncond: Cond

    def __len__(self) -> int:
        return len(self.prompts)

    def batch(self, rows: Tensor) -> Cond:
        """Conditioning of the given prompts (B,), as (B, …). Reads these rows alone."""
        rows = rows.tolist()
        conds = {}
        for shard in sorted({row // SHARD for row in rows}):
            conds |= self._read(shard, sorted({row for row in rows if row // SHARD == shard}))
        return stack([conds[row] for row in rows])

    def unconditional(self, batch: int) -> Cond:
        """The ∅-prompt `batch` times."""
        return {name: values.expand(batch, *values.shape[1:]) for name, values in self.uncond.items()}

    @cached_property
    def shards(self) -> list[Path]:
        """The files, in the order of their prompts. Kept, so that reading does not need the texts."""
        count = -(-len(self) // SHARD)
        return [self.folder / f"{self.prompts.span_digest(*self.span(i))}.safetensors" for i in range(count)]

    def missing(self) -> list[int]:
        """The shards to be made: those that are not there, and those that are cut short or no safetensors files."""
        return [i for i, file in enumerate(self.shards) if not _is_whole(file, len(range(*self.span(i))))]

    def make(self, shard: int) -> None:
        """Encode a shard's prompts and write them. Raises OSError where there is no room for them."""
        first, last = self.span(shard)
        conds = list(self.encode(self.prompts.span(first, last)))
        write_tensors(self.shards[shard], _packed(conds), _metadata(len(conds)))

    def span(self, shard: int) -> tuple[int, int]:
        """The first of a shard's prompts and the first after it."""
        return shard * SHARD, min((shard + 1) * SHARD, len(self))

    def _read(self, shard: int, rows: list[int]) -> dict[int, Cond]:
        file, places = self.shards[shard], [row - shard * SHARD for row in rows]
        try:
            return dict(zip(rows, read_rows(file, places), strict=True))
        except DamagedShardError as error:
            _say_damaged(file, error)
        # Not in the handler: what the error refers to keeps the file open, and Windows does not replace an open one.
        self.make(shard)
        return dict(zip(rows, read_rows(file, places), strict=True))


def require_room(encodings: Encodings, made: int, missing: int) -> None:
    """Raise OSError if `missing` more shards, each as large as shard `made`, don't fit on the disk."""
    wanted = encodings.shards[made].stat().st_size * missing
    free = shutil.disk_usage(encodings.folder).free
    if wanted > free:
        raise OSError(
            "Free some space, give fewer prompts, or let ComfyUI write to a larger disk (--output-directory): the "
            f"encodings of these prompts take {wanted / 1e9:.1f} GB more, and {encodings.folder} has {free / 1e9:.1f} "
            "GB free."
        )


def read_rows(file: Path, places: Sequence[int]) -> list[Cond]:
    """Conditionings of (1, …) of those places in a shard. Raises DamagedShardError."""
    with opened_shard(file) as shard:
        names = [name for name in sorted(shard.keys()) if name + SHAPES in shard.keys()]  # noqa: SIM118
        checksums = _table(shard, CHECKSUMS, 1).tolist()
        shapes = {name: _table(shard, name + SHAPES, 2) for name in names}
        starts = {name: _starts(shard, name, shapes[name]) for name in names}
        conds = []
        for place in places:
            cond = {
                name: shard.get_slice(name)[starts[name][place] : starts[name][place + 1]].reshape(
                    shapes[name][place].tolist()
                )
                for name in names
            }
            if checksum(cond) != checksums[place]:
                raise DamagedShardError(f"the checksum of its prompt {place + 1} is wrong")
            conds.append(cond)
        return conds


@contextlib.contextmanager
def opened_shard(file: Path) -> Iterator[Any]:
    """A shard to read from. Raises DamagedShardError for whatever is wrong with it, in a few words."""
    try:
        if not file.is_file():
            raise DamagedShardError("it is no file" if file.exists() else "it is not there any more")
        with file.open("rb") as content:
            if not 0 < int.from_bytes(content.read(8), "little") < HEADER_BYTES:
                raise DamagedShardError("it is no shard, or cut short")
        with safe_open(file, framework="pt") as shard:
            yield shard
    except (SafetensorError, IndexError, KeyError, RuntimeError, OverflowError, OSError) as error:
        raise DamagedShardError("it is no shard, or cut short, or changed") from error


def _table(shard: Any, name: str, dimensions: int) -> Tensor:
    """Numbers for each of a shard's prompts. Nothing is read before its size is known to be that of such numbers."""
    claimed = shard.get_slice(name)
    shape = claimed.get_shape()
    if claimed.get_dtype() != "I64" or len(shape) != dimensions or max(shape) > SHARD:
        raise DamagedShardError("its tables are of another kind")
    return shard.get_tensor(name)


def _starts(shard: Any, name: str, shapes: Tensor) -> list[int]:
    """Where each prompt's values begin among those of all, and where the last one's end."""
    starts = [0, *shapes.prod(1).cumsum(0).tolist()]
    if shapes.min() < 0 or [starts[-1]] != shard.get_slice(name).get_shape():
        raise DamagedShardError("its tables don't fit its values")
    return starts


def _packed(conds: Sequence[Cond]) -> dict[str, Tensor]:
    """Rows of (1, …) end to end, for they may be of several lengths, and what is needed to tell them apart."""
    if len({frozenset((name, values.dtype, values.ndim) for name, values in cond.items()) for cond in conds}) > 1:
        raise ValueError("Connect a CLIP that encodes all prompts alike: some have conditioning that others lack.")
    tensors = {CHECKSUMS: torch.tensor([checksum(cond) for cond in conds])}
    for name in conds[0]:
        tensors[name] = torch.cat([cond[name].detach().cpu().flatten() for cond in conds])
        tensors[name + SHAPES] = torch.tensor([cond[name].shape for cond in conds])
    return tensors


def _metadata(prompts: int) -> dict[str, str]:
    """One entry alone: the order of several is random in the file, and equal shards are to be equal files."""
    return {"format": f"{FORMAT}, {prompts} prompts"}


def _is_whole(file: Path, prompts: int) -> bool:
    """Whether the file is there with all of its bytes. What they say is for the checksums.

    Raises OSError for a folder of its name, which can't be written over.
    """
    if file.is_dir():
        raise OSError(f"Remove the folder {file.name} from {file.parent}: a file is to be written there.")
    if not os.path.lexists(file):
        return False
    try:
        with opened_shard(file) as shard:
            if shard.metadata() == _metadata(prompts):
                return True
        raise DamagedShardError("it is of another version, or changed")
    except DamagedShardError as error:
        _say_damaged(file, error)
        return False


def _say_damaged(file: Path, error: DamagedShardError) -> None:
    log.warning("%s is damaged (%s): its prompts are encoded again", Path(file.parent.name, file.name), error)
