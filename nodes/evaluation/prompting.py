"""The prompts of an evaluation: which of them a picture is of, and how models and CLIP see it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import comfy.model_management
import torch
from torch import Tensor

from ...sid_core.data.prompts import PromptFile
from ..host.image_features import TextFeatures
from ..host.texts import conditionings

AT_ONCE = 32  # prompts that are encoded together, lest the text encoder and the model take turns in memory


@dataclass
class Prompting:
    """Pictures are of the prompts in an order that depends on the seed alone, `in_group` of each, round and round."""

    prompts: PromptFile
    clip: object
    texts: TextFeatures | None
    in_group: int
    seed: int
    _encoded: dict[int, tuple[list, Tensor | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.order = torch.randperm(len(self.prompts), generator=torch.Generator().manual_seed(self.seed))

    def turns(self, first: int, last: int) -> list[int]:
        """Of pictures first … last - 1, the place of their prompts in the order."""
        return [picture // self.in_group % len(self.prompts) for picture in range(first, last)]

    def text(self, turn: int) -> str:
        return self.prompts[int(self.order[turn % len(self.prompts)])]

    def conditioning(self, turn: int) -> list:
        return self._of(turn)[0]

    def aligned(self, turns: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Text embeddings (B, D) of those prompts, and of each one's next."""
        count = len(self.prompts)
        own, others = ([self._of(turn % count)[1] for turn in (t + more for t in turns)] for more in (0, 1))
        return torch.cat(own), torch.cat(others)

    def _of(self, turn: int) -> tuple[list, Tensor | None]:
        if turn not in self._encoded:
            kept = {turn - 1: self._encoded[turn - 1]} if turn - 1 in self._encoded else {}
            self._encoded = kept
            turns = range(turn, min(turn + AT_ONCE, len(self.prompts)))
            texts = [self.text(each) for each in turns]
            for each, text, conditioning in zip(turns, texts, conditionings(self.clip, texts), strict=True):
                comfy.model_management.throw_exception_if_processing_interrupted()
                self._encoded[each] = conditioning, self.texts.of(text) if self.texts else None
        return self._encoded[turn]


def batches(conditionings: Sequence[list]) -> list[tuple[list[int], list]]:
    """Prompts that can go through a model together, as (their places, one CONDITIONING of all of them)."""
    alike: dict[object, list[int]] = {}
    for place, conditioning in enumerate(conditionings):
        alike.setdefault(_kind(place, conditioning), []).append(place)
    return [(places, _joined([conditionings[place] for place in places])) for places in alike.values()]


def _kind(place: int, conditioning: list) -> object:
    """Equal for those that differ by the values of tensors alone."""
    if len(conditioning) != 1:
        return place
    context, extra = conditioning[0]
    kinds = []
    for name, value in sorted(extra.items()):
        if isinstance(value, Tensor):
            kinds.append((name, tuple(value.shape[1:]), value.dtype))
        elif value is not None and not isinstance(value, str | int | float):
            return place
        else:
            kinds.append((name, value))
    return tuple(context.shape[1:]), tuple(kinds)


def _joined(conditionings: Sequence[list]) -> list:
    if len(conditionings) == 1:
        return conditionings[0]
    entries = [conditioning[0] for conditioning in conditionings]
    extra = {
        name: torch.cat([entry[1][name] for entry in entries]) if isinstance(value, Tensor) else value
        for name, value in entries[0][1].items()
    }
    return [[torch.cat([entry[0] for entry in entries]), extra]]
