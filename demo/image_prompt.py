"""An image prompt for the demo model, in the layout of IP-Adapter-plus: what it sees, and its network.

EfficientNet-lite0 looks at the picture, as it does for the demo protocol; IP-Adapter has CLIP there. All after that is
the pack's own code. Needs `host.start_comfyui()` first, except for `look`.
"""

from collections.abc import Callable

import torch
from emoji import ASSETS
from features import BATCH, MEAN, SIDE, STD
from torch import Tensor, nn

ADAPTER = ASSETS / "image_prompt.safetensors"
TOKENS = 16
DEPTH = 2
WIDER = 4  # the feed-forward layers
STAGES = (2, 4, 10)  # blocks of the network whose channels are looked at too: colours and strokes, not yet subjects
SEEN_SIDE = 4
SEEN = 1280 + 2 * (24 + 40 + 112)


@torch.inference_mode()
def look(network: nn.Module, images: Tensor) -> Tensor:
    """What the image prompt sees: (N, H, W, 3) in [0, 1] → (N, 16, SEEN) on the CPU, one row for each of 4x4 regions.

    The first 1,280 channels are the last convolution's; their mean over the regions is `image_features`. After them
    come mean and deviation of the channels of STAGES within the region.
    """
    device = network._conv_stem.weight.device
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    seen = [torch.empty(0, SEEN_SIDE**2, SEEN)]
    for batch in images.split(BATCH):
        pictures = batch.to(device).movedim(-1, 1)
        pictures = nn.functional.interpolate(pictures, size=(SIDE, SIDE), mode="bicubic", antialias=True)
        x = network._swish(network._bn0(network._conv_stem((pictures.clamp(0, 1) - mean) / std)))
        early = []
        for index, block in enumerate(network._blocks):
            x = block(x)
            if index in STAGES:
                average, energy = (nn.functional.adaptive_avg_pool2d(y, SEEN_SIDE) for y in (x, x.square()))
                early += [average, (energy - average.square()).clamp(min=0).sqrt()]
        last = network._swish(network._bn1(network._conv_head(x)))
        seen.append(torch.cat([last, *early], dim=1).flatten(2).mT.cpu())
    return torch.cat(seen)


@torch.inference_mode()
def image_tokens(adapter, seen: Tensor):
    """The pack's `ImageTokens` of pictures as they were looked at, (P, 16, SEEN): picture i of a batch follows image i.

    Where there is guidance, no image stands against them, which training has as zeros.
    """
    from sid_pack.nodes.image_prompts.ip_adapter_branch import ImageTokens

    projection = adapter.network.projection
    cond = projection(seen)
    return ImageTokens(cond, projection(torch.zeros_like(seen[:1])).expand_as(cond), each_its_own=True)


def prompted(model, adapter, tokens, weight: float):
    """A clone of the MODEL with the image prompt in all its layers, as CleanStyleIPAdapter makes it."""
    from sid_pack.nodes.image_prompts.ip_adapter import apply_adapter, matching_layers

    return apply_adapter(model, adapter, tokens, list(enumerate(matching_layers(model, adapter))), weight=weight)


def new_adapter(model) -> nn.Module:
    """An IP-Adapter-plus of the pack's own classes for this MODEL, to be trained.

    Of the usual initialization, but for the layers' keys and values: these begin as copies of the text's.
    """
    from sid_pack.nodes.host.unet_layers import cross_attention_layers
    from sid_pack.nodes.image_prompts.ip_adapter_networks import IPAdapter, Resampler

    layers = cross_attention_layers(model)
    width = layers[0].context
    attentions = [cross_attention(model, layer) for layer in layers]
    network = IPAdapter(
        Resampler(resampler_shapes(width)),
        [{"k": text.to_k.weight, "v": text.to_v.weight} for text in attentions],
    )
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.normal_(network.projection.latents, std=width**-0.5)
    for text, keys, values in zip(attentions, network.to_k_ip, network.to_v_ip, strict=True):
        keys.weight.data.copy_(text.to_k.weight)
        values.weight.data.copy_(text.to_v.weight)
    return network.requires_grad_(True)


def resampler_shapes(width: int) -> dict[str, Tensor]:
    """Empty tensors by the names and in the shapes that a file of IP-Adapter-plus would have them in."""
    shapes = {
        "latents": (1, TOKENS, width),
        "proj_in.weight": (width, SEEN),
        "proj_out.weight": (width, width),
        "norm_out.weight": (width,),
    }
    for layer in range(DEPTH):
        shapes |= {f"layers.{layer}.0.{norm}.weight": (width,) for norm in ("norm1", "norm2")}
        shapes |= {f"layers.{layer}.0.{name}.weight": (width, width) for name in ("to_q", "to_out")}
        shapes[f"layers.{layer}.0.to_kv.weight"] = (2 * width, width)
        shapes[f"layers.{layer}.1.0.weight"] = (width,)
        shapes[f"layers.{layer}.1.1.weight"] = (WIDER * width, width)
        shapes[f"layers.{layer}.1.3.weight"] = (width, WIDER * width)
    return {name: torch.empty(shape) for name, shape in shapes.items()}


def cross_attention(model, layer) -> nn.Module:
    """The text attention of one of `unet_layers.cross_attention_layers`."""
    part, number = layer.block
    network = model.model.diffusion_model
    block = network.middle_block if part == "middle" else getattr(network, f"{part}_blocks")[number]
    transformer = next(module for module in block if hasattr(module, "transformer_blocks"))
    return transformer.transformer_blocks[layer.depth].attn2


def file_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights under the names that IP-Adapter files have: layers are numbered 1, 3, 5, …"""
    weights = {f"image_proj.{name}": value for name, value in network.projection.state_dict().items()}
    for which in ("to_k_ip", "to_v_ip"):
        for number, layer in enumerate(getattr(network, which)):
            weights[f"ip_adapter.{2 * number + 1}.{which}.weight"] = layer.weight.detach()
    return weights


def attentions_to(network: nn.Module, layers: list, tokens: Tensor, attend: Callable) -> dict[tuple, Callable]:
    """For the host's `patches_replace["attn2"]` in training: text attention, and beside it one to tokens (B, N, C).

    attend: (q, k, v, heads) -> out. Drawing goes through the pack's own nodes, which keep what does not change.
    """

    def attention_of(number: int) -> Callable:
        def attention(q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
            heads = extra_options["n_heads"]
            image = attend(q, network.to_k_ip[number](tokens), network.to_v_ip[number](tokens), heads)
            return attend(q, k, v, heads) + image

        return attention

    return {layer.key: attention_of(number) for number, layer in enumerate(layers)}
