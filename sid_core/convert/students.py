"""Foreign files into students of this pack, and students into what diffusers, peft and kohya's tools read."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch

from ..files.student import StudentInfo
from .architecture import Architecture, Pieces, Shape, turned_round
from .errors import ForeignFileError
from .facts import Facts, student_info
from .lora import as_kohya, as_peft, by_host_names, is_lora, layers_of
from .names import network_names, told_by_group, unknown_family
from .sources import Source, Store
from .weights import Weight, held, joined

NETWORK = "model.diffusion_model."  # before a whole student's names, as checkpoints have it
DIFFUSERS, PEFT, KOHYA = "diffusers", "peft", "kohya"
SCALES = {"scale_weight", "weight_scale", "weight_scale_2", "comfy_quant", "scaled_fp8"}  # beside quantized weights
NAMED = 3  # names that an error has
# Weights by which a network draws nothing, and which diffusers' has not: of Lumina 2 and Z-Image, and of PixArt.
IDLE = {"norm_final.weight", "y_embedder.y_embedding"}


@dataclass(frozen=True)
class Student:
    """lora: whether it is one. weights: of the network or the LoRA, by ComfyUI's names. told: what was found, what was
    left out, and where the facts come from, a line each."""

    lora: bool
    weights: Mapping[str, Weight]
    info: StudentInfo
    told: tuple[str, ...]


def network_of(source: Source) -> dict[str, Shape]:
    """The shapes of a file's network, by bare names, to ask the host for its architecture by.

    Raises ForeignFileError for a LoRA, and for families that ComfyUI has none of.
    """
    if is_lora(source.tensors):
        raise ForeignFileError(
            f"Give the model that {source.place.name} is a LoRA of, by --base FILE: it says nothing of the rest of it."
        )
    names, _ = network_names(source.tensors)
    _require_known(source, names)
    return {bare: source.tensors.shape(name) for bare, name in names.items()}


def student_of(source: Source, architecture: Architecture, wanted: Facts) -> Student:
    """The student in a file, as one of `architecture`.

    Raises ForeignFileError where the file has not all of it, or nothing says how it is run.
    """
    lora = is_lora(source.tensors)
    weights, others = (_lora if lora else _network)(source, architecture)
    info, facts = student_info(wanted, source.place, source.metadata, architecture.signature, architecture.flow)
    what = "a LoRA of" if lora else "a whole"
    found = f"{source.place.name}: {source.kind}, {what} {architecture.kind}, {len(weights)} tensors"
    left_out = [*source.dropped, *([told_by_group(others)] if others else [])]
    dropped = [f"left out, as no part of it: {', '.join(left_out)}"] if left_out else []
    return Student(lora, weights, info, (found, *dropped, facts))


def exported(source: Source, architecture: Architecture, form: str) -> dict[str, Weight]:
    """A student of this pack by the names that others' tools read. form: DIFFUSERS, PEFT or KOHYA.

    Raises ForeignFileError where the student is of the other kind, or diffusers has no names for a part of it.
    """
    lora = is_lora(source.tensors)
    if lora == (form == DIFFUSERS):
        kind, forms = ("a LoRA", f"{PEFT} or {KOHYA}") if lora else ("a whole network", DIFFUSERS)
        raise ForeignFileError(f"Convert --to {forms}: {source.place.name} is {kind}.")
    if lora:
        layers, _ = layers_of(source.tensors, source.config)
        return (as_peft if form == PEFT else as_kohya)(source.tensors, layers, architecture)
    names, _ = network_names(source.tensors)
    places = architecture.diffusers_names()
    has_place = {weight for pieces in places.values() for weight, _, _ in pieces}
    if unnamed := [name for name in architecture.shapes if name not in has_place | IDLE]:
        raise ForeignFileError(
            f"Keep {source.place.name} as it is: ComfyUI knows no diffusers' names for {len(unnamed)} weights of "
            f"{architecture.kind}, such as {unnamed[0]}."
        )
    _require_all(names, architecture, source)
    found = {
        name: [(names[weight], a, b) for weight, a, b in pieces]
        for name, pieces in places.items()
        if not any(weight in IDLE for weight, _, _ in pieces)
    }
    return {name: _joined(source.tensors, pieces) for name, pieces in found.items()}


def _network(source: Source, architecture: Architecture) -> tuple[dict[str, Weight], list[str]]:
    names, others = network_names(source.tensors)
    _require_known(source, names)
    own = architecture.shapes.keys() & names.keys()
    # By names alone: where both are in use for some, as for PixArt's blocks, more of them are its own.
    theirs = architecture.diffusers.keys() & names.keys()
    if len(own) >= len(theirs):
        places: dict[str, Pieces] = {name: [(name, 0, _rows(architecture.shapes[name]))] for name in own}
    else:
        places = turned_round(architecture.diffusers, theirs)
    used = {bare for pieces in places.values() for bare, _, _ in pieces}
    others += [name for bare, name in names.items() if bare not in used]
    _require_unscaled(others, source)
    found = {weight: [(names[bare], a, b) for bare, a, b in pieces] for weight, pieces in places.items()}
    _require_all(found, architecture, source)
    weights = {
        weight: _joined(source.tensors, found[weight]) if weight in found else _zeros(shape)
        for weight, shape in architecture.shapes.items()
    }
    for name, weight in weights.items():
        expected = architecture.shapes[name]
        if weight.shape != expected and not _is_same(weight.shape, expected):
            raise ForeignFileError(
                f"Take the base that {source.place.name} was distilled from: its {name} is of shape "
                f"{list(weight.shape)}, and {architecture.kind}'s of {list(expected)}."
            )
    return {name: _reshaped(weight, architecture.shapes[name]) for name, weight in weights.items()}, others


def _lora(source: Source, architecture: Architecture) -> tuple[dict[str, Weight], list[str]]:
    layers, others = layers_of(source.tensors, source.config)
    weights, unknown = by_host_names(source.tensors, layers, architecture)
    if unknown:
        shown = ", ".join(f"{name:.100}" for name in unknown[:NAMED])
        raise ForeignFileError(
            f"Take the model that {source.place.name} is a LoRA of as the base: {architecture.kind} has no layers for "
            f"{len(unknown)} of its {len(layers)}, such as {shown}."
        )
    return weights, others


def _require_unscaled(others: list[str], source: Source) -> None:
    """Raise ForeignFileError where weights are to be multiplied by what is beside them, as in "scaled fp8" files."""
    scales = [name for name in others if name.rpartition(".")[2] in SCALES]
    if scales:
        raise ForeignFileError(
            f"Take the file that is not quantized instead of {source.place.name}: {len(scales)} of its weights have "
            f"scales of their own, such as {scales[0]:.100}, without which they are other numbers."
        )


def _require_known(source: Source, names: Mapping[str, str]) -> None:
    if family := unknown_family(source.config.get("_class_name"), names):
        raise ForeignFileError(
            f"Run {source.place.name} in diffusers: it is a {family} model, and ComfyUI has no network of that kind."
        )


def _require_all(found: Mapping[str, object], architecture: Architecture, source: Source) -> None:
    if not found:
        raise ForeignFileError(
            f"Choose a student of this base, or its base: {source.place.name} has none of the weights of "
            f"{architecture.kind}. Ordinary checkpoints and LoRAs go into ComfyUI's own loaders."
        )
    if lacking := [name for name in architecture.shapes if name not in found and name not in IDLE]:
        shown = ", ".join(lacking[:NAMED])
        raise ForeignFileError(
            f"Get another copy of {source.place.name}, or take the base that it was distilled from: of "
            f"{len(architecture.shapes)} weights of {architecture.kind} it has not {len(lacking)}, such as {shown}."
        )


def _joined(tensors: Store, pieces: Pieces) -> Weight:
    shape = tensors.shape(pieces[0][0])
    return joined(tensors, pieces, shape[1:] if shape else None, tensors.dtype(pieces[0][0]))


def _zeros(shape: Shape) -> Weight:
    return held(lambda: torch.zeros(shape, dtype=torch.float16), shape, torch.float16)


def _is_same(shape: Shape, expected: Shape) -> bool:
    """Whether a linear layer is kept as a convolution of one pixel, or the other way round."""
    return prod(shape) == prod(expected) and shape[:2] == expected[:2]


def _reshaped(weight: Weight, shape: Shape) -> Weight:
    """Safetensors has a tensor's values one after the other, whatever their shape."""
    return Weight(shape, weight.dtype, weight.chunks)


def _rows(shape: Shape) -> int:
    return shape[0] if shape else 1
