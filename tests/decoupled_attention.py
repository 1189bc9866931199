"""What an IP-Adapter computes, by hand from a file's tensors: a second implementation to hold the nodes against.

In plain formulas, head by head and image by image. Nothing of the pack is used.
"""

from math import sqrt

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def linear(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    y = x @ tensors[f"{name}.weight"].T
    return y + tensors[f"{name}.bias"] if f"{name}.bias" in tensors else y


def norm(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / sqrt(2))) / 2


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Softmax(q kᵀ/√d) v for one picture: (T, D), (N, D), (N, D) to (T, D)."""
    size = q.shape[-1] // heads
    parts = []
    for head in range(heads):
        columns = slice(head * size, (head + 1) * size)
        scores = (q[:, columns] @ k[:, columns].T) / sqrt(size)
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        parts.append(weights @ v[:, columns])
    return torch.cat(parts, -1)


def base_tokens(tensors: Tensors, pooled: Tensor) -> Tensor:
    """One image: (E,) to (N, C)."""
    width = len(tensors["norm.weight"])
    return norm(tensors, "norm", linear(tensors, "proj", pooled).view(-1, width))


def full_face_tokens(tensors: Tensors, hidden: Tensor) -> Tensor:
    return norm(tensors, "proj.3", linear(tensors, "proj.2", gelu(linear(tensors, "proj.0", hidden))))


def resampled_tokens(tensors: Tensors, hidden: Tensor) -> Tensor:
    """One image: (T, E) to (N, C)."""
    latents, hidden = tensors["latents"][0], linear(tensors, "proj_in", hidden)
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers."))
    for layer in range(layers):
        part = {name.removeprefix(f"layers.{layer}."): tensor for name, tensor in tensors.items()}
        seen, asking = norm(part, "0.norm1", hidden), norm(part, "0.norm2", latents)
        both = linear(part, "0.to_kv", torch.cat([seen, asking]))
        inner = both.shape[-1] // 2
        q, k, v = linear(part, "0.to_q", asking), both[:, :inner], both[:, inner:]
        latents = latents + linear(part, "0.to_out", attention(q, k, v, inner // 64))
        latents = latents + linear(part, "1.3", gelu(linear(part, "1.1", norm(part, "1.0", latents))))
    return norm(tensors, "norm_out", linear(tensors, "proj_out", latents))


def styleshot_tokens(tensors: Tensors, styles: Tensor) -> Tensor:
    """One image: (3, E) to (6, C)."""
    parts = [{n.removeprefix(f"{scale}."): t for n, t in tensors.items()} for scale in range(3)]
    return torch.cat([base_tokens(part, style) for part, style in zip(parts, styles, strict=True)])


TOKENS = {
    "base": base_tokens,
    "plus": resampled_tokens,
    "full-face": full_face_tokens,
    "styleshot": styleshot_tokens,
}

# Corners (left, top) of StyleShot's patches within a square of side 16, by its public program: quarters in the order
# top left, bottom left, top right, bottom right; first and last are taken, the two between are cut further.
QUARTERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def patch_corners(level: int) -> list[tuple[int, int]]:
    """In sixteenths of the side. level: 0 for patches of a quarter, 1 of an eighth, 2 of a sixteenth."""
    squares = [(8 * x, 8 * y) for x, y in QUARTERS]
    side = 8
    for depth in range(level + 1):
        side //= 2
        cut = [[(left + side * x, top + side * y) for x, y in QUARTERS] for left, top in squares]
        chosen = (0, 3) if depth == level else (1, 2)
        squares = [quarters[number] for quarters in cut for number in chosen]
    return squares


def patch_embedding(tensors: Tensors, patch: Tensor) -> Tensor:
    """(3, s, s) to (E,)."""
    from torch.nn.functional import conv2d

    side = patch.shape[-1] // 8
    x = patch.view(3, side, 8, side, 8).permute(0, 2, 4, 1, 3).reshape(1, 192, side, side)
    x = conv2d(x, tensors["conv_in.weight"], tensors["conv_in.bias"], padding=1)
    blocks = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("body."))
    for block in range(blocks):
        name = f"body.{block}"
        if block in range(2, blocks - 1):
            x = halved(x)
        if f"{name}.in_conv.weight" in tensors:
            x = conv2d(x, tensors[f"{name}.in_conv.weight"], tensors[f"{name}.in_conv.bias"])
        inner = conv2d(x, tensors[f"{name}.block1.weight"], tensors[f"{name}.block1.bias"], padding=1).clamp(min=0)
        x = x + conv2d(inner, tensors[f"{name}.block2.weight"], tensors[f"{name}.block2.bias"])
    return linear(tensors, "adapter", halved(x).flatten())


def halved(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def style_embeddings(tensors: Tensors, image: Tensor) -> Tensor:
    """StyleShot's encoder on one image (3, 512, 512) in -1…1: (3, E)."""
    rows, starts = [], []
    for scale in range(3):
        part = {n.removeprefix(f"cnn.{scale}."): t for n, t in tensors.items() if n.startswith(f"cnn.{scale}.")}
        side = 512 // 4 // 2**scale
        starts.append(len(rows))
        rows.append(tensors[f"style_embeddings.{scale}"])
        for left, top in patch_corners(scale):
            x, y = 32 * left, 32 * top
            rows.append(patch_embedding(part, image[:, y : y + side, x : x + side]))
    clip = {n.removeprefix("image_encoder.vision_model."): t for n, t in tensors.items()}
    x = norm(clip, "pre_layrnorm", torch.stack(rows) + tensors["position_embedding.weight"])
    for layer in range(2):
        part = {n.removeprefix(f"encoder.layers.{layer}."): t for n, t in clip.items()}
        normed = norm(part, "layer_norm1", x)
        q, k, v = (linear(part, f"self_attn.{name}_proj", normed) for name in "qkv")
        x = x + linear(part, "self_attn.out_proj", attention(q, k, v, 16))
        x = x + linear(part, "mlp.fc2", gelu(linear(part, "mlp.fc1", norm(part, "layer_norm2", x))))
    return linear(tensors, "image_encoder.visual_projection", norm(clip, "post_layernorm", x[starts]))
