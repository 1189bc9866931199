"""An image prompt for the demo model: an IP-Adapter-plus, as a MODEL has it and as it is trained.

It sees through the demo's image encoder. All that draws is the pack's own code. Needs `host.start_comfyui()` first.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from pictures import ASSETS
from torch import Tensor, nn
from training import initialize

ADAPTER = ASSETS / "image_prompt.safetensors"
TOKENS = 16
DEPTH = 2
WIDTH = 128  # within the resampler
WIDER = 2  # the feed-forward layers


def preprocessing(clip_vision) -> Callable[[Tensor], Tensor]:
    """What ComfyUI does to pictures (B, 3, H, W) in [0, 1] before this CLIP_VISION sees them."""
    from comfy.clip_vision import clip_preprocess

    how = {"size": clip_vision.image_size, "mean": clip_vision.image_mean, "std": clip_vision.image_std}
    return lambda pictures: clip_preprocess(pictures.movedim(1, -1), **how)


@torch.inference_mode()
def image_tokens(adapter, clip_vision, images: Tensor):
    """The pack's `ImageTokens` of pictures (P, H, W, 3): picture i of a batch follows image i."""
    from sid_pack.nodes.image_prompts.ip_adapter import EACH
    from sid_pack.nodes.image_prompts.ip_adapter import image_tokens as tokens_of

    return tokens_of(adapter, clip_vision, images, negative=None, combine=EACH)


def rows_of(tokens, which: Tensor | slice):
    """Of `image_tokens`' those of these images."""
    return replace(tokens, cond=tokens.cond[which], uncond=tokens.uncond[which])


def prompted(model, adapter, tokens, weight: float, listed: str = ""):
    """A clone of the MODEL with the image prompt as CleanStyleIPAdapter makes it, in all layers or those listed."""
    from sid_pack.nodes.host.unet_layers import ALL, LISTED, chosen_layers
    from sid_pack.nodes.image_prompts.ip_adapter import apply_adapter, matching_layers

    layers = matching_layers(model, adapter)
    chosen = set(chosen_layers(layers, LISTED if listed else ALL, listed))
    numbered = [(number, layer) for number, layer in enumerate(layers) if layer in chosen]
    return apply_adapter(model, adapter, tokens, numbered, weight=weight)


def new_adapter(model, features: int) -> nn.Module:
    """An IP-Adapter-plus of the pack's own classes for this MODEL, to be trained.

    features: channels of what the image encoder's tokens are. Of the usual initialization, but for the layers' keys
    and values: these begin as copies of the text's.
    """
    from sid_pack.nodes.host.unet_layers import cross_attention_layers
    from sid_pack.nodes.image_prompts.ip_adapter_networks import IPAdapter, Resampler

    layers = cross_attention_layers(model)
    attentions = [cross_attention(model, layer) for layer in layers]
    network = IPAdapter(
        Resampler(resampler_shapes(features, layers[0].context)),
        [{"k": text.to_k.weight, "v": text.to_v.weight} for text in attentions],
    )
    initialize(network)
    nn.init.normal_(network.projection.latents, std=WIDTH**-0.5)
    for text, keys, values in zip(attentions, network.to_k_ip, network.to_v_ip, strict=True):
        keys.weight.data.copy_(text.to_k.weight)
        values.weight.data.copy_(text.to_v.weight)
    return network.float().requires_grad_(True)


def resampler_shapes(features: int, context: int) -> dict[str, Tensor]:
    """Empty tensors by the names and in the shapes that a file of IP-Adapter-plus would have them in."""
    shapes = {
        "latents": (1, TOKENS, WIDTH),
        "proj_in.weight": (WIDTH, features),
        "proj_out.weight": (context, WIDTH),
        "norm_out.weight": (context,),
    }
    for layer in range(DEPTH):
        shapes |= {f"layers.{layer}.0.{norm}.weight": (WIDTH,) for norm in ("norm1", "norm2")}
        shapes |= {f"layers.{layer}.0.{name}.weight": (WIDTH, WIDTH) for name in ("to_q", "to_out")}
        shapes[f"layers.{layer}.0.to_kv.weight"] = (2 * WIDTH, WIDTH)
        shapes[f"layers.{layer}.1.0.weight"] = (WIDTH,)
        shapes[f"layers.{layer}.1.1.weight"] = (WIDER * WIDTH, WIDTH)
        shapes[f"layers.{layer}.1.3.weight"] = (WIDTH, WIDER * WIDTH)
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
