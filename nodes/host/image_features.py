"""CLIP_VISION and CLIP as networks of features: of pictures, and of texts in the same space if both are one CLIP's."""

from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .fingerprints import digest_of

EMBEDS = "image_embeds"


class ImageFeatures:
    """The features that a CLIP_VISION sees pictures by. name: which network, and which of its outputs.

    Raises ValueError for what is no CLIP_VISION.
    """

    def __init__(self, clip_vision):
        if not hasattr(clip_vision, "encode_image") or not hasattr(clip_vision, "patcher"):
            raise ValueError(
                "Connect Load CLIP Vision, or clip_vision of SiD Demo Model, as clip_vision: this is a "
                f"{type(clip_vision).__name__}."
            )
        self.clip_vision = clip_vision

    def of(self, pictures: Tensor) -> Tensor:
        """IMAGE (B, H, W, 3) → (B, D) float32 on the CPU. Pictures that are not square are squeezed, not cropped."""
        return self._see(pictures)[1]

    @cached_property
    def digest(self) -> str:
        return digest_of(self.clip_vision.patcher, self.name)

    @cached_property
    def name(self) -> str:
        size = getattr(self.clip_vision, "image_size", None)
        seen = f", {size}x{size} pixels" if size else ""
        return f"{type(self.clip_vision.patcher.model).__name__}{seen}, {self._tried[0]}, {self.width} numbers"

    @property
    def width(self) -> int:
        return self._tried[1].shape[1]

    @property
    def is_projected(self) -> bool:
        """Whether these are a CLIP's image embeddings, which texts may be compared with."""
        return self._tried[0] == EMBEDS

    @cached_property
    def _tried(self) -> tuple[str, Tensor]:
        """What it makes of a grey picture."""
        return self._see(torch.full((1, 64, 64, 3), 0.5))

    def _see(self, pictures: Tensor) -> tuple[str, Tensor]:
        """Which output, and it."""
        with torch.inference_mode():  # in which the host has loaded its weights
            seen = self.clip_vision.encode_image(pictures, crop=False)
        embeds = getattr(seen, EMBEDS, None)
        if isinstance(embeds, Tensor) and embeds.ndim == 2:
            return EMBEDS, embeds.float().cpu()
        hidden = getattr(seen, "last_hidden_state", None)
        if not isinstance(hidden, Tensor) or hidden.ndim != 3:
            raise ValueError(
                "Connect another CLIP_VISION: this one gives neither image_embeds nor a last_hidden_state of tokens."
            )
        return "mean of last_hidden_state", hidden.float().mean(1).cpu()


class TextFeatures:
    """A CLIP's text embeddings in the space of the image features. why_not: what is lacking, where it has none."""

    def __init__(self, clip, images: ImageFeatures):
        self.clip = clip
        self.why_not = self._why_not(images)

    def _why_not(self, images: ImageFeatures) -> str | None:
        if not images.is_projected:
            return "clip_vision gives no image_embeds"
        pooled = self._pooled("a picture")
        if pooled is None:
            return "the text encoder gives no pooled embedding"
        width = pooled.shape[-1]
        if width != images.width:
            return f"the text encoder's embedding has {width} numbers, and clip_vision's has {images.width}"
        for name, module in self.clip.patcher.model.named_modules():
            # The host puts the identity where a checkpoint has none, as those of SD1.5.
            if name.endswith("text_projection") and _is_identity(getattr(module, "weight", None), width):
                return "the text encoder came without its projection, as those of SD1.5 checkpoints do"
        return None

    def of(self, text: str) -> Tensor:
        """(1, D) float32."""
        return self._pooled(text)

    def _pooled(self, text: str) -> Tensor | None:
        pooled = self.clip.encode_from_tokens(self.clip.tokenize(text), return_pooled=True)[1]
        return None if pooled is None else pooled.float().cpu().view(1, -1)


def _is_identity(weight: object, width: int) -> bool:
    fits = isinstance(weight, Tensor) and weight.shape == (width, width)
    return fits and torch.equal(weight.float().cpu(), torch.eye(width))


def likeness(features: Tensor, texts: Tensor) -> Tensor:
    """Cosines (B,) of pictures' features (B, D) with texts' (B, D)."""
    return cosine_similarity(features, texts, dim=1)
