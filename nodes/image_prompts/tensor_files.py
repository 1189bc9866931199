"""Reading a downloaded file of tensors, which may be damaged or hostile: within bounds, running nothing it holds."""

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ...sid_core.files.tensors import NotACheckpointError, read_tensors

SAFE = (".safetensors", ".sft")
# What pickles of plain tensors call. torch allows more, of which some take memory by a number alone.
CALLED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    *(f"torch {kind}Storage" for kind in ("Float", "Half", "BFloat16", "Double")),
    *(f"torch {kind}Storage" for kind in ("Long", "Int", "Short", "Char", "Byte", "Bool")),
}
ZIP = b"PK\x03\x04"  # what zip files begin with
OLD_PICKLES = 5  # in a file of torch before 1.6: magic number, version, machine, tensors, and the keys of their memory
# Other ways to make things in a pickle, which torch's own reader for tensors refuses or needs none of.
OBJECTS = ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ", "NEWOBJ_EX")
MOST_PARTS = 100  # dicts in a file, which has a handful
LARGEST_PICKLE = 64 << 20  # bytes; that of a whole SDXL UNet has less than one million


def tensors_of(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors, .bin or .pt file by flat names, on the CPU. Raises ValueError for other files."""
    try:
        tensors = read_tensors(path)[0] if path.suffix.lower() in SAFE else _unpickled(path)
        # Weights may be there under two names each, but a small file can't be a large one's worth of views.
        if sum(tensor.nbytes for tensor in tensors.values()) > 2 * path.stat().st_size:
            raise _NotPlainError("its tensors claim to be larger than the file.")
    except (NotACheckpointError, _NotPlainError, OSError) as error:
        said = error.why if isinstance(error, NotACheckpointError) else str(error).replace(str(path), path.name)
        raise ValueError(f"Download {path.name} again, as .safetensors if there is one: {said}") from error
    return tensors


class _NotPlainError(Exception):
    """Why a file is not opened, as the end of a sentence."""


def _unpickled(path: Path) -> dict[str, Tensor]:
    if zipped := zipfile.is_zipfile(path):
        _check_zip(path)
    else:
        with path.open("rb") as file:
            if file.read(len(ZIP)) == ZIP:
                raise _NotPlainError("it is truncated.")
        _check_pickles(path)
    try:
        # From the mapped file no more can be read than it has, whatever sizes a pickle names.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # noqa: BLE001  a damaged pickle makes torch raise nearly anything
        said = " ".join([type(error).__name__, *str(error).split()])
        raise _NotPlainError(f"it can't be opened as a file of tensors alone ({said[:200]}).") from error
    return dict(_flat(content, set())) if isinstance(content, dict) else {}


def _check_zip(path: Path) -> None:
    """Raises _NotPlainError where a zip file is damaged, or could grow when it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise _NotPlainError("it is compressed, which files of tensors are not.")
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise _NotPlainError("it claims to hold more than its own size.")
            if damaged := archive.testzip():
                raise _NotPlainError(f"its part {damaged} is damaged.")
            pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
            for entry in pickles:
                _check_calls(io.BytesIO(archive.read(entry)))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError, OverflowError) as error:
        raise _NotPlainError(f"it is no whole zip file ({error}).") from error


def _check_pickles(path: Path) -> None:
    """The same for a file of torch before 1.6, where pickles follow each other and then the tensors' memory."""
    with path.open("rb") as file:
        start = io.BytesIO(file.read(LARGEST_PICKLE))
    for number in range(OLD_PICKLES):
        # Memory is asked for by the numbers of the fourth before it is looked whether the file has as much.
        _check_calls(start, largest=path.stat().st_size if number == 3 else None)
        if start.tell() == len(start.getbuffer()):
            return


def _check_calls(pickle: BinaryIO, largest: int | None = None) -> None:
    """Raises _NotPlainError where a pickle calls what plain tensors don't need. It is read here, and not run.

    largest: of the numbers in it.
    """
    try:
        for operation, argument, _ in pickletools.genops(pickle):
            if operation.name in OBJECTS or (operation.name == "GLOBAL" and argument not in CALLED):
                called = f"{argument!r:.80}" if argument else "objects"
                raise _NotPlainError(f"it holds code or other things than tensors ({called}), which is not run.")
            if largest is not None and isinstance(argument, int) and argument > largest and "PUT" not in operation.name:
                raise _NotPlainError("its tensors claim to be larger than the file.")
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise _NotPlainError(f"it is truncated, damaged or of another kind ({str(error)[:100]}).") from error


def _flat(content: dict, seen: set[int], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    seen.add(id(content))
    for name, value in content.items():
        if isinstance(value, dict):
            if id(value) in seen or len(seen) > MOST_PARTS:
                raise _NotPlainError("its parts are within each other in another way than an IP-Adapter's.")
            yield from _flat(value, seen, f"{prefix}{name}.")
        elif isinstance(value, Tensor):
            yield f"{prefix}{name}", value
