"""An image prompt for the demo model, in the layout of IP-Adapter-plus: what it sees, and its network.

EfficientNet-lite0 looks at the picture, as it does for the demo protocol; IP-Adapter has CLIP there. The file's
weights have IP-Adapter's names, so the pack's own nodes load it.
"""

from collections.abc import Callable, Iterator

import torch
from emoji import ASSETS
from features import BATCH, MEAN, SIDE, STD
from torch import Tensor, nn

ADAPTER = ASSETS / "image_prompt.safetensors"
TOKENS = 16
WIDTH = 128
HEAD_WIDTH = 64
DEPTH = 2
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


class PerceiverAttention(nn.Module):
    """The latents look at the picture's regions and at themselves; heads of 64, no biases."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, regions: Tensor, latents: Tensor) -> Tensor:
        latents = self.norm2(latents)
        keys, values = self.to_kv(torch.cat([self.norm1(regions), latents], dim=1)).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2) for x in (self.to_q(latents), keys, values))
        attended = nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
        return self.to_out(attended.transpose(1, 2).flatten(2).to(q.dtype))


class Resampler(nn.Module):
    """What is seen of a picture (B, M, seen) → its tokens (B, TOKENS, WIDTH)."""

    def __init__(self, seen: int = SEEN):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, TOKENS, WIDTH) / WIDTH**0.5)
        self.proj_in = nn.Linear(seen, WIDTH)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PerceiverAttention(WIDTH),
                    nn.Sequential(
                        nn.LayerNorm(WIDTH),
                        nn.Linear(WIDTH, 4 * WIDTH, bias=False),
                        nn.GELU(),
                        nn.Linear(4 * WIDTH, WIDTH, bias=False),
                    ),
                ]
            )
            for _ in range(DEPTH)
        )
        self.proj_out = nn.Linear(WIDTH, WIDTH)
        self.norm_out = nn.LayerNorm(WIDTH)

    def forward(self, seen: Tensor) -> Tensor:
        regions = self.proj_in(seen)
        latents = self.latents.expand(len(seen), -1, -1)
        for attention, feed_forward in self.layers:
            latents = latents + attention(regions, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))


class KeysAndValues(nn.Module):
    """One layer's keys and values of image tokens; as in IP-Adapter they begin as copies of the text's."""

    def __init__(self, attention: nn.Module):
        super().__init__()
        inner, context = attention.to_k.weight.shape
        self.to_k_ip, self.to_v_ip = (nn.Linear(context, inner, bias=False) for _ in range(2))
        self.to_k_ip.weight.data.copy_(attention.to_k.weight)
        self.to_v_ip.weight.data.copy_(attention.to_v.weight)


class ImagePrompt(nn.Module):
    """The whole adapter of a UNet. Its state dict has IP-Adapter's names: layers are numbered 1, 3, 5, …"""

    def __init__(self, unet: nn.Module):
        super().__init__()
        layers = list(cross_attentions(unet))
        self.image_proj = Resampler()
        self.ip_adapter = nn.ModuleDict({str(2 * i + 1): KeysAndValues(layer) for i, (_, layer) in enumerate(layers)})
        self.keys = [key for key, _ in layers]

    def replacements(self, tokens: Tensor, attend: Callable) -> dict[tuple, Callable]:
        """For the host's `patches_replace["attn2"]`: text attention and, beside it, attention to tokens (B, N, C)."""

        def replacement(layer: KeysAndValues) -> Callable:
            def attention(q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
                heads = extra_options["n_heads"]
                image = attend(q, layer.to_k_ip(tokens), layer.to_v_ip(tokens), heads)
                return attend(q, k, v, heads) + image

            return attention

        return {key: replacement(layer) for key, layer in zip(self.keys, self.ip_adapter.values(), strict=True)}


def cross_attentions(unet: nn.Module) -> Iterator[tuple[tuple[str, int], nn.Module]]:
    """Key in the host's `patches_replace` and module of each cross-attention, in IP-Adapter's order: down, up, middle."""
    parts = [("input", unet.input_blocks), ("output", unet.output_blocks), ("middle", [unet.middle_block])]
    for part, blocks in parts:
        for number, block in enumerate(blocks):
            for name, module in block.named_modules():
                if name.endswith(".attn2"):
                    yield (part, number), module
