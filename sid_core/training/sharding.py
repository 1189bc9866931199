"""A network's weights in parts, one on each rank, and put together block by block as they are needed (FSDP2).

torch's modules for it are imported where they are used: they take half a second, which one process needs nothing of,
and not every build of torch has them.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .ranks import Ranks
from .recompute import find_blocks

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def shard(network: nn.Module, ranks: Ranks, dtype: torch.dtype | None = None) -> None:
    """Leave this rank its part of each weight; a block has them whole while it runs, and its gradients are averaged
    over the ranks. All ranks have to call the network equally often from then on.

    dtype: that a block computes and is put together in, where it is another than its weights are kept in; gradients
    are averaged in the weights' own.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    device = next(network.parameters()).device
    mesh = init_device_mesh(device.type, (ranks.size,))
    kept = next(network.parameters()).dtype
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=kept) if dtype else MixedPrecisionPolicy()
    for part in (*find_blocks(network), network):
        # The whole one too, as between two calls its weights are to be the parts.
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def is_in_parts(tensor: Tensor) -> bool:
    """Whether it is a DTensor, of which each rank has a part."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or what all ranks' parts of it make together, for which they all have to ask."""
    return tensor.full_tensor() if is_in_parts(tensor) else tensor


def part_here(tensor: Tensor) -> Tensor:
    """What this rank has of it."""
    return tensor.to_local() if is_in_parts(tensor) else tensor


def parted_as(tensor: Tensor, like: "DTensor") -> Tensor:
    """A tensor in parts as another one is: one that is whole, on each rank, or is so already."""
    from torch.distributed.tensor import distribute_tensor

    if is_in_parts(tensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
