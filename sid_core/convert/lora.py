"""LoRAs between the names that they come in: peft's, diffusers', kohya's, and those that this pack writes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .architecture import Architecture, Pieces
from .errors import ForeignFileError
from .sources import Store
from .weights import Weight, held

DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
PEFT_DOWN, PEFT_UP = ".lora_A.weight", ".lora_B.weight"
KOHYA = "lora_unet_"
WEIGHT = ".weight"
# How the two matrices of a layer are called. The last ones first, which end as others do.
ENDS = {
    **{f".lora_A{name}.weight": DOWN for name in (".default", "")},
    **{f".lora_B{name}.weight": UP for name in (".default", "")},
    **{f"{start}.down.weight": DOWN for start in (".lora_linear_layer", ".lora", "_lora")},
    **{f"{start}.up.weight": UP for start in (".lora_linear_layer", ".lora", "_lora")},
    **{end: end for end in (DOWN, UP, ALPHA)},
    ".lora_A": DOWN,
    ".lora_B": UP,
}
TEXT_ENCODERS = ("lora_te", "text_encoder", "te1.", "te2.", "text_model.")
BEFORE_DOTTED = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "unet.", "transformer.", "model.")
BEFORE_JOINED = (KOHYA, "lora_transformer_", "lycoris_")
NAMED = 3  # names that an error has


@dataclass(frozen=True)
class Layer:
    """Names of a layer's tensors in a file. alpha: the name of a number, or the number; None is the rank."""

    down: str
    up: str
    alpha: str | float | None = None


def is_lora(names: Iterable[str]) -> bool:
    return any(_end(name) in (DOWN, UP) for name in names)


def layers_of(tensors: Store, config: Mapping[str, Any]) -> tuple[dict[str, Layer], list[str]]:
    """Each layer as the file calls it, and what in the file is of text encoders.

    config: peft's, which has the alphas of a file without. Raises ForeignFileError for what is no plain LoRA.
    """
    parts: dict[str, dict[str, str]] = {}
    others, odd = [], []
    for name in tensors:
        kind = _end(name)
        if name.startswith(TEXT_ENCODERS):
            others.append(name)
        elif kind is None:
            odd.append(name)
        else:
            parts.setdefault(name.removesuffix(_ending(name)), {})[kind] = name
    incomplete = [layer for layer, names in parts.items() if not {DOWN, UP} <= names.keys()]
    if odd or incomplete:
        shown = ", ".join(f"{name:.100}" for name in (odd or incomplete)[:NAMED])
        what = "has more than two matrices and an alpha a layer" if odd else "lacks a matrix of each pair"
        raise ForeignFileError(
            f"Load the file with ComfyUI's own Load LoRA, or take another: it {what} ({shown}), which a student's LoRA "
            "has not."
        )
    found = {}
    for layer, names in parts.items():
        found[layer] = Layer(names[DOWN], names[UP], names.get(ALPHA, _peft_alpha(config, layer)))
    return found, others


def by_host_names(
    tensors: Store, layers: Mapping[str, Layer], architecture: Architecture
) -> tuple[dict[str, Weight], list[str]]:
    """The LoRA by names that ComfyUI's loaders know, and the file's layers that the network has none of."""
    names = preferred_names(_whole_places(architecture), architecture.by_original)
    index = _by_plain_name(architecture)
    weights: dict[str, Weight] = {}
    unknown = []
    for called, layer in layers.items():
        known = called if called in architecture.lora else index.get(_plain(called))
        if known is None:
            unknown.append(called)
            continue
        pieces = architecture.lora[known]
        weight = pieces[0][0]
        _require_fit(tensors, called, layer, pieces, architecture)
        # As this pack names it, where it is of all of a weight; a part of one keeps the name it is known by.
        name = names[weight] if _is_whole(pieces, architecture) else known
        weights |= {
            name + DOWN: _as_it_is(tensors, layer.down),
            name + UP: _as_it_is(tensors, layer.up),
            name + ALPHA: _alpha(tensors, layer),
        }
    return weights, unknown


def as_kohya(tensors: Store, layers: Mapping[str, Layer], architecture: Architecture) -> dict[str, Weight]:
    """A LoRA of ComfyUI's names by kohya's, which are one word a layer. Raises ForeignFileError for one without."""
    whole = preferred_names(_whole_places(architecture), architecture.by_original)
    parts = {tuple(pieces): name for name, pieces in architecture.lora.items() if name.startswith("lora_")}
    weights: dict[str, Weight] = {}
    for called, layer in layers.items():
        pieces = _pieces_of(called, architecture)
        name = whole[pieces[0][0]] if _is_whole(pieces, architecture) else parts.get(tuple(pieces), "")
        if not name.startswith("lora_"):
            name = KOHYA + pieces[0][0].removesuffix(WEIGHT).replace(".", "_")
            if architecture.lora.get(name) != pieces:
                raise ForeignFileError(f"Convert --to peft instead: kohya has no name for {called}, a part of a layer.")
        weights |= {
            name + DOWN: _as_it_is(tensors, layer.down),
            name + UP: _as_it_is(tensors, layer.up),
            name + ALPHA: _alpha(tensors, layer),
        }
    return weights


def as_peft(tensors: Store, layers: Mapping[str, Layer], architecture: Architecture) -> dict[str, Weight]:
    """A LoRA of ComfyUI's names as diffusers and peft have it: W + B·A, the scale alpha/rank within B.

    What diffusers has in parts, such as q, k and v, gets its rows of B each. Raises ForeignFileError for layers that
    diffusers has no names for.
    """
    diffusers = architecture.diffusers_names()
    of_weight: dict[str, list[str]] = {}
    for name, pieces in diffusers.items():
        of_weight.setdefault(pieces[0][0], []).append(name)
    weights: dict[str, Weight] = {}
    for called, layer in layers.items():
        pieces = _pieces_of(called, architecture)
        rows = _numbers(pieces)
        given = 0
        for name in of_weight.get(pieces[0][0], ()):
            wanted = _numbers(diffusers[name])
            if not set(wanted) <= set(rows):
                continue
            chosen = [rows.index(row) for row in wanted] if wanted != rows else None
            given += len(wanted)
            stem = f"{architecture.component}.{name.removesuffix(WEIGHT)}"
            weights[stem + PEFT_DOWN] = _as_it_is(tensors, layer.down)
            weights[stem + PEFT_UP] = _scaled_up(tensors, layer, chosen)
        if given != len(rows):
            raise ForeignFileError(f"Convert --to kohya instead: diffusers has no name for all of {called}.")
    return weights


def preferred_names(names: Iterable[tuple[str, str]], by_original: bool) -> dict[str, str]:
    """weight → its name in LoRA files, of (name, weight): kohya's by diffusers' blocks, or by the original ones.

    Weights without such a name have ComfyUI's own, which is the weight's.
    """
    chosen: dict[str, str] = {}
    for name, weight in names:
        own = weight.removesuffix(WEIGHT)
        if name in (own, f"diffusion_model.{own}"):
            chosen.setdefault(weight, name)
        elif name.startswith(KOHYA):
            is_original = name == KOHYA + own.removeprefix("diffusion_model.").replace(".", "_")
            if not chosen.get(weight, "").startswith(KOHYA) or is_original == by_original:
                chosen[weight] = name
    return chosen


def _whole_places(architecture: Architecture) -> Iterator[tuple[str, str]]:
    for name, pieces in architecture.lora.items():
        if _is_whole(pieces, architecture):
            yield name, pieces[0][0]


def _is_whole(pieces: Pieces, architecture: Architecture) -> bool:
    """Whether it is all rows of a weight, in their order."""
    return len(pieces) == 1 and pieces[0][1:] == (0, architecture.shapes[pieces[0][0]][0])


def _pieces_of(called: str, architecture: Architecture) -> Pieces:
    if called not in architecture.lora:
        raise ForeignFileError(f"Give the --base that the LoRA is of: this one has no layer {called:.100}.")
    return architecture.lora[called]


def _by_plain_name(architecture: Architecture) -> dict[str, str]:
    """Plain name → one that ComfyUI knows; but for those that are of several layers."""
    index: dict[str, str] = {}
    unclear = set()
    for name, pieces in architecture.lora.items():
        plain = _plain(name)
        if architecture.lora[index.setdefault(plain, name)] != pieces:
            unclear.add(plain)
    return {plain: name for plain, name in index.items() if plain not in unclear}


def _plain(name: str) -> str:
    """Without what tools put in front, and its parts joined as kohya does."""
    shortened = True
    while shortened:
        before = next((start for start in BEFORE_DOTTED + BEFORE_JOINED if name.startswith(start)), "")
        name, shortened = name.removeprefix(before), bool(before)
    return name.replace(".processor.", ".").replace(".", "_")


def _end(name: str) -> str | None:
    ending = _ending(name)
    return ENDS[ending] if ending else None


def _ending(name: str) -> str:
    return next((end for end in ENDS if name.endswith(end)), "")


def _peft_alpha(config: Mapping[str, Any], layer: str) -> float | None:
    """Of peft's adapter_config.json: one for all layers, or one by the end of their names."""
    by_layer = config.get("alpha_pattern")
    for pattern, alpha in by_layer.items() if isinstance(by_layer, dict) else ():
        if layer == pattern or layer.endswith(f".{pattern}"):
            return float(alpha)
    alpha = config.get("lora_alpha")
    return float(alpha) if isinstance(alpha, int | float) else None


def _require_fit(tensors: Store, called: str, layer: Layer, pieces: Pieces, architecture: Architecture) -> None:
    """Raises ForeignFileError unless up · down is of the shape of those rows of the weight."""
    down, up = tensors.shape(layer.down), tensors.shape(layer.up)
    rows, inner = sum(stop - start for _, start, stop in pieces), architecture.shapes[pieces[0][0]][1:]
    if len(down) < 2 or len(up) < 2 or (up[0], *down[1:]) != (rows, *inner) or up[1] != down[0]:
        raise ForeignFileError(
            f"Take the model that the LoRA is of as the base: its {called:.100} is of {list(up)} times {list(down)}, "
            f"and {architecture.kind} has {[rows, *inner]} there."
        )


def _as_it_is(tensors: Store, name: str) -> Weight:
    return held(lambda: tensors[name], tensors.shape(name), tensors.dtype(name))


def _alpha(tensors: Store, layer: Layer) -> Weight:
    return held(lambda: torch.tensor(_alpha_value(tensors, layer)), (), torch.float32)


def _alpha_value(tensors: Store, layer: Layer) -> float:
    if isinstance(layer.alpha, str):
        return float(tensors[layer.alpha])
    return float(tensors.shape(layer.down)[0]) if layer.alpha is None else layer.alpha


def _scaled_up(tensors: Store, layer: Layer, rows: list[int] | None) -> Weight:
    """B with the scale in it, as W + B·A has no other place for it."""
    shape, dtype = tensors.shape(layer.up), tensors.dtype(layer.up)

    def make() -> Tensor:
        scale = _alpha_value(tensors, layer) / tensors.shape(layer.down)[0]
        up = tensors[layer.up] if rows is None else tensors[layer.up][rows]
        return (up.float() * scale).to(dtype)

    return held(make, shape if rows is None else (len(rows), *shape[1:]), dtype)


def _numbers(pieces: Pieces) -> list[int]:
    return [row for _, start, stop in pieces for row in range(start, stop)]
