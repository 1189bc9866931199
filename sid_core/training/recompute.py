"""Gradient checkpointing: a block's activations are computed again in the backward pass instead of being kept."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

CONTAINERS = nn.ModuleList | nn.Sequential


def find_blocks(network: nn.Module) -> list[nn.Module]:
    """The smallest modules that a network is a list of: residual and transformer blocks, in UNets and DiTs alike."""
    return list(_blocks(network))


def _blocks(module: nn.Module, listed: bool = False) -> Iterator[nn.Module]:
    inner = [child for child in module.modules() if child is not module and isinstance(child, nn.ModuleList)]
    has_lists = any(not _is_leaf(entry) for child in inner for entry in child)
    if listed and not has_lists and not isinstance(module, CONTAINERS):
        if not _is_leaf(module):
            yield module
        return
    for child in module.children():
        yield from _blocks(child, listed=isinstance(module, CONTAINERS))


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


@contextmanager
def checkpointed(
    network: nn.Module, again: Callable[[], Callable[[], AbstractContextManager]] = lambda: nullcontext
) -> Iterator[None]:
    """Within it, each block of the network keeps its inputs alone for the backward pass.

    again: called when a block is run; → the context that it is to be run in once more, such as the role of an adapted
    network, which has changed by the time of the backward pass. Nothing here draws random numbers (no dropout).
    """
    blocks = find_blocks(network)

    def wrap(forward: Callable) -> Callable:
        def run(*args: object, **kwargs: object) -> object:
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            context = again()

            def once(*args: object, **kwargs: object) -> object:
                with context():
                    return forward(*args, **kwargs)

            return checkpoint(once, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

        return run

    own = [vars(block).get("forward") for block in blocks]  # where another pack has put one
    for block in blocks:
        block.forward = wrap(block.forward)
    try:
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward
