"""The cross-attention layers of a MODEL's UNet: where they are, what they are called, and choosing some of them."""

from collections.abc import Iterator
from dataclasses import dataclass

from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, Upsample
from comfy.model_patcher import ModelPatcher
from torch import nn

ALL, STYLE, STYLE_AND_COMPOSITION, LISTED = "all", "style (InstantStyle)", "style and composition", "list"
BLOCKS = [ALL, STYLE, STYLE_AND_COMPOSITION, LISTED]


@dataclass(frozen=True)
class Layer:
    """One cross-attention.

    block: ComfyUI's name of the block, ("input", 4). depth: of this layer in it, of `depths`. name: the block's in
    diffusers, "down_blocks.1.attentions.0". number: ComfyUI's transformer_index, the count of such blocks in the order
    they run. width: of its queries, keys and values. context: of the text tokens.
    """

    block: tuple[str, int]
    depth: int
    depths: int
    name: str
    number: int
    width: int
    context: int

    @property
    def key(self) -> tuple:
        """Where an attn2 replacement for it goes. Without depth where there is one layer, as IPAdapter_plus has it."""
        return self.block if self.depths == 1 else (*self.block, self.depth)


@dataclass(frozen=True)
class _Block:
    block: tuple[str, int]
    name: str
    transformer: SpatialTransformer


def cross_attention_layers(model: ModelPatcher) -> list[Layer]:
    """All of them, in the order in which IP-Adapter files count them: diffusers' down, up and middle blocks.

    Empty where the MODEL is of another kind than SD1.5 and SDXL.
    """
    network = model.model.diffusion_model
    if not hasattr(network, "input_blocks"):
        return []
    down = list(_blocks("input", "down_blocks", network.input_blocks, Downsample))
    up = list(_blocks("output", "up_blocks", network.output_blocks, Upsample))
    middle = list(_blocks("middle", "mid_block", [network.middle_block or []], ()))
    numbers = {block.block: number for number, block in enumerate((*down, *middle, *up))}
    return [layer for block in (*down, *up, *middle) for layer in _layers(block, numbers[block.block])]


def _blocks(kind: str, diffusers_kind: str, modules: list[nn.Module], end_of_level: type | tuple) -> Iterator[_Block]:
    level = attentions = 0
    for number, module in enumerate(modules):
        for part in module:
            if isinstance(part, SpatialTransformer):
                place = "" if kind == "middle" else f".{level}"
                yield _Block((kind, number), f"{diffusers_kind}{place}.attentions.{attentions}", part)
                attentions += 1
        if any(isinstance(part, end_of_level) for part in module):
            level, attentions = level + 1, 0


def _layers(block: _Block, number: int) -> Iterator[Layer]:
    transformers = block.transformer.transformer_blocks
    for depth, transformer in enumerate(transformers):
        attention = transformer.attn2
        if attention is not None:
            width, context = attention.to_q.out_features, attention.to_k.in_features
            yield Layer(block.block, depth, len(transformers), block.name, number, width, context)


def chosen_layers(layers: list[Layer], blocks: str, listed: str = "") -> list[Layer]:
    """Some of `layers`, in their order.

    blocks: one of BLOCKS. listed: for LISTED, names separated by commas or lines, each ComfyUI's ("output 1",
    "middle"), diffusers' ("up_blocks.0", "up_blocks.0.attentions.1") or a transformer_index ("6"). Raises ValueError
    naming what there is where one is not found, or none is listed.
    """
    if blocks not in BLOCKS:  # ComfyUI 0.3.75 does not look
        raise ValueError(f"Set blocks to one of {', '.join(map(repr, BLOCKS))}; it is {blocks!r}.")
    if blocks == ALL:
        return list(layers)
    if blocks != LISTED:
        style, composition = _instant_style(layers)
        wanted = style | composition if blocks == STYLE_AND_COMPOSITION else style
        return [layer for layer in layers if layer.name in wanted]
    wanted = [" ".join(entry.split()) for entry in listed.replace("\n", ",").split(",") if entry.strip()]
    unknown = [entry for entry in wanted if not any(_is_called(layer, entry) for layer in layers)]
    if unknown or not wanted:
        said = f"no block of this MODEL is called {', '.join(map(repr, unknown))}" if unknown else "no block is listed"
        there_are = dict.fromkeys(f"{layer.block[0]} {layer.block[1]} = {layer.name}" for layer in layers)
        raise ValueError(
            f"List blocks that there are in block_list, separated by commas: {said}. It has {', '.join(there_are)}."
        )
    return [layer for layer in layers if any(_is_called(layer, entry) for entry in wanted)]


def _is_called(layer: Layer, entry: str) -> bool:
    kind, number = layer.block
    return entry in (str(layer.number), kind, f"{kind} {number}") or f"{layer.name}.".startswith(f"{entry}.")


def _instant_style(layers: list[Layer]) -> tuple[set[str], set[str]]:
    """InstantStyle's blocks (arXiv 2404.02733) for style and for composition, by diffusers' names.

    SDXL, which has attention at its lowest resolution: up_blocks.0.attentions.1, and the last before the middle,
    down_blocks.2.attentions.1. SD1.5, by its authors' program: the first level on the way up with attention,
    up_blocks.1; and, as its counterpart, the last on the way down, down_blocks.2.
    """
    up = [layer.name for layer in layers if layer.block[0] == "output"]
    down = [layer.name for layer in layers if layer.block[0] == "input"]
    style, composition = "up_blocks.0.attentions.1", down[-1] if down else ""
    if style in up:
        return {style}, {composition}
    first, last = (_level(name) for name in (up[0] if up else "", composition))
    return {name for name in up if _level(name) == first}, {name for name in down if _level(name) == last}


def _level(name: str) -> str:
    return name.partition(".attentions.")[0]
