"""The least that an iteration of SiD asks of the network: its forwards and backwards, and nothing beside them.

The student makes the pictures and is gone back through once; the fake score learns them, forward and back; then both
scores look at one x_t, and the student's loss goes back through them. Guidance doubles a score's rows. The network has
neither LoRAs nor weights that ask for gradients, each call is one batch, and what it predicts is thrown away.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

SEED = 7
T = 500


def rows_of(fake_train: int, fake_score: int, teacher: int) -> tuple[int, int, int]:
    """For each picture, the rows of the student's call, of the fake score's in its training, and of both scores'.

    The arguments say how many predictions guidance takes at the scales κ1, κ2 = κ3 and κ4.
    """
    return 1, fake_train, fake_score + teacher


def bare_iteration(
    network: nn.Module, context: Tensor, latent_shape: tuple[int, ...], rows: tuple[int, ...], batch: int
) -> Callable[[], None]:
    """A call to make one. context: (1, tokens, width), on the network's device, and in its precision."""
    network.requires_grad_(False)
    draw = torch.Generator(context.device).manual_seed(SEED)
    inputs = [
        torch.randn(batch * count, *latent_shape, generator=draw, device=context.device, dtype=context.dtype)
        for count in rows
    ]

    def iterate() -> None:
        for x_t in inputs:
            x_t = x_t.clone().requires_grad_(True)
            t = torch.full((len(x_t),), T, device=x_t.device)
            network(x_t, t, context=context.expand(len(x_t), -1, -1)).sum().backward()

    return iterate
