"""Foreign pickles read as tensors: whole networks that trainers have dumped, and files of torch.save.

No class of a pickle is imported and nothing in it is called: a machine of our own follows it, and makes inert values,
out of which the tensors are gathered. They stay in the mapped file, whatever its size.
"""

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from .budget import Budget
from .errors import ForeignFileError, UnusableError, damaged
from .state import find_network
from .torch_files import read_content
from .what import PICKLES, advice, kind_of


@dataclass(frozen=True)
class ForeignState:
    """A network's weights out of a file from elsewhere.

    tensors: by name as in the network's state_dict, without what wrappers put before (`module.`, `_orig_mod.`,
        `_fsdp_wrapped_module.`); `unet.` and `transformer.` stay. On the CPU, in the mapped file's memory: not read
        before they are used, not always aligned, and changes to them stay in this process.
    root: under which they were in the file, one of state.ROOTS, or "".
    class_name: of a whole network, 'diffusers.models.….UNet2DConditionModel', else None. It is never imported.
    config: plain values of a diffusers network's settings.
    others: roots that were in the file besides, with tensors, and were not taken.
    release: lets go of the memory of what was read, which is read again when it is used.
    """

    tensors: Mapping[str, Tensor]
    root: str
    class_name: str | None
    config: dict[str, Any]
    others: tuple[str, ...]
    release: Callable[[], None]


def read_pickle(path: Path) -> ForeignState:
    """The network in a pickle (protocols 0 to 5) or a file of torch.save, in its zip form or that of before 1.6.

    Raises ForeignFileError for all else: what to do, then what was found. More than twice the file's size of memory is
    never taken, besides a few dozen MB.
    """
    if (kind := kind_of(path)) not in PICKLES:
        raise ForeignFileError(advice(path, kind))
    try:
        with path.open("rb") as file:
            # Copied on writing: tensors can be changed, as PyTorch expects of all, and the file can't.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise ForeignFileError(f"Choose a file that can be read instead of {path.name}: {error!s:.100}.") from error
    budget = Budget(len(mapped))
    try:
        content = read_content(memoryview(mapped), budget, lambda: _release(mapped))
        found = find_network(content, len(mapped), budget)
    except UnusableError as error:
        raise error.about(path.name) from error
    except RecursionError:  # a call for a call for a call …, which no program writes
        raise damaged("what it holds is nested too deeply").about(path.name) from None
    tensors = MappingProxyType(found.tensors)
    return ForeignState(tensors, found.root, found.class_name, found.config, found.others, lambda: _release(mapped))


def _release(mapped: mmap.mmap) -> None:
    """Let go of the pages that were looked through; they are read again when they are used."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
