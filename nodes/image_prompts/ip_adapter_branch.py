"""Decoupled cross-attention (IP-Adapter, arXiv 2308.06721): pictures' queries on an image's keys and values."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn.functional import interpolate

from ..host.halves import UNCONDITIONAL
from .attention import attend
from .branches import PLAIN, Change


@dataclass(frozen=True)
class ImageTokens:
    """What an adapter says of images. cond, uncond: (R, N, C), of the images and of what stands against them.

    each_its_own: picture i of a batch follows image i, and the last image all pictures after it; else every picture
    follows all images. Where a pack samples a window of a longer batch (AnimateDiff), i counts in the whole of it.
    """

    cond: Tensor
    uncond: Tensor
    each_its_own: bool = False

    def of_pictures(self, rows: Tensor, pictures: list[int]) -> Tensor:
        """Keys or values (R, N, D) of the images as each picture has them: (pictures, N or R·N, D)."""
        if not self.each_its_own:
            return rows.flatten(0, 1).expand(len(pictures), -1, -1)
        return rows[[min(picture, len(rows) - 1) for picture in pictures]]


class Mask:
    """Where in the picture an image prompt acts: a MASK (M, H, W), for picture i its i-th, or its last."""

    def __init__(self, mask: Tensor):
        self.mask = mask
        self.resized: dict[tuple, Tensor] = {}

    def of_pictures(self, like: Tensor, shape: Iterable[int], pictures: list[int]) -> Tensor:
        """(pictures, h·w, 1), as `like` in precision and place. shape: (h, w) of the layer."""
        height, width = shape
        key = (height, width, like.device, like.dtype)
        if key not in self.resized:
            fitted = interpolate(self.mask[:, None].float(), (height, width), mode="bilinear", antialias=True)
            self.resized[key] = fitted.flatten(1).unsqueeze(-1).to(like)
        masks = self.resized[key]
        return masks[[min(picture, len(masks) - 1) for picture in pictures]]


class AdapterBranch:
    """One IP-Adapter in one layer.

    weights: the IPAdapter network as ComfyUI manages it. layer: its number among the file's. tokens: shared by all
    layers of one node, as is mask. weight: what its attention is multiplied by; 0 is off. sigma_start, sigma_end: the
    noise levels between which it acts, the greater first.
    """

    def __init__(
        self,
        weights: ModelPatcher,
        layer: int,
        tokens: ImageTokens,
        weight: float = 1.0,
        mask: Mask | None = None,
        sigma_start: float = float("inf"),
        sigma_end: float = 0.0,
    ):
        self.weights = weights
        self.layer = layer
        self.tokens = tokens
        self.weight = weight
        self.mask = mask
        self.sigma_start = sigma_start
        self.sigma_end = sigma_end
        self.projected: dict[tuple, Tensor] = {}

    @property
    def image_tokens(self) -> tuple[Tensor, ...]:
        return (self.tokens.cond,)

    def is_active(self, sigma: float) -> bool:
        return self.weight != 0 and self.sigma_end <= sigma <= self.sigma_start

    def __call__(
        self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any], change: Change = PLAIN
    ) -> Tensor:
        chunks = extra_options["cond_or_uncond"]
        pictures = _pictures(extra_options, len(q) // len(chunks))
        keys, values = (self._of_chunks(which, q, chunks, pictures, change) for which in "kv")
        added = attend(q, keys, values, extra_options) * self.weight
        if self.mask is not None:
            mask = self.mask.of_pictures(added, extra_options["activations_shape"][-2:], pictures)
            added = added * mask.repeat(len(chunks), 1, 1)
        return added

    def to(self, device_or_dtype: torch.device | torch.dtype) -> "AdapterBranch":
        """Called by ComfyUI where it moves the MODEL: what was kept elsewhere is let go."""
        if isinstance(device_or_dtype, torch.device):
            self.projected = {key: rows for key, rows in self.projected.items() if rows.device == device_or_dtype}
            if self.mask is not None:
                self.mask.resized = {
                    key: mask for key, mask in self.mask.resized.items() if mask.device == device_or_dtype
                }
        return self

    def models(self) -> list[ModelPatcher]:
        return [self.weights]

    def _of_chunks(self, which: str, q: Tensor, chunks: list[int], pictures: list[int], change: Change) -> Tensor:
        """Keys or values for a whole batch: (chunks·pictures, N, D)."""
        cond, uncond = self.tokens.cond, self.tokens.uncond
        project = self._projection(which, q)
        rows = {}
        for half in {chunk == UNCONDITIONAL for chunk in chunks}:
            changed = change.uncond(which, project, uncond, cond) if half else change.cond(which, project, cond)
            rows[half] = self.tokens.of_pictures(changed, pictures)
        # Always new tensors: what is kept may be of inference mode, which training through this layer can't use.
        return torch.cat([rows[chunk == UNCONDITIONAL] for chunk in chunks])

    def _projection(self, which: str, q: Tensor) -> Callable[[Tensor], Tensor]:
        """This layer's projection to keys or values, in the place and precision of q; its own tokens' is kept."""
        network = self.weights.model
        layer = (network.to_k_ip if which == "k" else network.to_v_ip)[self.layer]

        def project(tokens: Tensor) -> Tensor:
            if tokens is not self.tokens.cond and tokens is not self.tokens.uncond:
                return layer(tokens.to(q.device, q.dtype))
            key = (which, tokens is self.tokens.cond, q.device, q.dtype)
            if key not in self.projected:
                self.projected[key] = layer(tokens.to(q.device, q.dtype))
            return self.projected[key]

        return project


def _pictures(extra_options: dict[str, Any], count: int) -> list[int]:
    """Which pictures of the whole batch a chunk holds. AnimateDiff's packs sample windows of a long batch."""
    window = (extra_options.get("ad_params") or {}).get("sub_idxs")
    return list(range(count)) if window is None else [int(index) for index in window]
