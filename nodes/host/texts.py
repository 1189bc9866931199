"""Prompts through a text encoder, several at a time where it can: the host's `CLIP` takes them one by one."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from numbers import Integral
from typing import Any

import torch
from comfy.sd1_clip import ClipTokenWeightEncoder

AT_ONCE = 16  # prompts
Chunk = tuple[int, ...]  # of a prompt's tokens: what an encoder takes as a row
Encoded = tuple[Any, ...]  # what an encoder gives: its states, a pooled one or None, perhaps masks in a dictionary


def conditionings(clip, texts: Sequence[str]) -> Iterator[list]:
    """The CONDITIONING of each text, as CLIPTextEncode makes it; a row of a batch differs from that by rounding.

    clip: a CLIP that has no hooks is handed several texts in one forward, if its encoder is one of the host's.
    """
    for first in range(0, len(texts), AT_ONCE):
        tokenized = [clip.tokenize(text) for text in texts[first : first + AT_ONCE]]
        with ExitStack() as stack:
            # Hooks may change an encoder's weights within one prompt.
            for encoder in clip.cond_stage_model.modules() if clip.patcher.forced_hooks is None else ():
                if isinstance(encoder, ClipTokenWeightEncoder):
                    stack.enter_context(_foreseeing(encoder, tokenized))
            with torch.inference_mode():
                found = [clip.encode_from_tokens_scheduled(tokens) for tokens in tokenized]
        yield from found


@contextmanager
def _foreseeing(encoder: Any, tokenized: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Within it, an encoder that is asked for one prompt's chunks encodes and keeps those of the others as well."""
    alone = encoder.encode
    known: dict[Chunk, Encoded] = {}
    by_name = [
        dict.fromkeys(chunk for tokens in tokenized for chunk in _chunks(tokens.get(name))) for name in tokenized[0]
    ]

    def encode(asked: list[list]) -> Encoded:
        chunks = [tuple(chunk) for chunk in asked]
        if not all(_is_plain(chunk) for chunk in chunks):  # some are embeddings
            return alone(asked)
        if missing := [chunk for chunk in chunks if chunk not in known]:
            others = next((names for names in by_name if missing[0] in names), {})
            alike = [chunk for chunk in others if len(chunk) == len(missing[0]) and chunk not in known]
            wanted = list(dict.fromkeys([*missing, *alike]))
            found = alone([list(chunk) for chunk in wanted])
            known.update({chunk: _rows(found, slice(place, place + 1)) for place, chunk in enumerate(wanted)})
        return _joined([known[chunk] for chunk in chunks])

    encoder.encode = encode
    try:
        yield
    finally:
        del encoder.encode


def _chunks(pairs: Any) -> Iterator[Chunk]:
    """Of one prompt, as a tokenizer gives them for one encoder: rows of (token, weight)."""
    for row in pairs if isinstance(pairs, list) else ():
        chunk = tuple(pair[0] for pair in row)
        if _is_plain(chunk):
            yield chunk


def _is_plain(chunk: Chunk) -> bool:
    return all(isinstance(token, Integral) for token in chunk)


def _rows(found: Encoded, rows: slice) -> Encoded:
    states, pooled, *more = found
    masks = [{name: value[rows] for name, value in each.items()} for each in more]
    return states[rows], None if pooled is None else pooled[rows], *masks


def _joined(parts: Sequence[Encoded]) -> Encoded:
    """New tensors, as prompts' weights are put into them."""
    states, pooled, *more = zip(*parts, strict=True)
    masks = [{name: torch.cat([each[name] for each in of_one]) for name in of_one[0]} for of_one in more]
    return torch.cat(states), None if pooled[0] is None else torch.cat(pooled), *masks
