"""The text-image pairs that a training is given, of any sizes, and how they are gathered."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .image_captions import caption_within
from .image_sources import read_image
from .pictures import Size, UnusablePictureError, decode, from_values, opened, require_usable
from .prompts import PromptFile, write_prompts
from .text_files import TextFile

# Where captions come from.
WITHIN, COMMON, WIRED, ENCODED = "the pictures' own files", "common_caption", "texts", "conditioning"
MOST_TEXT = 1 << 20  # characters of a caption
NO_CAPTION = "it has no caption"


@dataclass(frozen=True)
class Picture:
    """One picture, by its content: a file's, a wired image's, or a latent that is encoded already.

    digest: SHA-256 of a file's bytes, or of what came over a wire. size: (width, height) in pixels, upright; None for a
    latent. image(): the picture itself, read again; raises ValueError for a file that is not what it was. latent:
    (C, …) as its VAE has made it.
    """

    name: str
    digest: bytes
    size: Size | None = None
    image: Callable[[], Image.Image] | None = field(default=None, repr=False)
    latent: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class EncodedCaption:
    """A caption of which nothing is known but its encoding. digest: of `conditioning`, which only the host can read."""

    digest: bytes
    conditioning: Any = field(repr=False, compare=False)


Caption = str | EncodedCaption


@dataclass(frozen=True, eq=False, repr=False)
class PictureSet:
    """N pairs of pictures and captions.

    pairs: (N, 2), whole numbers: of each the picture, and the caption: one of `captions`, or after these one of
    `encoded`. digest: of all pairs, in their order. scale_up: whether pictures smaller than the size they are trained
    at may be used. As a text it is its length alone: nodes that show any value show it to whoever can reach the server.
    """

    pictures: tuple[Picture, ...]
    captions: PromptFile
    encoded: tuple[EncodedCaption, ...]
    pairs: Tensor
    scale_up: bool
    digest: str

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"{len(self)} text-image pair{'s' * (len(self) != 1)}"


class Gathering:
    """Pairs as they are found, one at a time.

    skipped: (name, why) of what can't be used. origins: how many captions have come from where. repeated: pairs left
    out because there is one of the same picture and the same text.
    """

    def __init__(self, common_caption: str = ""):
        self.common_caption = common_caption
        self.skipped: list[tuple[str, str]] = []
        self.origins: Counter[str] = Counter()
        self.repeated = 0
        self._pictures: dict[bytes, tuple[int, Picture]] = {}
        self._captions: dict[Caption, int] = {}
        self._pairs: dict[tuple[int, int], None] = {}

    def __len__(self) -> int:
        return len(self._pairs)

    def add_file(self, file: TextFile, caption: str, origin: str) -> None:
        """caption: of what lies beside it; empty: what its own metadata says."""
        try:
            data = read_image(file)
            with opened(data) as image:
                size = require_usable(image)
                caption, origin = (caption, origin) if caption else (caption_within(image), WITHIN)
        except UnusablePictureError as error:
            self.skip(file.name, str(error))
            return
        digest = hashlib.sha256(data).digest()
        self._add(Picture(file.name, digest, size, lambda: _again(file, digest)), caption, origin)

    def add_image(self, name: str, pixels: Tensor, caption: Caption) -> None:
        """pixels: (H, W, 1, 3 or 4), from 0 to 1."""
        try:
            image = from_values(pixels.float().cpu().numpy())
        except UnusablePictureError as error:
            self.skip(name, str(error))
            return
        digest = hashlib.sha256(f"{image.size} ".encode() + image.tobytes()).digest()
        self._add(Picture(name, digest, image.size, lambda: image), caption, WIRED)

    def add_latent(self, name: str, latent: Tensor, caption: Caption) -> None:
        """latent: (C, …)."""
        if not latent.isfinite().all():
            self.skip(name, "it has values that are not finite")
            return
        latent = latent.detach().float().cpu().clone()
        digest = hashlib.sha256(f"latent {tuple(latent.shape)} ".encode() + latent.numpy().tobytes()).digest()
        self._add(Picture(name, digest, latent=latent), caption, WIRED)

    def skip(self, name: str, why: str) -> None:
        self.skipped.append((name, why))

    def finish(self, scale_up: bool) -> PictureSet:
        """All of them. Raises ValueError where there are none."""
        if not self._pairs:
            raise ValueError(self._why_none())
        pictures = tuple(picture for _, picture in self._pictures.values())
        digest = hashlib.sha256(b"scaled up" * scale_up)
        captions = list(self._captions)
        for picture, caption in self._pairs:
            digest.update(pictures[picture].digest + _digest(captions[caption]))
        texts = [caption for caption in captions if isinstance(caption, str)]
        encoded = [caption for caption in captions if not isinstance(caption, str)]
        places = {caption: place for place, caption in enumerate([*texts, *encoded])}
        pairs = torch.tensor([(picture, places[captions[caption]]) for picture, caption in self._pairs])
        return PictureSet(pictures, write_prompts(texts), tuple(encoded), pairs, scale_up, digest.hexdigest())

    def _why_none(self) -> str:
        if any(why == NO_CAPTION for _, why in self.skipped):
            return (
                "Put a .txt with a caption beside each picture, or name in column where the captions are, or write a "
                f"common_caption: none of the pictures that can be read has a caption ({len(self.skipped)} left out)."
            )
        reasons = "; ".join(f"{count}x {why}" for why, count in Counter(why for _, why in self.skipped).most_common(3))
        return f"Give pictures that can be used: there are none{f' ({reasons})' * bool(reasons)}."

    def _add(self, picture: Picture, caption: Caption, origin: str) -> None:
        caption, origin = (caption, origin) if caption else (self.common_caption, COMMON)
        if not caption:
            self.skip(picture.name, NO_CAPTION)
            return
        if isinstance(caption, EncodedCaption):
            origin = ENCODED
        elif len(caption) > MOST_TEXT or not _is_whole(caption):
            self.skip(picture.name, "its caption has half a character in it, or is longer than a caption can be")
            return
        row, _ = self._pictures.setdefault(picture.digest, (len(self._pictures), picture))
        pair = row, self._captions.setdefault(caption, len(self._captions))
        if pair in self._pairs:
            self.repeated += 1
            return
        self._pairs[pair] = None
        self.origins[origin] += 1


def _again(file: TextFile, digest: bytes) -> Image.Image:
    """Raises ValueError for a file that is not what it was when it was first read."""
    try:
        data = read_image(file)
        if hashlib.sha256(data).digest() == digest:
            return decode(data)
        why = "it has changed"
    except UnusablePictureError as error:
        why = str(error)
    raise ValueError(f"Queue again, so that the pictures are read anew: {file.name} is not what it was ({why}).")


def _digest(caption: Caption) -> bytes:
    return hashlib.sha256(caption.encode()).digest() if isinstance(caption, str) else caption.digest


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
