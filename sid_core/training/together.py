"""Several predictions at one x_t as one batch: the network's weights are read once for all of them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.conditioning import Cond, stack
from ..method.guidance import combined, halves

Predict = Callable[[Tensor, Tensor, Cond], Any]


def together(predict: Predict, x_t: Tensor, t: Tensor, conds: Sequence[Cond]) -> list[Any]:
    """What `predict` gives for each of the conditionings (B, …): one or several tensors (B, …), from one call."""
    if len(conds) == 1:
        return [predict(x_t, t, conds[0])]
    count = len(conds)
    found = predict(torch.cat([x_t] * count), torch.cat([t] * count), stack(conds))
    if isinstance(found, Tensor):
        return list(found.chunk(count))
    return list(zip(*(each.chunk(count) for each in found), strict=True))


def guided_together(
    predict: Predict, x_t: Tensor, t: Tensor, cond: Cond, uncond: Cond, scale: float, at_once: bool = True
) -> Tensor:
    """As `guidance.guided`, with both halves in one call; at_once: False makes it two."""
    conds = halves(cond, uncond, scale)
    found = together(predict, x_t, t, conds) if at_once else [predict(x_t, t, each) for each in conds]
    return combined(found, scale)
