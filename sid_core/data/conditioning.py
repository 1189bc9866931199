"""Encoded prompts, ready to be batched: what the networks take as conditioning, one row a prompt."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

Cond = dict[str, Tensor]
# Behind the name of a prompt's tokens: how many of them are its own, (N,); the rest are zeros. See `by_length`.
TOKENS = " tokens"
MOST_REPEATS = 4  # times that a prompt may be as long as the shortest, as in the host's own batching
MOST_IN_COMMON = math.lcm(*range(1, MOST_REPEATS + 1))  # times the shortest, that all such prompts have in common


def select(cond: Cond, rows: Tensor) -> Cond:
    """The given rows (K,) of a conditioning of (N, …) tensors, as one of (K, …)."""
    return {name: values[rows.to(values.device)] for name, values in cond.items()}


def replace_rows(cond: Cond, rows: Tensor, other: Cond) -> Cond:
    """`cond`, with the rows where the mask (B,) is true taken from `other` (1 or B, …); lengths are made common."""
    replaced = {}
    for name, values in cond.items():
        theirs, ours = _common_length([other[name], values], padded=name + TOKENS in cond)
        replaced[name] = torch.where(rows.to(ours.device).view(-1, *[1] * (ours.ndim - 1)), theirs, ours)
    return replaced


def moved(cond: Cond, device: torch.device) -> Cond:
    """On that device, but for the numbers of tokens: they are looked at before each forward, which is not to wait."""
    return {name: values if name.endswith(TOKENS) else values.to(device) for name, values in cond.items()}


def stack(rows: Sequence[Cond]) -> Cond:
    """Join conditionings of (1, …), or of several rows each, to one of (N, …).

    Prompts of several encoder chunks are longer than others; all are repeated to a common length, as ComfyUI does when
    it batches them for cross-attention. Those that say how many tokens they have (see TOKENS) are filled up with zeros
    instead. Raises ValueError where names or other dimensions differ.
    """
    if len({frozenset(row) for row in rows}) > 1:
        raise ValueError("Encode all prompts with the same text encoder: some have conditioning that others lack.")
    return {
        name: torch.cat(_common_length([row[name] for row in rows], padded=name + TOKENS in rows[0]))
        for name in rows[0]
    }


def by_length(predict: Callable, singly: bool = False) -> Callable:
    """predict(x_t, t, cond) for prompts of several lengths: called once for each length, with the prompts of it.

    Where text and picture are joined in one attention, a prompt that is filled up or repeated is another prompt, so
    the host doesn't batch such prompts either. What is predicted, one or several tensors (B, …), is put together again.
    singly: where lengths may differ, each prompt is a call of its own, so that their number depends on nothing else.
    """

    def predicted(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor | tuple[Tensor, ...]:
        groups = list(_of_one_length(cond, singly))
        if len(groups) == 1:
            return predict(x_t, t, groups[0][1])
        parts = [predict(x_t[rows], t[rows], group) for rows, group in groups]
        back = torch.cat([rows for rows, _ in groups]).argsort()
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)[back]
        return tuple(torch.cat(each)[back] for each in zip(*parts, strict=True))

    return predicted


def _of_one_length(cond: Cond, singly: bool) -> Iterator[tuple[Tensor, Cond]]:
    """The rows of each length, and their conditioning without what others are longer by."""
    names = [name for name in cond if name + TOKENS in cond]
    bare = {name: values for name, values in cond.items() if not name.endswith(TOKENS)}
    if not names:
        yield torch.empty(0), bare
        return
    lengths = torch.stack([cond[name + TOKENS] for name in names], 1)
    if singly:
        group_of = torch.arange(len(lengths), device=lengths.device)
    else:
        lengths, group_of = lengths.unique(dim=0, return_inverse=True)
    for group, own in enumerate(lengths.tolist()):
        rows = (group_of == group).nonzero()[:, 0]
        part = bare if len(lengths) == 1 else select(bare, rows)
        yield (
            rows,
            part | {name: part[name].narrow(_axis(part[name]), 0, n) for name, n in zip(names, own, strict=True)},
        )


def _axis(tokens: Tensor) -> int:
    """Of the tokens: features come last, but in a mask."""
    return tokens.ndim - 2 if tokens.ndim > 2 else 1


def _common_length(tensors: list[Tensor], padded: bool) -> list[Tensor]:
    if len({tensor.shape[1:] for tensor in tensors}) == 1:
        return tensors
    if padded:
        return _padded(tensors)
    if any(tensor.ndim != 3 or tensor.shape[2] != tensors[0].shape[2] for tensor in tensors):
        raise ValueError(_unlike(tensors))
    lengths = {tensor.shape[1] for tensor in tensors}
    length = math.lcm(*lengths)
    if length > MOST_IN_COMMON * min(lengths):
        raise ValueError(
            f"Shorten the longer prompts: they have {', '.join(map(str, sorted(lengths)))} tokens, which only {length} "
            "are a multiple of."
        )
    return [tensor.repeat(1, length // tensor.shape[1], 1) for tensor in tensors]


def _padded(tensors: list[Tensor]) -> list[Tensor]:
    axis = _axis(tensors[0])
    longest = max(tensor.shape[axis] for tensor in tensors)
    if len({(*tensor.shape[1:axis], *tensor.shape[axis + 1 :]) for tensor in tensors}) > 1:
        raise ValueError(_unlike(tensors))
    behind = [0, 0] * (tensors[0].ndim - 1 - axis)
    return [F.pad(tensor, [*behind, 0, longest - tensor.shape[axis]]) for tensor in tensors]


def _unlike(tensors: list[Tensor]) -> str:
    return (
        "Encode all prompts with the same text encoder: their shapes are "
        f"{sorted({tuple(tensor.shape) for tensor in tensors})}; expected one."
    )


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
