"""A frozen linear layer with LoRAs on some of its rows, as one step forward and one back.

y = x Wᵀ + b, and on an adapted row scale · (x downᵀ) upᵀ beside it. Where a row's tokens are many, what a LoRA adds is
put into a passing copy of the weight instead, W + scale · up·down: that costs rank · in · out for all tokens together,
in place of rank · (in + out) for each. It is exact only where weights are kept in what is computed with, in float32 or
more: in fewer bits, a weight would round away what one iteration learns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

EXACT = (torch.float32, torch.float64)


class Lora(NamedTuple):
    """down: (rank, in), up: (out, rank)."""

    down: Tensor
    up: Tensor
    scale: float


class Piece(NamedTuple):
    """Rows `start` … `stop - 1` of a batch, and which of the LoRAs is on them; None is the layer alone."""

    start: int
    stop: int
    lora: int | None


def adapted_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, pieces: Sequence[Piece], loras: Sequence[Lora]
) -> Tensor:
    """x: (B, …, in) → (B, …, out). weight (out, in) and bias (out,) are frozen; pieces: all B rows, in their order.

    Gradients reach x and the LoRAs that ask for one; of a LoRA in more bits than x, they are computed in x's.
    """
    tokens = x[0].numel() // x.shape[-1]
    spans = [Piece(start * tokens, stop * tokens, lora) for start, stop, lora in pieces]
    trained = [factor for lora in loras for factor in (lora.down, lora.up)]
    return _Adapted.apply(x, weight, bias, spans, [lora.scale for lora in loras], *trained)


class _Adapted(Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, spans, scales, *factors: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        ctx.spans, ctx.scales, ctx.folds = spans, scales, [_folds(span, weight) for span in spans]
        ctx.trained = [down.requires_grad for down in factors[::2]]
        ctx.hidden = [None] * len(spans)
        factors = [factor.to(x.dtype) for factor in factors]
        given_back = x.new_empty(*x.shape[:-1], len(weight))  # itself no view: what follows may change it in place
        y = given_back.view(-1, len(weight))
        if not any(ctx.folds):
            _product(rows, weight, bias, y)
        for place, (start, stop, lora) in enumerate(spans):
            if any(ctx.folds):
                folded = _folded(weight, ctx, factors, lora) if ctx.folds[place] else weight
                _product(rows[start:stop], folded, bias, y[start:stop])
            if lora is not None and not ctx.folds[place]:
                hidden = rows[start:stop] @ factors[2 * lora].t()
                y[start:stop].addmm_(hidden, factors[2 * lora + 1].t(), alpha=scales[lora])
                if ctx.trained[lora]:
                    ctx.hidden[place] = hidden
        ctx.save_for_backward(x if any(ctx.trained) else None, weight, *factors, *ctx.hidden)
        ctx.hidden = None
        return given_back

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        x, weight, *saved = ctx.saved_tensors
        factors, hiddens = saved[: 2 * len(ctx.scales)], saved[2 * len(ctx.scales) :]
        after = gradient.reshape(-1, gradient.shape[-1])
        before = after.new_empty(len(after), weight.shape[1]) if ctx.needs_input_grad[0] else None
        of_factors = [None] * len(factors)
        if before is not None and not any(ctx.folds):
            torch.mm(after, weight, out=before)
        for (start, stop, lora), folds, hidden in zip(ctx.spans, ctx.folds, hiddens, strict=True):
            G = after[start:stop]
            trained = lora is not None and ctx.trained[lora]
            if before is not None and any(ctx.folds):
                folds = folds and not trained
                torch.mm(G, _folded(weight, ctx, factors, lora) if folds else weight, out=before[start:stop])
            if lora is None or (folds and not trained):
                continue
            down, up = factors[2 * lora : 2 * lora + 2]
            inner = G @ up
            if before is not None:
                before[start:stop].addmm_(inner, down, alpha=ctx.scales[lora])
            if trained:
                given = x.reshape(-1, x.shape[-1])[start:stop]
                hidden = given @ down.t() if hidden is None else hidden
                for place, found in ((2 * lora, inner.t() @ given), (2 * lora + 1, G.t() @ hidden)):
                    of_factors[place] = _sum(of_factors[place], found.mul_(ctx.scales[lora]))
        of_x = None if before is None else before.view(*gradient.shape[:-1], -1)
        return of_x, None, None, None, None, *of_factors


def _folds(span: Piece, weight: Tensor) -> bool:
    out, inside = weight.shape
    tokens = span.stop - span.start
    return span.lora is not None and weight.dtype in EXACT and tokens * (inside + out) >= inside * out


def _folded(weight: Tensor, ctx, factors: Sequence[Tensor], lora: int) -> Tensor:
    return torch.addmm(weight, factors[2 * lora + 1], factors[2 * lora], alpha=ctx.scales[lora])


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(rows, weight.t(), out=out)
    else:
        torch.addmm(bias, rows, weight.t(), out=out)


def _sum(found: Tensor | None, more: Tensor) -> Tensor:
    return more if found is None else found.add_(more)
