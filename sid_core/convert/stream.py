"""Safetensors written and checked tensor by tensor, so that a file may be larger than memory."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..files.atomic import remove_dead, replacing
from ..files.tensors import is_finite
from .tensor_file import TYPES, TensorFile
from .weights import CHUNK, Weight

NAMES = {dtype: name for name, dtype in TYPES.items()}
Tell = Callable[[str, int, int], None]  # what is being done, bytes so far, bytes in all


@dataclass(frozen=True)
class Written:
    """A file that was read again and found to be what was to be written. sha256: of all of its bytes."""

    path: Path
    nbytes: int
    sha256: str


def write_streamed(path: Path, weights: Mapping[str, Weight], metadata: Mapping[str, str], tell: Tell) -> Written:
    """Write safetensors under a temporary name, read it again, and rename it: `path` is all of it, or as it was.

    Raises OSError where it can't be written, and ValueError for values that are not finite or come back as others.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_dead(path.parent)
    ordered = dict(sorted(weights.items(), key=lambda each: (-each[1].dtype.itemsize, each[0])))  # aligned that way
    header = _header(ordered, metadata)
    total = len(header) + sum(weight.nbytes for weight in ordered.values())
    free = shutil.disk_usage(path.parent).free
    if total > free:
        raise OSError(
            f"Free some space or choose another folder: {path.name} will have {total / 1e6:,.0f} MB, and "
            f"{free / 1e6:,.0f} MB are free there."
        )
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            digests = dict(_write(file, header, ordered, total, tell))
        sha256 = _check(temporary, path.name, ordered, digests, total, tell)
    return Written(path, total, sha256)


def _header(weights: Mapping[str, Weight], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"} | dict(metadata)}
    at = 0
    for name, weight in weights.items():
        offsets = [at, at + weight.nbytes]
        entries[name] = {"dtype": NAMES[weight.dtype], "shape": list(weight.shape), "data_offsets": offsets}
        at += weight.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write(
    file: BinaryIO, header: bytes, weights: Mapping[str, Weight], total: int, tell: Tell
) -> Iterator[tuple[str, bytes]]:
    """Write it all; → for each tensor a digest of the bytes that were to be written."""
    file.write(header)
    done = len(header)
    for name, weight in weights.items():
        digest = hashlib.blake2b(digest_size=16)
        begun = done
        for chunk in weight.chunks():
            if not is_finite(chunk):
                raise ValueError(f"Get another copy of the file: its {name} has values that are not finite.")
            values = _bytes(chunk)
            digest.update(values)
            file.write(values)
            done += len(values)
            tell("writing", done, total)
        if done - begun != weight.nbytes:
            raise ValueError(
                f"Copy the file again: it has {done - begun:,} bytes of {name} in place of {weight.nbytes:,}."
            )
        yield name, digest.digest()


def _check(
    written: Path, name: str, weights: Mapping[str, Weight], digests: Mapping[str, bytes], total: int, tell: Tell
) -> str:
    """Read the file again as any reader does; → its sha256. Raises ValueError where it is not what was written."""
    found = TensorFile(written)
    same = list(found) == list(weights) and all(
        found.shape(key) == weight.shape and found.dtype(key) == weight.dtype for key, weight in weights.items()
    )
    sha256 = hashlib.sha256()
    with written.open("rb") as file:
        start = total - sum(weight.nbytes for weight in weights.values())
        sha256.update(file.read(start))
        done = start
        for key, weight in weights.items():
            digest, left = hashlib.blake2b(digest_size=16), weight.nbytes
            while left and (values := file.read(min(CHUNK, left))):
                sha256.update(values)
                digest.update(values)
                left -= len(values)
                done += len(values)
                tell("checking", done, total)
            same = same and digest.digest() == digests[key]
    if not same:
        raise ValueError(f"Try another disk, and check this one: {name} did not come back as it was written.")
    return sha256.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    values = tensor.detach().contiguous().reshape(-1)
    return memoryview(values.view(torch.uint8).numpy())
