"""Text-image pairs of one size, ready to train on."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .conditioning import Cond, EncodedPrompts


class RealPictures(Protocol):
    """What a training draws real pictures from, with their captions."""

    def __len__(self) -> int: ...

    def batch(self, rows: Tensor) -> tuple[Tensor, Cond]:
        """Of those pairs (B,): clean latents (B, C, …) in the network's own scale, and the captions' conditioning."""


class Latents(Protocol):
    def batch(self, rows: Tensor) -> Tensor:
        """(B, C, …) of those pictures (B,)."""


@dataclass(frozen=True)
class Pairs:
    """N pairs of some pictures and captions. rows: (N, 2), whole numbers: of each the picture's row, and the caption's.

    A picture with two captions is in two pairs, and its latent is kept once.
    """

    latents: Latents
    captions: EncodedPrompts
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Tensor) -> tuple[Tensor, Cond]:
        pictures, captions = self.rows[rows.to(self.rows.device)].unbind(1)
        return self.latents.batch(pictures), self.captions.batch(captions)
