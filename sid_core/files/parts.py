"""Tensors of which each rank has a part, as a folder of safetensors files, by torch.distributed.checkpoint.

Another number of ranks, or one process alone, reads them as its own parts or whole. torch's module is imported where it
is used: it takes half a second, and not every build of torch has it.
"""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from .tensors import damaged


def write_parts(folder: Path, tensors: dict[str, Tensor], leads: bool) -> None:
    """Write this rank's parts. All ranks have to call it, with the same folder, which the first makes anew."""
    import torch.distributed.checkpoint as dcp

    if leads:
        remove_parts(folder)
        folder.mkdir()
    # None writes before the first, as the coordinator, has gathered what each of them has.
    dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))


def read_parts(folder: Path, like: Callable[[str], Tensor | None] = lambda name: None) -> dict[str, Tensor]:
    """All tensors of a folder, on the CPU; like(name): the tensor that one is to be in parts as, None for a whole one.

    Raises NotACheckpointError for a folder that is not whole.
    """
    import torch.distributed.checkpoint as dcp

    reader = dcp.HuggingFaceStorageReader(str(folder))
    try:
        saved = reader.read_metadata().state_dict_metadata
        tensors = {name: _empty(about, like(name)) for name, about in saved.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that there are no other processes
            dcp.load(tensors, storage_reader=reader, no_dist=True)
    except (OSError, ValueError, KeyError, SafetensorError, dcp.CheckpointException) as error:
        raise damaged(folder, f"its parts can't be read ({error!s:.200})") from error
    return tensors


def _empty(about: object, like: Tensor | None) -> Tensor:
    if like is None or like.shape != about.size:
        return torch.empty(about.size, dtype=about.properties.dtype)
    return torch.empty_like(like, dtype=about.properties.dtype)


def remove_parts(folder: Path) -> None:
    """Delete it, where there is one; a link is deleted itself."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)
