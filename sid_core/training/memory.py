"""How much memory a training forward keeps for its backward pass, found out without keeping it."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .recompute import find_blocks

REMEMBERED = 16  # saved tensors that the next ones are compared with, as one is often saved several times in a row


@dataclass(frozen=True)
class Activations:
    """Bytes kept from the forward to the backward pass: as a whole, and with its blocks recomputed."""

    kept: int
    recomputed: int


def measure_activations(network: nn.Module, forward: Callable[[], object]) -> Activations:
    """Run forward(), which calls the network with gradients on, and count what autograd would keep.

    What is kept is dropped at once, so that this takes no more memory than a forward without gradients.
    """
    weights = {parameter.data_ptr() for parameter in network.parameters()}
    recent: deque[tuple[Tensor, int]] = deque(maxlen=REMEMBERED)
    total = 0

    def drop(tensor: Tensor) -> None:
        nonlocal total
        place = tensor.data_ptr()
        # One that has been changed in place since is another, of which a copy is kept.
        seen = any(place == other.data_ptr() and tensor._version == version for other, version in recent)
        if place in weights or seen:
            return
        recent.append((tensor, tensor._version))
        total += tensor.nbytes

    blocks: list[tuple[int, int]] = []  # bytes of a block's inputs, and of what it keeps inside
    before: list[int] = []

    def enter(module: nn.Module, args: tuple) -> None:
        before.append(total)

    def leave(module: nn.Module, args: tuple, output: object) -> None:
        inputs = sum(value.nbytes for value in args if isinstance(value, Tensor))
        blocks.append((inputs, total - before.pop()))

    hooks = [block.register_forward_pre_hook(enter) for block in find_blocks(network)]
    hooks += [block.register_forward_hook(leave) for block in find_blocks(network)]
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(drop, _never):
            forward()
    finally:
        for hook in hooks:
            hook.remove()
        # Each of these holds its graph, and that the hook, and that these: a circle that Python's collector can't see.
        recent.clear()
    inside = [kept for _, kept in blocks]
    inputs = sum(size for size, _ in blocks)
    return Activations(total, total - sum(inside) + inputs + max(inside, default=0))


def _never(_: object) -> Tensor:
    raise RuntimeError("a forward that is only measured has no backward pass")
