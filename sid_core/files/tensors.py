"""The one way this project writes and reads a file of tensors: safetensors, whole or not at all."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .atomic import replacing


class NotACheckpointError(ValueError):
    """The file is not what it should be: truncated, or of another kind."""


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
