"""Pictures out of image files of any kind, as 8-bit RGB, and cut to the sizes that they are trained at."""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageFile

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # not those for which PIL starts other programs
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MOST_PIXELS = 100_000_000
ORIENTATION = 0x0112  # in EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Size = tuple[int, int]  # width, height


class UnusablePictureError(ValueError):
    """A picture can't be trained on. Its text says why, of "it"."""


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """An image file's first picture, not decoded yet. Whatever goes wrong within is an UnusablePictureError."""
    kept, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False  # other packs leave it switched on
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UnusablePictureError(f"it has more than {MOST_PIXELS // 1_000_000} megapixels")
            yield image
    except UnusablePictureError:
        raise
    except (Image.DecompressionBombError, MemoryError):
        raise UnusablePictureError(f"it has more than {MOST_PIXELS // 1_000_000} megapixels") from None
    except Image.UnidentifiedImageError:
        raise UnusablePictureError(f"it is damaged, or none of {', '.join(FORMATS)}") from None
    except Exception:  # noqa: BLE001  of all kinds, as each format's decoder has its own
        raise UnusablePictureError("it is damaged, or cut short") from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = kept


def decode(data: bytes) -> Image.Image:
    """An image file's first picture: upright, over white where it is transparent, 8 bits of RGB.

    Colour profiles are not applied. Raises UnusablePictureError.
    """
    with opened(data) as image:
        image.load()
        rgb = _rgb(image)
        turn = TURNS.get(_orientation(image))
        return rgb if turn is None else rgb.transpose(turn)


def require_usable(image: Image.Image) -> Size:
    """Read all of an opened picture's data, for what may be wrong with it; → its size once it is upright.

    Where that saves time, the picture itself is made smaller.
    """
    width, height = image.size
    if is_jpeg := image.format in ("JPEG", "MPO"):
        image.draft(None, (width // 8, height // 8))
    image.load()
    _rgb(image)
    size = (width, height) if is_jpeg else image.size
    return size[::-1] if _orientation(image) >= 5 else size


def from_values(values: np.ndarray) -> Image.Image:
    """A picture out of numbers (H, W, 1, 3 or 4) from 0 to 1; the fourth is opacity. Raises UnusablePictureError."""
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or 0 in values.shape:
        raise UnusablePictureError(f"its shape is {values.shape}, not height, width and 1, 3 or 4 channels")
    if not np.isfinite(values).all():
        raise UnusablePictureError("it has values that are not finite")
    levels = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return _rgb(Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels))


def _orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF has it; 1 where nothing that makes sense is said. To be asked once the picture is loaded: PIL
    turns TIFFs itself while it loads them, and then says 1."""
    try:
        said = image.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001  whatever is wrong with it, the picture itself may be whole
        return 1
    return said if said in TURNS else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.mode == "F":
        raise UnusablePictureError("it has fractions for values, of which nothing says what is white")
    if "a" not in image.mode.lower() and "transparency" not in image.info:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey; PIL would cut off what is above 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UnusablePictureError("it has values of 32 bits, of which nothing says what is white")
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if (clear := image.info.get("transparency")) is None:
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))))


def covers(size: Size, target: Size) -> bool:
    """Whether a picture of that size need not be scaled up to fill the target."""
    return size[0] >= target[0] and size[1] >= target[1]


def nearest_size(size: Size, targets: Sequence[Size]) -> int:
    """The target whose aspect is nearest to the picture's, by the ratio of both; the largest of them that the picture
    covers where several are as near, and the smallest where it covers none."""

    def off(target: Size) -> float:
        return abs(math.log(size[0] * target[1] / (size[1] * target[0])))

    least = min(map(off, targets))
    nearest = [i for i, target in enumerate(targets) if off(target) < least + 1e-9]
    covered = [i for i in nearest if covers(size, targets[i])]
    area = {i: math.prod(targets[i]) for i in nearest}
    return max(covered, key=area.get) if covered else min(nearest, key=area.get)


def fit(image: Image.Image, target: Size) -> Image.Image:
    """Scaled to cover the target, by Lanczos' kernel and antialiased, and cut to its middle."""
    scale = max(target[0] / image.width, target[1] / image.height)
    kept = [min(side / scale, whole) for side, whole in zip(target, image.size, strict=True)]
    left, top = ((whole - side) / 2 for whole, side in zip(image.size, kept, strict=True))
    box = (left, top, left + kept[0], top + kept[1])
    return image.resize(target, Image.Resampling.LANCZOS, box=box)
