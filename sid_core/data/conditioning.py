"""Encoded prompts, ready to be batched: what the networks take as conditioning, one row a prompt."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Cond = dict[str, Tensor]
MOST_REPEATS = 4  # times that a prompt may be as long as the shortest, as in the host's own batching
MOST_IN_COMMON = math.lcm(*range(1, MOST_REPEATS + 1))  # times the shortest, that all such prompts have in common


def select(cond: Cond, rows: Tensor) -> Cond:
    """The given rows (K,) of a conditioning of (N, …) tensors, as one of (K, …)."""
    return {name: values[rows.to(values.device)] for name, values in cond.items()}


def replace_rows(cond: Cond, rows: Tensor, other: Cond) -> Cond:
    """`cond`, with the rows where the mask (B,) is true taken from `other` (1 or B, …); lengths are made common."""
    replaced = {}
    for name, values in cond.items():
        theirs, ours = _common_length([other[name], values])
        replaced[name] = torch.where(rows.to(ours.device).view(-1, *[1] * (ours.ndim - 1)), theirs, ours)
    return replaced


def stack(rows: Sequence[Cond]) -> Cond:
    """Join conditionings of (1, …) to one of (N, …).

    Prompts of several encoder chunks are longer than others; all are repeated to a common length, as ComfyUI does when
    it batches them for cross-attention. Raises ValueError where names or other dimensions differ.
    """
    if len({frozenset(row) for row in rows}) > 1:
        raise ValueError("Encode all prompts with the same text encoder: some have conditioning that others lack.")
    return {name: torch.cat(_common_length([row[name] for row in rows])) for name in rows[0]}


def _common_length(tensors: list[Tensor]) -> list[Tensor]:
    if len({tensor.shape[1:] for tensor in tensors}) == 1:
        return tensors
    if any(tensor.ndim != 3 or tensor.shape[2] != tensors[0].shape[2] for tensor in tensors):
        raise ValueError(
            "Encode all prompts with the same text encoder: their shapes are "
            f"{sorted({tuple(tensor.shape) for tensor in tensors})}; expected one."
        )
    lengths = {tensor.shape[1] for tensor in tensors}
    length = math.lcm(*lengths)
    if length > MOST_IN_COMMON * min(lengths):
        raise ValueError(
            f"Shorten the longer prompts: they have {', '.join(map(str, sorted(lengths)))} tokens, which only {length} "
            "are a multiple of."
        )
    return [tensor.repeat(1, length // tensor.shape[1], 1) for tensor in tensors]


class EncodedPrompts(Protocol):
    """What a distillation draws from: in memory as a `PromptSet`, or from the disk as `Encodings`."""

    def __len__(self) -> int: ...

    def batch(self, rows: Tensor) -> Cond: ...

    def unconditional(self, batch: int) -> Cond: ...


@dataclass(frozen=True)
class Joined:
    """The prompts of `first`, and after them those of `second`; the ∅-prompt is the first's."""

    first: EncodedPrompts
    second: EncodedPrompts

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def batch(self, rows: Tensor) -> Cond:
        """Conditioning of the given prompts (B,), as (B, …)."""
        later = rows >= len(self.first)
        conds: list[Cond] = []
        for prompts, mine in ((self.first, rows[~later]), (self.second, rows[later] - len(self.first))):
            if len(mine):
                found = prompts.batch(mine)
                conds += [select(found, row[None]) for row in torch.arange(len(mine))]
        places = torch.cat([(~later).nonzero()[:, 0], later.nonzero()[:, 0]])
        return select(stack(conds), places.argsort())

    def unconditional(self, batch: int) -> Cond:
        return self.first.unconditional(batch)


@dataclass(frozen=True)
class PromptSet:
    """texts: N prompts; cond: their conditioning (N, …); uncond: the ∅-prompt's (1, …)."""

    texts: tuple[str, ...]
    cond: Cond
    uncond: Cond

    @classmethod
    def of(cls, texts: Sequence[str], conds: Sequence[Cond], uncond: Cond) -> "PromptSet":
        """Raises ValueError for no prompts, or where there is not one conditioning for each."""
        if not texts:
            raise ValueError("Give one prompt or more; there are none.")
        if len(texts) != len(conds):
            raise ValueError(f"Give a conditioning for each prompt: {len(texts)} prompts have {len(conds)} of them.")
        joined = stack([*conds, uncond])
        last = torch.tensor([len(texts)])
        return cls(tuple(texts), select(joined, torch.arange(len(texts))), select(joined, last))

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, rows: Tensor) -> Cond:
        """Conditioning of the given prompts (B,), as (B, …)."""
        return select(self.cond, rows)

    def unconditional(self, batch: int) -> Cond:
        """The ∅-prompt `batch` times."""
        return {name: values.expand(batch, *values.shape[1:]) for name, values in self.uncond.items()}
