"""IP-Adapter and StyleShot files with random weights, by the published files' names, and a small true CLIP vision.

Names and shapes are those of the public programs that write and read such files: tencent-ailab/IP-Adapter and
open-mmlab/StyleShot. All else is small. Weights are of a size that keeps activations near 1.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

HIDDEN, POOLED = 32, 24  # widths of the small CLIP vision
STYLE_WIDTH = 20  # of the embeddings that the style encoder gives
LAYOUTS = ("base", "plus", "full-face", "styleshot")


def clip_vision(folder: Path, *, size: int = 28, hidden: int = HIDDEN, pooled: int = POOLED):
    """ComfyUI's own CLIP vision class, of three layers."""
    from comfy.clip_vision import ClipVisionModel

    config = {"model_type": "clip_vision_model", "hidden_act": "gelu", "num_attention_heads": 2, "num_hidden_layers": 3}
    config |= {"hidden_size": hidden, "intermediate_size": 2 * hidden, "projection_dim": pooled}
    config |= {"image_size": size, "patch_size": 14, "num_channels": 3}
    path = folder / "clip_vision.json"
    path.write_text(json.dumps(config))
    model = ClipVisionModel(str(path))
    draw = Draw(11)
    for tensor in model.model.state_dict().values():
        tensor.copy_(draw(*tensor.shape, scale=0.3))
    return model


class Draw:
    """Random tensors, each another."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=self.generator)

    def linear(self, name: str, features: int, width: int, *, bias: bool) -> dict[str, Tensor]:
        found = {f"{name}.weight": self(width, features, scale=features**-0.5)}
        return found | ({f"{name}.bias": self(width, scale=0.3)} if bias else {})

    def norm(self, name: str, width: int) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + self(width, scale=0.3), f"{name}.bias": self(width, scale=0.3)}

    def convolution(self, name: str, features: int, width: int, size: int) -> dict[str, Tensor]:
        weight = self(width, features, size, size, scale=(features * size * size) ** -0.5)
        return {f"{name}.weight": weight, f"{name}.bias": self(width, scale=0.1)}


def image_projection(layout: str, context: int, draw: Draw, *, heads: int = 2, depth: int = 2, tokens: int = 3):
    """The tensors below image_proj (below style_image_proj_modules for StyleShot)."""
    if layout == "base":
        return draw.linear("proj", POOLED, tokens * context, bias=True) | draw.norm("norm", context)
    if layout == "full-face":
        parts = draw.linear("proj.0", HIDDEN, HIDDEN, bias=True) | draw.linear("proj.2", HIDDEN, context, bias=True)
        return parts | draw.norm("proj.3", context)
    if layout == "styleshot":
        parts = {}
        for scale in range(3):
            parts |= draw.linear(f"{scale}.proj", STYLE_WIDTH, 2 * context, bias=True)
            parts |= draw.norm(f"{scale}.norm", context)
        return parts
    width, inner = context, 64 * heads
    parts = {"latents": draw(1, tokens, width)} | draw.linear("proj_in", HIDDEN, width, bias=True)
    parts |= draw.linear("proj_out", width, context, bias=True) | draw.norm("norm_out", context)
    for layer in range(depth):
        name = f"layers.{layer}"
        parts |= draw.norm(f"{name}.0.norm1", width) | draw.norm(f"{name}.0.norm2", width)
        parts |= draw.linear(f"{name}.0.to_q", width, inner, bias=False)
        parts |= draw.linear(f"{name}.0.to_kv", width, 2 * inner, bias=False)
        parts |= draw.linear(f"{name}.0.to_out", inner, width, bias=False)
        parts |= draw.norm(f"{name}.1.0", width) | draw.linear(f"{name}.1.1", width, 4 * width, bias=False)
        parts |= draw.linear(f"{name}.1.3", 4 * width, width, bias=False)
    return parts


def adapter_tensors(layout: str, widths: list[int], context: int, seed: int = 0, **sizes: int) -> dict[str, dict]:
    """A file's parts: {"image_proj": …, "ip_adapter": …}. widths: of the layers, in diffusers' order."""
    draw = Draw(seed)
    image = image_projection(layout, context, draw, **sizes)
    layers = {}
    for number, width in enumerate(widths):
        # Diffusers counts self- and cross-attention in turn, so the latter are odd; keys of 10 and more sort badly.
        for which in "kv":
            layers |= draw.linear(f"{2 * number + 1}.to_{which}_ip", context, width, bias=False)
    return {"image_proj": image, "ip_adapter": layers}


def flat(parts: dict[str, dict]) -> dict[str, Tensor]:
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def write_adapter(path: Path, layout: str, parts: dict[str, dict]) -> None:
    """As it is published: IP-Adapter as flat safetensors or nested .bin, StyleShot as flat .bin with other names."""
    if path.suffix == ".safetensors":
        save_file(flat(parts), path)
    elif layout == "styleshot":
        named = {"style_image_proj_modules": parts["image_proj"], "adapter_modules": parts["ip_adapter"]}
        torch.save(flat(named | {"unet": {"conv_in.weight": torch.zeros(2)}}), path)
    else:
        torch.save(parts, path)


def style_encoder_tensors(seed: int = 5) -> dict[str, Tensor]:
    """style_aware_encoder.bin: a CLIP of 32 channels and two layers, and networks of 4 to 32 channels for patches."""
    draw = Draw(seed)
    parts = {f"style_embeddings.{scale}": draw(32) for scale in range(3)}
    parts["position_embedding.weight"] = draw(8 + 16 + 32 + 3, 32)
    for scale, channels in enumerate(([4, 4, 8, 8, 8, 32, 32], [4, 4, 8, 8, 32, 32], [4, 4, 8, 32, 32])):
        parts |= draw.convolution(f"cnn.{scale}.conv_in", 3 * 64, channels[0], 3)
        for block, (features, width) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
            name = f"cnn.{scale}.body.{block}"
            if features != width:
                parts |= draw.convolution(f"{name}.in_conv", features, width, 1)
            parts |= draw.convolution(f"{name}.block1", width, width, 3)
            parts |= draw.convolution(f"{name}.block2", width, width, 1)
        parts |= draw.linear(f"cnn.{scale}.adapter", 32, 32, bias=True)
    clip = "image_encoder.vision_model"
    parts |= {f"{clip}.embeddings.class_embedding": draw(32), f"{clip}.embeddings.position_ids": torch.arange(5)[None]}
    parts |= {f"{clip}.embeddings.patch_embedding.weight": draw(32, 3, 14, 14)}
    parts |= {f"{clip}.embeddings.position_embedding.weight": draw(5, 32)}
    parts |= draw.norm(f"{clip}.pre_layrnorm", 32) | draw.norm(f"{clip}.post_layernorm", 32)
    for layer in range(2):
        name = f"{clip}.encoder.layers.{layer}"
        parts |= draw.norm(f"{name}.layer_norm1", 32) | draw.norm(f"{name}.layer_norm2", 32)
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            parts |= draw.linear(f"{name}.self_attn.{projection}", 32, 32, bias=True)
        parts |= draw.linear(f"{name}.mlp.fc1", 32, 64, bias=True) | draw.linear(f"{name}.mlp.fc2", 64, 32, bias=True)
    return parts | draw.linear("image_encoder.visual_projection", 32, STYLE_WIDTH, bias=False)
