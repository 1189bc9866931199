"""What a program reads of tensors: for each such read it would wait for a GPU."""

from collections.abc import Callable
from pathlib import Path
from traceback import StackSummary, extract_stack

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


def outside_of_optimizers(stack: StackSummary) -> bool:
    return not any("optim" in Path(frame.filename).parts for frame in stack)


class Looks(TorchDispatchMode):
    """Counts the reads whose stack `counts`."""

    def __init__(self, counts: Callable[[StackSummary], bool] = outside_of_optimizers):
        super().__init__()
        self.count, self._counts = 0, counts

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in READS and self._counts(extract_stack()):
            self.count += 1
        return function(*args, **(kwargs or {}))
