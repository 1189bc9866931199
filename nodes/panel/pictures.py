"""Previews as the browser gets them: small, and drawn anew, so that whatever else a file holds stays where it is."""

import io
from pathlib import Path

from PIL import Image

WIDEST, HIGHEST = 1024, 4096  # pixels
LARGEST = 100_000_000  # pixels that are read
QUALITY = 88


class NotAPictureError(ValueError):
    """A file is no PNG of a size that previews have."""


def as_jpeg(path: Path) -> bytes:
    """The PNG of a preview as a JPEG, made smaller where it is large. Raises NotAPictureError."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.width * picture.height > LARGEST:
                raise NotAPictureError(f"it has {picture.width} x {picture.height} pixels")
            shown = picture.convert("RGB")
    except Exception as error:
        # Damaged files raise most of Python's kinds of errors.
        raise NotAPictureError(str(error)) from error
    shown.thumbnail((WIDEST, HIGHEST))
    encoded = io.BytesIO()
    shown.save(encoded, "JPEG", quality=QUALITY)
    return encoded.getvalue()
