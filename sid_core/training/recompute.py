"""Gradient checkpointing: a block's activations are computed again in the backward pass instead of being kept."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
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
    network: nn.Module,
    again: Callable[[], Callable[[], AbstractContextManager]] = lambda: nullcontext,
    changes_in_place: bool = False,
) -> Iterator[None]:
    """Within it, each block of the network keeps its inputs alone for the backward pass.

    again: called when a block is run; → the context that it is to be run in once more, such as the role of an adapted
    network, which has changed by the time of the backward pass. changes_in_place: whether blocks change their inputs
    or what they have saved for the backward pass (`img += …`), with which torch's own checkpoint gives other gradients
    without a word. Nothing here draws random numbers (no dropout).
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

            if changes_in_place:
                return Recomputed(once, args, kwargs).output()
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


class Recomputed:
    """One run of a block that changes tensors in place: what it saves is computed again when it is first asked for.

    Every run gets copies of the block's inputs, and what is saved is copied at that moment, so that what the block
    changes later is neither another run's input nor the backward pass's.
    """

    def __init__(self, forward: Callable, args: tuple, kwargs: dict[str, object]):
        self.forward, self.args, self.kwargs = forward, args, kwargs
        self.places = 0  # of saved tensors, in the order in which they are
        self.values: dict[int, Tensor] = {}

    def output(self) -> object:
        with saved_tensors_hooks(self._save, self._load):
            return self._run()

    def _run(self) -> object:
        args = [_copy(value) for value in self.args]
        return self.forward(*args, **{name: _copy(value) for name, value in self.kwargs.items()})

    def _save(self, _: Tensor) -> int:
        self.places += 1
        return self.places - 1

    def _load(self, place: int) -> Tensor:
        if place not in self.values:
            saved: list[Tensor] = []

            def keep(tensor: Tensor) -> Tensor:
                # The network's own weights are not changed by it, and are most of what there is.
                saved.append(tensor if isinstance(tensor, nn.Parameter) else tensor.detach().clone())
                return saved[-1]

            with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
                self._run()
            self.values = dict(enumerate(saved))
        return self.values.pop(place)


def _copy(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value
