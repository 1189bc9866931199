"""Latents of pictures on disk: made once, found by the pictures' digests, and read row by row.

A shard is a safetensors file with the latents of a few pictures and their digests, in a folder that is the VAE's and
the size's. Any set of pictures finds what it has in there, whatever else is; what is there after an interruption need
not be made again. Every latent has a checksum, which is looked at when it is read.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..files.tensors import checksum, write_tensors
from ..words import log
from .encodings import DamagedShardError, opened_shard

FORMAT = "sid-latents-1"
SHARD = 64  # pictures: what a killed process loses at most
DIGEST_BYTES = 32
DIGESTS, CHECKSUMS, LATENTS = "digests", "checksums", "latents"


@dataclass
class LatentFiles:
    """Latents of one VAE and one size. shape: (C, …) of each."""

    folder: Path
    shape: tuple[int, ...]
    _places: dict[bytes, tuple[Path, int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for file in sorted(self.folder.glob("*.safetensors")):
            try:
                self._know(file, self._digests(file))
            except DamagedShardError as error:
                self.drop(file, error)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._places

    def write(self, latents: dict[bytes, Tensor]) -> None:
        """A shard with these, by their pictures' digests: finite, of `shape`, SHARD at most. Raises OSError."""
        digests = list(latents)
        rows = torch.stack([latents[digest].detach().float().cpu() for digest in digests])
        tensors = {
            DIGESTS: torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, DIGEST_BYTES),
            CHECKSUMS: torch.tensor([_checksum(digest, row) for digest, row in zip(digests, rows, strict=True)]),
            LATENTS: rows,
        }
        file = self.folder / _name(digests)
        write_tensors(file, tensors, {"format": FORMAT})
        self._know(file, digests)

    def read(self, digests: Sequence[bytes]) -> dict[bytes, Tensor]:
        """Latents (C, …) of those pictures. Raises DamagedShardError once it has dropped what is damaged."""
        found: dict[bytes, Tensor] = {}
        damaged: dict[Path, DamagedShardError] = {}
        for file in sorted({self._places[digest][0] for digest in digests}):
            asked = {digest: self._places[digest][1] for digest in digests if self._places[digest][0] == file}
            try:
                found |= self._rows(file, asked)
            except DamagedShardError as error:
                damaged[file] = error
        # Not in the handler: what an error refers to keeps the file open, and Windows deletes no open one.
        for file, error in damaged.items():
            self.drop(file, error)
        if damaged:
            raise DamagedShardError(f"{', '.join(file.name for file in damaged)}: damaged while being read")
        return found

    def drop(self, file: Path, error: DamagedShardError) -> None:
        """Forget and delete a shard, whose latents are then to be made again."""
        log.warning("%s is damaged (%s): its pictures are encoded again", Path(file.parent.name, file.name), error)
        self._places = {digest: place for digest, place in self._places.items() if place[0] != file}
        try:
            file.unlink(missing_ok=True)
        except OSError as refused:  # such as a folder of that name
            raise OSError(f"Remove {file.name} from {file.parent}: it is in the way of latents.") from refused

    def _know(self, file: Path, digests: Iterable[bytes]) -> None:
        self._places |= {digest: (file, place) for place, digest in enumerate(digests)}

    def _digests(self, file: Path) -> list[bytes]:
        with opened_shard(file) as shard:
            if shard.metadata() != {"format": FORMAT}:
                raise DamagedShardError("it is of another version, or changed")
            count = shard.get_slice(CHECKSUMS).get_shape()[0]
            expected = {
                DIGESTS: ("U8", [count, DIGEST_BYTES]),
                CHECKSUMS: ("I64", [count]),
                LATENTS: ("F32", [count, *self.shape]),
            }
            there = {
                name: (shard.get_slice(name).get_dtype(), shard.get_slice(name).get_shape())
                for name in shard.keys()  # noqa: SIM118
            }
            if there != expected or not 0 < count <= SHARD:
                raise DamagedShardError("its tables are of another kind")
            data = shard.get_tensor(DIGESTS).numpy().tobytes()
        digests = [data[i : i + DIGEST_BYTES] for i in range(0, len(data), DIGEST_BYTES)]
        if file.name != _name(digests):
            raise DamagedShardError("its digests are changed")
        return digests

    def _rows(self, file: Path, places: dict[bytes, int]) -> dict[bytes, Tensor]:
        with opened_shard(file) as shard:
            checksums = shard.get_tensor(CHECKSUMS).tolist()
            rows = {digest: shard.get_slice(LATENTS)[place].clone() for digest, place in places.items()}
        for digest, place in places.items():
            if rows[digest].shape != self.shape or _checksum(digest, rows[digest]) != checksums[place]:
                raise DamagedShardError(f"the checksum of its picture {place + 1} is wrong")
        return rows


@dataclass(frozen=True)
class KeptLatents:
    """Latents of some pictures by their rows, from the disk or, where they came over a wire, from memory.

    digests: of the pictures. wired: the latents (C, …) that lie in no file. make(rows): writes those rows' latents; it
    is called again for what turns out to be damaged. scale: the VAE's latents (B, C, …) to the network's own scale.
    """

    files: LatentFiles
    digests: Sequence[bytes]
    wired: dict[bytes, Tensor]
    make: Callable[[Sequence[int]], None]
    scale: Callable[[Tensor], Tensor]

    def missing(self) -> list[int]:
        """The rows whose latents are to be made."""
        return [row for row, digest in enumerate(self.digests) if digest not in self.wired and digest not in self.files]

    def batch(self, rows: Tensor) -> Tensor:
        """(B, C, …) of those pictures (B,), in the network's own scale. Reads these alone."""
        digests = [self.digests[row] for row in rows.tolist()]
        in_files = sorted(set(digests) - self.wired.keys())
        try:
            found = self.files.read(in_files)
        except DamagedShardError:
            found = None
        if found is None:
            self.make(self.missing())
            found = self.files.read(in_files)
        return self.scale(torch.stack([found[digest] if digest in found else self.wired[digest] for digest in digests]))


def _name(digests: Sequence[bytes]) -> str:
    return f"{hashlib.sha256(b''.join(digests)).hexdigest()}.safetensors"


def _checksum(digest: bytes, latent: Tensor) -> int:
    return checksum({digest.hex(): latent})
