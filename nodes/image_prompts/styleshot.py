"""StyleShot's style-aware encoder (arXiv 2407.01414): patches of three sizes, read together by a CLIP transformer."""

from math import isqrt

import comfy.clip_model
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pixel_unshuffle

from .ip_adapter_networks import OPS, linear_like, numbered, under

SIZE = 512  # of the picture whose patches are taken
UNSHUFFLE = 8
HEADS = 16  # of CLIP ViT-H, the only transformer it has been published with; shapes do not tell


class StyleEncoder(nn.Module):
    """What style_aware_encoder.bin holds. Modules have the names that the tensors have in it."""

    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__()
        self.image_encoder = _clip(under(tensors, "image_encoder."))
        self.cnn = nn.ModuleList(_PatchNetwork(part) for part in numbered(tensors, "cnn."))
        self.style_embeddings = nn.ParameterList(
            nn.Parameter(torch.empty_like(tensors[f"style_embeddings.{scale}"]), requires_grad=False)
            for scale in range(len(self.cnn))
        )
        positions = tensors["position_embedding.weight"]
        self.position_embedding = OPS.Embedding(*positions.shape, dtype=positions.dtype, device="cpu")

    def forward(self, images: Tensor) -> Tensor:
        """(R, 3, SIZE, SIZE) in -1…1, to (R, scales, E): one embedding for each size of patches, largest first.

        The authors shuffle the patches of a size at random each time; here they are in the order they are cut in, one
        of those orders, so that an image always gives the same tokens.
        """
        sequences = []
        for network, style, patches in zip(self.cnn, self.style_embeddings, patches_of(images), strict=True):
            seen = network(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
            sequences += [style.to(seen).expand(len(images), 1, -1), seen]
        starts = torch.tensor([sequence.shape[1] for sequence in sequences]).cumsum(0)[1::2]
        tokens = torch.cat(sequences, 1)
        transformer = self.image_encoder.vision_model
        tokens = transformer.pre_layrnorm(tokens + self.position_embedding.weight.to(tokens))
        tokens, _ = transformer.encoder(tokens)
        styles = tokens[:, [0, *starts[:-1].tolist()]]
        return self.image_encoder.visual_projection(transformer.post_layernorm(styles))


def _clip(tensors: dict[str, Tensor]) -> nn.Module:
    """ComfyUI's CLIP vision of these tensors' sizes."""
    patches = tensors["vision_model.embeddings.patch_embedding.weight"]
    positions = tensors["vision_model.embeddings.position_embedding.weight"]
    layers = numbered(tensors, "vision_model.encoder.layers.")
    config = {
        "model_type": "clip_vision_model",
        "hidden_act": "gelu",
        "num_attention_heads": HEADS,
        "num_hidden_layers": len(layers),
        "hidden_size": patches.shape[0],
        "num_channels": patches.shape[1],
        "patch_size": patches.shape[-1],
        "image_size": isqrt(len(positions) - 1) * patches.shape[-1],
        "intermediate_size": layers[0]["mlp.fc1.weight"].shape[0],
        "projection_dim": tensors["visual_projection.weight"].shape[0],
    }
    return comfy.clip_model.CLIPVisionModelProjection(config, patches.dtype, "cpu", OPS)


class _PatchNetwork(nn.Module):
    """One embedding of a patch, by a convolutional network that shrinks it to one pixel."""

    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__()
        blocks = numbered(tensors, "body.")
        # Pooling has no tensors to tell it: it is before all blocks but the first two and the last.
        self.body = nn.ModuleList(
            _Residual(block, halved=2 <= number < len(blocks) - 1) for number, block in enumerate(blocks)
        )
        self.conv_in = _convolution_like(tensors["conv_in.weight"])
        self.adapter = linear_like(tensors["adapter.weight"], bias=True)

    def forward(self, patches: Tensor) -> Tensor:
        """(P, 3, s, s) to (P, E)."""
        x = self.conv_in(pixel_unshuffle(patches, UNSHUFFLE))
        for block in self.body:
            x = block(x)
        return self.adapter(avg_pool2d(x, 2).flatten(1))


class _Residual(nn.Module):
    def __init__(self, tensors: dict[str, Tensor], halved: bool):
        super().__init__()
        self.halved = halved
        self.in_conv = _convolution_like(tensors["in_conv.weight"]) if "in_conv.weight" in tensors else nn.Identity()
        self.block1 = _convolution_like(tensors["block1.weight"])
        self.block2 = _convolution_like(tensors["block2.weight"])

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_conv(avg_pool2d(x, 2) if self.halved else x)
        return x + self.block2(self.block1(x).relu())


def _convolution_like(weight: Tensor) -> nn.Module:
    width, features, size, _ = weight.shape
    return OPS.Conv2d(features, width, size, padding=size // 2, dtype=weight.dtype, device="cpu")


def prepared(images: Tensor) -> Tensor:
    """IMAGE (R, H, W, 3) in 0…1 as the encoder takes it: its middle square, (R, 3, SIZE, SIZE) in -1…1."""
    pixels = images[..., :3].movedim(-1, 1).float()
    scale = SIZE / min(pixels.shape[-2:])
    size = [max(SIZE, int(side * scale)) for side in pixels.shape[-2:]]
    pixels = interpolate(pixels, size, mode="bilinear", antialias=True).clamp(0, 1)
    top, left = ((side - SIZE) // 2 for side in size)
    return pixels[..., top : top + SIZE, left : left + SIZE] * 2 - 1


def patches_of(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """8, 16 and 32 patches of a quarter, an eighth and a sixteenth of the side: (R, P, 3, s, s), largest first.

    Of each square's quarters, the two on the falling diagonal are patches, the other two are divided further; only the
    whole picture's quarters are all divided.
    """
    large, middle, small = [], [], []
    for quarter in _quarters(images):
        divided = _diagonal_and_rest(quarter, large)
        divided = [part for square in divided for part in _diagonal_and_rest(square, middle)]
        for square in divided:
            _diagonal_and_rest(square, small)
    return torch.stack(large, 1), torch.stack(middle, 1), torch.stack(small, 1)


def _diagonal_and_rest(square: Tensor, patches: list[Tensor]) -> tuple[Tensor, Tensor]:
    top_left, bottom_left, top_right, bottom_right = _quarters(square)
    patches += [top_left, bottom_right]
    return bottom_left, top_right


def _quarters(square: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Column by column: top left, bottom left, top right, bottom right."""
    left, right = square.chunk(2, -1)
    return *left.chunk(2, -2), *right.chunk(2, -2)
