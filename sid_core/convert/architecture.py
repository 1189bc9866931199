"""A network as ComfyUI knows it, and what other files call its weights; see nodes/host/network_names.py."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..files.student import base_signature

Shape = tuple[int, ...]
Pieces = list[tuple[str, int, int]]  # rows of weights, joined: (weight, first row, behind the last row)


@dataclass(frozen=True)
class Architecture:
    """kind: ComfyUI's class. component: what diffusers calls it, unet or transformer. flow: whether it is a flow model.
    shapes: of its weights.

    diffusers, lora: for each name of a weight in diffusers' files, or of a layer in LoRA files, the rows of the
    network's weights it stands for. by_original: LoRA files name its layers by the original blocks.
    """

    kind: str
    component: str
    flow: bool
    by_original: bool
    shapes: Mapping[str, Shape]
    diffusers: Mapping[str, Pieces]
    lora: Mapping[str, Pieces]

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> "Architecture":
        """From what the host answers, which may have been JSON."""
        return cls(
            kind=answer["kind"],
            component=answer["component"],
            flow=answer["flow"],
            by_original=answer["by_original"],
            shapes={name: tuple(shape) for name, shape in answer["shapes"].items()},
            diffusers={name: [tuple(piece) for piece in pieces] for name, pieces in answer["diffusers"].items()},
            lora={name: [tuple(piece) for piece in pieces] for name, pieces in answer["lora"].items()},
        )

    @property
    def signature(self) -> str:
        """What a student of it says its base is."""
        return base_signature(self.kind, {n: torch.empty(shape, device="meta") for n, shape in self.shapes.items()})

    def diffusers_names(self) -> dict[str, Pieces]:
        """The same as `diffusers`, with one name for each row: the first, where the host knows several."""
        taken: dict[str, set[int]] = defaultdict(set)
        chosen = {}
        for name, pieces in self.diffusers.items():
            rows = [(weight, range(start, stop)) for weight, start, stop in pieces]
            if not any(taken[weight].intersection(span) for weight, span in rows):
                chosen[name] = pieces
                for weight, span in rows:
                    taken[weight].update(span)
        return chosen


def turned_round(places: Mapping[str, Pieces], names: Iterable[str]) -> dict[str, Pieces]:
    """For each weight of the network, the rows of a file's tensors that it consists of.

    names: those that the file has. Rows that none of them stands for are not in it, so that the weight is shorter.
    """
    found: dict[str, list[tuple[int, int, str, int]]] = defaultdict(list)
    for name in names:
        at = 0
        for weight, start, stop in places.get(name, ()):
            found[weight].append((start, stop, name, at))
            at += stop - start
    return {
        weight: [(name, at, at + stop - start) for start, stop, name, at in sorted(pieces)]
        for weight, pieces in found.items()
    }
