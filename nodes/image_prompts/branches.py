"""What an image prompt is to a cross-attention layer, and what may be done to its keys and values."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

Project = Callable[[Tensor], Tensor]  # image tokens (R, N, C) to keys or values (R, N, D), by the layer's own weights


class Change(Protocol):
    """What is done to the keys or values of image tokens, in one layer of one branch.

    which: "k" or "v". project: this layer's projection; for the same tokens it may give the same tensor again, which is
    not to be changed in place. tokens: (R, N, C), R images of N tokens. Returns (R, N, D).
    """

    def cond(self, which: str, project: Project, tokens: Tensor) -> Tensor:
        """For the pictures that follow the prompt."""

    def uncond(self, which: str, project: Project, tokens: Tensor, cond_tokens: Tensor) -> Tensor:
        """For the unconditional half of classifier-free guidance. tokens are its own, cond_tokens the other half's."""


class Plain:
    """No change: the projected tokens."""

    def cond(self, which: str, project: Project, tokens: Tensor) -> Tensor:
        return project(tokens)

    def uncond(self, which: str, project: Project, tokens: Tensor, cond_tokens: Tensor) -> Tensor:
        return project(tokens)


PLAIN: Change = Plain()


class Branch(Protocol):
    """One image prompt in one cross-attention layer: decoupled attention (IP-Adapter, arXiv 2308.06721).

    Where its keys and values can be changed, it also has `image_tokens`: the conditional ones, tensors (R, N, C).
    """

    def is_active(self, sigma: float) -> bool:
        """Whether it acts at this noise level."""

    def __call__(
        self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any], change: Change = PLAIN
    ) -> Tensor:
        """What it adds to `out`, the layer's attention so far: (chunks·B, T, D), as q, projected queries.

        k, v: the text's keys and values. extra_options: as ComfyUI gives them to an attn2 replacement, but that
        cond_or_uncond has PROMPT or UNCONDITIONAL for each chunk, whatever the guider.
        """
