"""The one way this project writes and reads a file of tensors: safetensors, whole or not at all."""

import zlib
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .atomic import replacing, write_new

LONGEST = 10_000_000  # bytes of a header; a run's largest has a quarter of that, and reading one takes its threefold
# What files named .safetensors turn out to be, by their first bytes.
OTHERS = {
    b"version https://git-lfs": "it is a Git LFS pointer in place of the file; `git lfs pull` gets the file itself",
    b"<": "it is a web page",
    b"PK\x03\x04": "it is a zip archive, as PyTorch's own files are, and no safetensors file",
    b"\x80": "it is a pickle, which may hold code and is not opened, and no safetensors file",
}


class NotACheckpointError(ValueError):
    """The file is not what it should be: truncated, damaged, or of another kind. why: what it is, as 'it is …'."""

    def __init__(self, message: str, why: str | None = None):
        super().__init__(message)
        self.why = why or message


def damaged(path: Path, why: str) -> NotACheckpointError:
    """The error for a file that only another copy of it can help."""
    return NotACheckpointError(f"Copy or download {path.name} again: {why}.", why)


def checksum(tensors: dict[str, Tensor]) -> int:
    """CRC-32 of names, kinds, shapes and values."""
    crc = 0
    for name in sorted(tensors):
        values = tensors[name].detach().contiguous().cpu()
        crc = zlib.crc32(f"{name} {values.dtype} {tuple(values.shape)}".encode(), crc)
        crc = zlib.crc32(values.flatten().view(torch.uint8).numpy(), crc)
    return crc


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write safetensors under a temporary name and rename: whatever happens, `path` is the old file or the new one.

    Raises OSError with the size wanted when the file could not be written; the previous file is then untouched.
    """
    contiguous = _contiguous(tensors)
    try:
        with replacing(path) as temporary:
            save_file(contiguous, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise _not_written(path.parent, contiguous, error) from error


def write_new_tensors(folder: Path, names: Iterable[str], tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    """The same under the first of the names that no file in the folder has, whoever else is writing there; → which."""
    contiguous = _contiguous(tensors)
    try:
        return write_new(folder, names, lambda temporary: save_file(contiguous, temporary, metadata))
    except (OSError, SafetensorError) as error:
        raise _not_written(folder, contiguous, error) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file and its metadata. Raises NotACheckpointError for anything else."""
    try:
        if not path.is_file():  # a pipe would be waited for
            why = "it is no file" if path.exists() else "there is no such file"
            raise NotACheckpointError(f"Choose another file than {path.name}: {why}.", why)
        if why := _odd_start(path):
            raise damaged(path, why)
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError as error:
        why = f"it can't be read ({error.strerror or error})"
        raise NotACheckpointError(f"Choose a file that can be read instead of {path.name}: {why}.", why) from error
    # The last three are of a header that is well-formed, and describes no tensor that there can be.
    except (SafetensorError, RuntimeError, TypeError, OverflowError) as error:
        said = f"it is not a whole safetensors file, but truncated or of another kind ({error!s:.200})"
        raise damaged(path, said) from error


def is_finite(tensor: Tensor) -> bool:
    """By the extremes, which NaN passes through to: a tenth of the time of looking at each value, and no copy."""
    values = tensor.detach()
    if values.numel() == 0:
        return True
    values = values.float() if values.dtype.itemsize == 1 else values  # float8, which has no order here
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(values))


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}


def _not_written(folder: Path, tensors: dict[str, Tensor], error: Exception) -> OSError:
    size = sum(tensor.nbytes for tensor in tensors.values()) / 1e6
    return OSError(
        f"Free some space or choose another folder, and try again: {size:.0f} MB could not be written to {folder} "
        f"({error}). What was there before is unchanged."
    )


def _odd_start(path: Path) -> str | None:
    """What is wrong with a file by its first bytes, if that can be said: the length of the header, then the header."""
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] == b"{" and LONGEST < int.from_bytes(start[:8], "little") < path.stat().st_size:
        return f"it has a header of more than {LONGEST:,} bytes"
    text = start.lstrip(b"\xef\xbb\xbf \r\n\t")
    return next((said for first, said in OTHERS.items() if start[8:9] != b"{" and text.startswith(first)), None)
