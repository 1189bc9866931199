"""What the tensors of IP-Adapter files are called by the programs that write them, and by published files.

Published files have image_proj.… and ip_adapter.NUMBER.to_k_ip.weight, where layers are counted in diffusers' order.
The authors' training program saves a module (image_proj_model.…, adapter_modules.NUMBER.… and the UNet, whose attention
processors are the same layers under the names of their places), accelerate leaves out of what is there twice either
one, and wrappers (DistributedDataParallel, compile) put a word in front of each name.
"""

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

WRAPPERS = ("module.", "_orig_mod.", "model.", "ip_adapter_model.")
IMAGE, STYLE = "image_proj.", "style_proj."
PARTS = {
    IMAGE: ("image_proj.", "image_proj_model.", "encoder_hid_proj.image_projection_layers.0."),
    STYLE: ("style_image_proj_modules.",),
}
OF_DIFFUSERS = {"image_embeds.": "proj."}  # its own name for the linear layer of base adapters
NUMBERED = re.compile(r"(?:ip_adapter|adapter_modules)\.(\d{1,6})\.to_([kv])_ip(?:\.0)?\.weight")
PLACED = re.compile(
    r"(?:unet\.|ip_adapter\.|adapter_modules\.)*(down_blocks|up_blocks|mid_block)\.([\w.]*?)\.attn2\.(?:processor\.)?"
    r"to_([kv])_ip(?:\.0)?\.weight"
)
ORDER = ("down_blocks", "up_blocks", "mid_block")


def by_part(tensors: dict[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], list[dict[str, Tensor]]]:
    """(the tensors of each of PARTS by the rest of their names, {"k": …, "v": …} of each layer in order).

    Raises ValueError for layers that are not whole, or that are there twice and differ.
    """
    tensors = {_unwrapped(name): tensor for name, tensor in tensors.items()}
    parts = {
        part: {
            _of_published(name.removeprefix(prefix)): tensor
            for prefix in prefixes
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        for part, prefixes in PARTS.items()
    }
    numbered, placed = _layers(tensors, NUMBERED, lambda found: int(found[1])), _layers(tensors, PLACED, _place)
    layers = numbered or placed
    if numbered and placed and len(numbered) != len(placed):
        raise ValueError(f"it has {len(numbered)} numbered layers and {len(placed)} in the UNet")
    for place, layer in layers.items():
        if layer.keys() != {"k", "v"}:
            raise ValueError(f"layer {place} has to_{next(iter(layer))}_ip alone")
    return parts, [layers[place] for place in sorted(layers)]


def _layers(
    tensors: dict[str, Tensor], pattern: re.Pattern, place_of: Callable[[re.Match], Any]
) -> dict[Any, dict[str, Tensor]]:
    layers: dict[Any, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if found := pattern.fullmatch(name):
            layer = layers.setdefault(place_of(found), {})
            kind = found[found.re.groups]
            if kind in layer:
                raise ValueError(f"layer {place_of(found)} is there twice")
            layer[kind] = tensor
    return layers


def _place(found: re.Match) -> tuple[int, tuple[int, ...]]:
    """Diffusers' order: down, up, middle, and in each the numbers in the name."""
    return ORDER.index(found[1]), tuple(int(number) for number in re.findall(r"\d{1,6}", found[2]))


def _unwrapped(name: str) -> str:
    while wrapper := next((wrapper for wrapper in WRAPPERS if name.startswith(wrapper)), None):
        name = name.removeprefix(wrapper)
    return name


def _of_published(name: str) -> str:
    for theirs, ours in OF_DIFFUSERS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
