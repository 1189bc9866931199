"""The singular values that CleanStyle changes in each layer of a MODEL, to be looked at."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sid_core.method.cleanstyle import Spectrum
from ..host.model import compute_dtype
from ..host.unet_layers import Layer, cross_attention_layers
from ..image_prompts.attention import Key, attn2_replacements
from ..image_prompts.branches import Branch, Project
from .purify import PurifiedBranch, Settings

NAMES = {"k": "keys", "v": "values"}


def image_tokens(branch: Branch) -> tuple[Tensor, ...]:
    """The conditional image tokens of a branch, and none where its keys and values can't be changed."""
    return getattr(branch, "image_tokens", ())


def keys_of(layer: Layer) -> tuple[Key, Key]:
    """Where ComfyUI looks for a replacement of this layer, in its order."""
    return (*layer.block, layer.depth), layer.block


@dataclass(frozen=True)
class LayerSpectrum:
    """What CleanStyle does in one layer to the keys ("k") or values ("v") of one image prompt.

    image_prompt: which of those that the layer has, from 0. spectrum: of all its references, (R, N, D).
    """

    layer: Layer
    image_prompt: int
    which: str
    spectrum: Spectrum
    settings: Settings

    @property
    def name(self) -> str:
        """Such as "output 1.0 keys": ComfyUI's block, and which of its layers where there are several."""
        kind, number = self.layer.block
        depth = f".{self.layer.depth}" if self.layer.depths > 1 else ""
        prompt = f" {self.image_prompt + 1}" if self.image_prompt else ""
        return f"{kind} {number}{depth} {NAMES[self.which]}{prompt}"


def spectra(
    model: ModelPatcher, pictures: int = 1, *, most: int | None = None, settings: Settings | None = None
) -> Iterator[LayerSpectrum]:
    """All spectra of a MODEL with CleanStyle, in the order its layers run in; nothing for a MODEL without it.

    pictures: of a batch, where each has its own reference. Layers that an image prompt leaves out are left out. most:
    of so many layers at most, spread over the MODEL. settings: of the CleanStyle that has these alone.
    """
    there = attn2_replacements(model)
    purified = []
    for layer in sorted(cross_attention_layers(model), key=lambda layer: (layer.number, layer.depth)):
        attention = next((there[key] for key in keys_of(layer) if key in there), None)
        for number, branch in enumerate(getattr(attention, "branches", ())):
            if isinstance(branch, PurifiedBranch) and settings in (None, branch.settings):
                purified.append((layer, number, branch))
    for layer, number, branch in purified[:: -(-len(purified) // most) if most and purified else 1]:
        for which, spectrum in _spectra_of(branch.branch, layer, pictures, compute_dtype(model)).items():
            yield LayerSpectrum(layer, number, which, spectrum, branch.settings)


class _AskedForAll(Exception):  # noqa: N818  it is no error, but ends a call whose result is of no use
    pass


class _Ask:
    """A Change that notes what a branch projects in a layer, as only the branch knows that."""

    def __init__(self) -> None:
        self.asked: dict[str, tuple[Project, Tensor]] = {}

    def cond(self, which: str, project: Project, tokens: Tensor) -> Tensor:
        self.asked[which] = (project, tokens)
        if len(self.asked) == 2:
            raise _AskedForAll
        return project(tokens)

    def uncond(self, which: str, project: Project, tokens: Tensor, cond_tokens: Tensor) -> Tensor:
        return project(tokens)


@torch.no_grad()
def _spectra_of(branch: Branch, layer: Layer, pictures: int, dtype: torch.dtype) -> dict[str, Spectrum]:
    """By "k" and "v"; of nothing where the branch leaves this layer out, or has zeros for it."""
    ask = _Ask()
    anything = torch.zeros(pictures, 1, layer.width, device=image_tokens(branch)[0].device, dtype=dtype)
    options = {
        "cond_or_uncond": [0],
        "block": layer.block,
        "block_index": layer.depth,
        "transformer_index": layer.number,
        "original_shape": (pictures, 4, 1, 1),
        "activations_shape": (pictures, layer.width, 1, 1),
        "n_heads": 1,
    }
    with suppress(_AskedForAll):
        branch(anything, anything, anything, anything, options, ask)
    return {which: Spectrum.of(project(tokens)) for which, (project, tokens) in ask.asked.items() if tokens.any()}
