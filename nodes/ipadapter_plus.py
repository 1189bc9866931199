"""Image prompts of IPAdapter_plus and its forks, by what they have, as no fork's class can be imported."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .image_branches import PLAIN, Change


class PlusBranch:
    """One image prompt of IPAdapter_plus in one layer: its callback and the arguments that it is called with."""

    def __init__(self, callback: Callable[..., Tensor], kwargs: dict[str, Any]):
        self.callback = callback
        self.kwargs = kwargs

    def is_active(self, sigma: float) -> bool:
        return self.kwargs["sigma_end"] <= sigma <= self.kwargs["sigma_start"]

    def __call__(
        self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any], change: Change = PLAIN
    ) -> Tensor:
        return self.callback(out, q, k, v, extra_options, **self.kwargs)


def plus_branches(replacement: Any) -> tuple[PlusBranch, ...]:
    """The image prompts in an attn2 replacement of IPAdapter_plus; none where it is something else."""
    callbacks, kwargs = getattr(replacement, "callback", None), getattr(replacement, "kwargs", None)
    if not (isinstance(callbacks, list) and isinstance(kwargs, list) and len(callbacks) == len(kwargs)):
        return ()
    return tuple(PlusBranch(callback, arguments) for callback, arguments in zip(callbacks, kwargs, strict=True))
