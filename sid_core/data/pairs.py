"""Text-image pairs of one size, ready to train on."""

from typing import Protocol

from torch import Tensor

from .conditioning import Cond


class RealPictures(Protocol):
    """What a training draws real pictures from, with their captions."""

    def __len__(self) -> int: ...

    def batch(self, rows: Tensor) -> tuple[Tensor, Cond]:
        """Of those pairs (B,): clean latents (B, C, …) in the network's own scale, and the captions' conditioning."""
