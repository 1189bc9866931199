"""Which rows of a batch follow the prompt, and which are the unconditional half, whatever guider has put them together.

ComfyUI tells a network no more than the place of each chunk's conditioning in a list, and every guider makes its own:
CFGGuider's is (positive, negative), DualCFGGuider's (negative, cond2, cond1). What they are is in the guider alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

PROMPT, UNCONDITIONAL = 0, 1  # ComfyUI's own numbers where there are no more than two
KEY = "sid.halves"
OF_GUIDER, OF_PLACES = "sid_conditionings", "sid_halves"  # in transformer_options
# In the names that guiders give their conditionings. The first word that is found decides.
WORDS = {"neg": UNCONDITIONAL, "uncond": UNCONDITIONAL, "empty": UNCONDITIONAL, "pos": PROMPT, "cond": PROMPT}

Entries = list[dict[str, Any]]  # a conditioning as a guider has it


@dataclass(frozen=True)
class _Conditionings:
    """A guider's, by name. In a class of its own, as ComfyUI would copy a dict and add to a list."""

    by_name: dict[str, Entries]


@dataclass(frozen=True)
class _Places:
    """Of each place in the list of this call: PROMPT, UNCONDITIONAL, or None where that can't be known."""

    halves: tuple[int | None, ...]


def tell_halves(model: ModelPatcher) -> None:
    """From now on `halves_of` knows what each chunk is; the MODEL must be the caller's own clone."""
    for kind, wrapper in ((WrappersMP.PREDICT_NOISE, _note_guider), (WrappersMP.CALC_COND_BATCH, _note_places)):
        model.remove_wrappers_with_key(kind, KEY)
        model.add_wrapper_with_key(kind, KEY, wrapper)


def halves_of(transformer_options: dict[str, Any]) -> list[int]:
    """PROMPT or UNCONDITIONAL for each chunk of a network's call.

    Raises ValueError where neither the guider's names nor the host's own say what a chunk is.
    """
    places, chunks = transformer_options.get(OF_PLACES), transformer_options["cond_or_uncond"]
    # Outside of a guider there are no more than the host's own two.
    halves = places.halves if places else (PROMPT, UNCONDITIONAL)
    found = [halves[place] if place < len(halves) else None for place in chunks]
    if None in found:
        raise ValueError(
            "Sample with CFGGuider, DualCFGGuider or PerpNegGuider, or take the image prompt (IP-Adapter, CleanStyle) "
            "off the MODEL: here a conditioning is computed that is called neither positive nor negative, so an image "
            "prompt can't tell whether to act on it."
        )
    return found


def _note_guider(executor: Callable, x: Any, timestep: Any, model_options: dict | None = None, seed: Any = None) -> Any:
    """A wrapper of a guider's predict_noise."""
    options = model_options or {}
    conditionings = _Conditionings(dict(executor.class_obj.conds))
    inner = options.get("transformer_options", {}) | {OF_GUIDER: conditionings}
    return executor(x, timestep, options | {"transformer_options": inner}, seed)


def _note_places(executor: Callable, model: Any, conds: list, x: Any, timestep: Any, model_options: dict) -> Any:
    """A wrapper of the host's calc_cond_batch: guiders and patches call it with some of their conditionings."""
    inner = model_options.get("transformer_options", {})
    if OF_GUIDER in inner:
        by_name = inner[OF_GUIDER].by_name
        places = _Places(tuple(None if entries is None else _half(entries, by_name) for entries in conds))
        model_options = model_options | {"transformer_options": inner | {OF_PLACES: places}}
    return executor(model, conds, x, timestep, model_options)


def _half(entries: Entries, by_name: dict[str, Entries]) -> int | None:
    """What a conditioning is, which may be a guider's own, a copy of it (context windows make such), or a part."""
    ids = _ids(entries)
    # Of the least doubtful kind first: where a region is prompted, the host adds its entry to the other half as well.
    for is_it in (
        lambda own: own is entries,
        lambda own: _ids(own) == ids,
        lambda own: set(ids) <= set(_ids(own)),
    ):
        if halves := {_meant(name, own) for name, own in by_name.items() if is_it(own)}:
            return halves.pop() if len(halves) == 1 else None
    return None


def _ids(entries: Entries) -> list:
    return [entry.get("uuid") for entry in entries]


def _meant(name: str, entries: Entries) -> int | None:
    """By the name that the guider has for it, or the one that it tells the model instead (prompt_type)."""
    # The first entry is the guider's own, later ones may have been added by the host.
    named = entries[0].get("prompt_type", name) if entries else name
    return next((half for word, half in WORDS.items() if word in named), None)
