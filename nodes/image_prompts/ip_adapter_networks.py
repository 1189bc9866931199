"""The networks of IP-Adapter files: image tokens from what an encoder sees, and each layer's keys and values.

Modules have the names that the tensors have in the files. Everything that can be is read from the tensors' shapes.
"""

import comfy.ops
import torch
from torch import Tensor, nn

OPS = comfy.ops.manual_cast  # weights stay where ComfyUI has put them, in the file's precision, and are cast when used
HEAD = 64  # channels of an attention head in every published resampler; shapes tell their product with the heads alone

POOLED, HIDDEN, STYLE = "pooled", "hidden", "style"  # what a projection takes of the image


class TokenProjection(nn.Module):
    """Base adapters: N tokens by one linear layer, from the pooled and projected embedding of CLIP vision."""

    takes = POOLED

    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__()
        self.width = tensors["norm.weight"].shape[0]
        self.features = tensors["proj.weight"].shape[1]
        self.proj = linear_like(tensors["proj.weight"], bias=True)
        self.norm = norm_like(tensors["norm.weight"])

    def forward(self, embeds: Tensor) -> Tensor:
        """(R, E) to (R, N, C)."""
        return self.norm(self.proj(embeds).unflatten(-1, (-1, self.width)))


class HiddenProjection(nn.Module):
    """Full-face adapters: every token of CLIP vision's last but one layer by itself through a small network."""

    takes = HIDDEN

    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__()
        self.width = tensors["proj.3.weight"].shape[0]
        self.features = tensors["proj.0.weight"].shape[1]
        self.proj = nn.Sequential(
            linear_like(tensors["proj.0.weight"], bias=True),
            nn.GELU(),
            linear_like(tensors["proj.2.weight"], bias=True),
            norm_like(tensors["proj.3.weight"]),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """(R, T, E) to (R, T, C)."""
        return self.proj(hidden)


class PerceiverAttention(nn.Module):
    """Learned tokens attend to the image's and to each other (Perceiver resampler, arXiv 2204.14198)."""

    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__()
        self.norm1 = norm_like(tensors["norm1.weight"])
        self.norm2 = norm_like(tensors["norm2.weight"])
        self.to_q = linear_like(tensors["to_q.weight"])
        self.to_kv = linear_like(tensors["to_kv.weight"])
        self.to_out = linear_like(tensors["to_out.weight"])

    def forward(self, hidden: Tensor, latents: Tensor) -> Tensor:
        hidden, latents = self.norm1(hidden), self.norm2(latents)
        k, v = self.to_kv(torch.cat([hidden, latents], 1)).chunk(2, -1)
        q, k, v = (x.unflatten(-1, (-1, HEAD)).transpose(1, 2) for x in (self.to_q(latents), k, v))
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.to_out(attended.transpose(1, 2).flatten(2))


class Resampler(nn.Module):
    """Plus adapters: N learned tokens, resampled from CLIP vision's last but one layer."""

    takes = HIDDEN

    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__()
        self.width = tensors["norm_out.weight"].shape[0]
        self.features = tensors["proj_in.weight"].shape[1]
        self.latents = nn.Parameter(torch.empty_like(tensors["latents"]), requires_grad=False)
        self.proj_in = linear_like(tensors["proj_in.weight"], bias=True)
        self.proj_out = linear_like(tensors["proj_out.weight"], bias=True)
        self.norm_out = norm_like(tensors["norm_out.weight"])
        self.layers = nn.ModuleList(self._layer(part) for part in numbered(tensors, "layers."))

    @staticmethod
    def _layer(tensors: dict[str, Tensor]) -> nn.ModuleList:
        feed_forward = nn.Sequential(
            norm_like(tensors["1.0.weight"]),
            linear_like(tensors["1.1.weight"]),
            nn.GELU(),
            linear_like(tensors["1.3.weight"]),
        )
        return nn.ModuleList([PerceiverAttention(under(tensors, "0.")), feed_forward])

    def forward(self, hidden: Tensor) -> Tensor:
        """(R, T, E) to (R, N, C)."""
        latents = self.latents.to(hidden).expand(len(hidden), -1, -1)
        hidden = self.proj_in(hidden)
        for attention, feed_forward in self.layers:
            latents = latents + attention(hidden, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))


class StyleProjections(nn.ModuleList):
    """StyleShot: a few tokens for each scale that its encoder looks at."""

    takes = STYLE

    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__(TokenProjection(part) for part in numbered(tensors, ""))
        self.width = self[0].width
        self.features = self[0].features

    def forward(self, styles: Tensor) -> Tensor:
        """(R, scales, E) to (R, N, C)."""
        return torch.cat([project(style) for project, style in zip(self, styles.unbind(1), strict=True)], 1)


class IPAdapter(nn.Module):
    """A whole file: the projection to image tokens, and the keys and values of each cross-attention layer in order.

    layers: of each, the weights by "k" and "v".
    """

    def __init__(self, projection: nn.Module, layers: list[dict[str, Tensor]]):
        super().__init__()
        self.projection = projection
        self.to_k_ip = nn.ModuleList(linear_like(layer["k"]) for layer in layers)
        self.to_v_ip = nn.ModuleList(linear_like(layer["v"]) for layer in layers)

    @property
    def widths(self) -> list[int]:
        """Of keys and values, layer by layer."""
        return [layer.out_features for layer in self.to_k_ip]


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose name begins with `prefix`, by the rest of it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def numbered(tensors: dict[str, Tensor], prefix: str) -> list[dict[str, Tensor]]:
    """Those called prefix0.…, prefix1.…, one dict for each number, in their order. Raises KeyError for other names."""
    inner = under(tensors, prefix)
    numbers = {name.partition(".")[0] for name in inner}
    if numbers != {str(number) for number in range(len(numbers))}:
        raise KeyError(f"{prefix}0 to {prefix}{len(numbers) - 1}")
    return [under(inner, f"{number}.") for number in range(len(numbers))]


def linear_like(weight: Tensor, bias: bool = False) -> nn.Module:
    return OPS.Linear(weight.shape[1], weight.shape[0], bias=bias, dtype=weight.dtype, device="cpu")


def norm_like(weight: Tensor) -> nn.Module:
    return OPS.LayerNorm(weight.shape[0], dtype=weight.dtype, device="cpu")
