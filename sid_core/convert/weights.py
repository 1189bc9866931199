"""Tensors that are read, or put together, when they are asked for: a file larger than memory is a dict of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

CHUNK = 16 << 20  # bytes that are read at a time


class Rows(Protocol):
    """Where tensors are read from, some rows at a time; one without dimensions is one row."""

    def rows(self, name: str, start: int, stop: int) -> Tensor: ...


@dataclass(frozen=True)
class Weight:
    """A tensor that is not there yet. chunks: makes it, as consecutive rows of bounded size."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: Callable[[], Iterator[Tensor]]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def whole(self) -> Tensor:
        """The tensor; without a copy where it was in one piece."""
        parts = list(self.chunks())
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(self.shape)

    def to(self, dtype: torch.dtype | None) -> "Weight":
        """The same in another precision, where it is of floating-point numbers; None is as it is."""
        if dtype is None or dtype == self.dtype or not self.dtype.is_floating_point:
            return self
        return Weight(self.shape, dtype, lambda: (chunk.to(dtype) for chunk in self.chunks()))


def held(make: Callable[[], Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Weight:
    """A small one, made at once when it is asked for."""
    return Weight(shape, dtype, lambda: iter([make()]))


def joined(
    source: Rows, pieces: list[tuple[str, int, int]], inner: tuple[int, ...] | None, dtype: torch.dtype
) -> Weight:
    """The rows `pieces` of a source's tensors, one after the other. inner: the shape of a row; None: it has none."""
    count = sum(stop - start for _, start, stop in pieces)
    shape = () if inner is None else (count, *inner)
    step = max(1, CHUNK // max(1, prod(inner or ()) * dtype.itemsize))

    def chunks() -> Iterator[Tensor]:
        for name, start, stop in pieces:
            for first in range(start, stop, step):
                yield source.rows(name, first, min(first + step, stop)).to(dtype)

    return Weight(shape, dtype, chunks)
