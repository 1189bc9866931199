"""A network's weights in parts, one on each rank, and put together block by block as they are needed (FSDP2)."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from .ranks import Ranks
from .recompute import find_blocks


def shard(network: nn.Module, ranks: Ranks, dtype: torch.dtype | None = None) -> None:
    """Leave this rank its part of each weight; a block has them whole while it runs, and its gradients are averaged
    over the ranks. All ranks have to call the network equally often from then on.

    dtype: that a block computes and is put together in, where it is another than its weights are kept in; gradients
    are averaged in the weights' own.
    """
    device = next(network.parameters()).device
    mesh = init_device_mesh(device.type, (ranks.size,))
    kept = next(network.parameters()).dtype
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=kept) if dtype else MixedPrecisionPolicy()
    for part in (*find_blocks(network), network):
        # The whole one too, as between two calls its weights are to be the parts.
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or what all ranks' parts of it make together, for which they all have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_here(tensor: Tensor) -> Tensor:
    """What this rank has of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def parted_as(tensor: Tensor, like: DTensor) -> Tensor:
    """A tensor in parts as another one is: one that is whole, on each rank, or is so already."""
    if isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
