"""Pictures of every kind against arrays that are computed by hand, and files that no picture can be made of."""

import io
import struct
import zlib
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageFile

from sid_pack.sid_core.data.pictures import (
    UnusablePictureError,
    decode,
    fit,
    from_values,
    nearest_size,
    opened,
    require_usable,
)

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY, ALPHA = RGB[:, :, 0], RGB[:, :, 1]


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """As a training sees it; it is looked at first, as a training does."""
    with opened(data) as image:
        size = require_usable(image)
    picture = decode(data)
    assert picture.mode == "RGB" and picture.size == size
    return np.asarray(picture)


def over_white(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    opacity = alpha[..., None] / 255
    return values * opacity + 255 * (1 - opacity)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, -1)


def png_of_16_bits(values: np.ndarray, colour: int) -> bytes:
    """PIL writes no 16-bit colour. values: (H, W, channels); colour: PNG's colour type."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


SIDES = {  # of the picture as it is seen, where EXIF's orientation puts the stored first row, and the first column
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


@pytest.mark.parametrize(("orientation", "sides"), SIDES.items())
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_picture_is_turned_as_exif_says(orientation, sides, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(RGB), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    height, width, _ = RGB.shape
    expected = np.zeros((height, width, 3) if orientation < 5 else (width, height, 3), np.uint8)
    tall, wide = expected.shape[:2]
    for row in range(height):
        for column in range(width):
            at = {}
            for side, index in zip(sides, (row, column), strict=True):
                axis = "y" if side in ("top", "bottom") else "x"
                last = (tall if axis == "y" else wide) - 1
                at[axis] = index if side in ("top", "left") else last - index
            expected[at["y"], at["x"]] = RGB[row, column]
    assert np.array_equal(decoded(data), expected)


def test_an_orientation_that_there_is_not_turns_nothing():
    exif = Image.Exif()
    exif[0x0112] = 77
    assert np.array_equal(decoded(saved(Image.fromarray(RGB), exif=exif)), RGB)
    assert np.array_equal(decoded(saved(Image.fromarray(RGB), exif=b"Exif\0\0MM\0*broken")), RGB)


PALETTE = RANDOM.integers(0, 256, (16, 3), dtype=np.uint8)
INDEX = RANDOM.integers(0, 16, (5, 7), dtype=np.uint8)
OPACITY = RANDOM.integers(0, 256, 16, dtype=np.uint8)
FINE = RANDOM.integers(0, 65536, (5, 7, 4), dtype=np.uint16)


def paletted(**options) -> bytes:
    image = Image.fromarray(INDEX, "P")
    image.putpalette(PALETTE.tobytes())
    return saved(image, **options)


def with_key(clear) -> np.ndarray:
    values = RGB.copy()
    values[1:3, 2:4] = clear
    return values


MODES = {
    "1": (saved(Image.fromarray(GREY > 99)), grey(np.where(GREY > 99, 255, 0))),
    "L": (saved(Image.fromarray(GREY)), grey(GREY)),
    "LA": (saved(Image.fromarray(np.stack([GREY, ALPHA], -1), "LA")), over_white(grey(GREY), ALPHA)),
    "P": (paletted(), PALETTE[INDEX]),
    "P, one clear": (paletted(transparency=3), np.where((INDEX == 3)[..., None], 255, PALETTE[INDEX])),
    "P, opacities": (paletted(transparency=OPACITY.tobytes()), over_white(PALETTE[INDEX], OPACITY[INDEX])),
    "GIF": (paletted(kind="GIF"), PALETTE[INDEX]),
    "GIF, one clear": (paletted(kind="GIF", transparency=3), np.where((INDEX == 3)[..., None], 255, PALETTE[INDEX])),
    "RGB": (saved(Image.fromarray(RGB)), RGB),
    "RGB, one clear": (
        saved(Image.fromarray(with_key((7, 8, 9))), transparency=(7, 8, 9)), with_key((255, 255, 255))
    ),
    "RGBA": (saved(Image.fromarray(np.dstack([RGB, ALPHA]))), over_white(RGB, ALPHA)),
    "RGBA, WebP": (
        saved(Image.fromarray(np.dstack([RGB, ALPHA])), "WEBP", lossless=True, exact=True), over_white(RGB, ALPHA)
    ),
    "RGBA, TIFF": (saved(Image.fromarray(np.dstack([RGB, ALPHA])), "TIFF"), over_white(RGB, ALPHA)),
    "CMYK": (
        saved(Image.fromarray(np.dstack([RGB, ALPHA]), "CMYK"), "TIFF"),
        (255 - RGB.astype(float)) * (255 - ALPHA[..., None].astype(float)) / 255,
    ),
    "BMP": (saved(Image.fromarray(RGB), "BMP"), RGB),
    "16 bits": (saved(Image.fromarray(FINE[:, :, 0])), grey(FINE[:, :, 0] / 257)),
    "16 bits, TIFF": (saved(Image.fromarray(FINE[:, :, 0]), "TIFF"), grey(FINE[:, :, 0] / 257)),
    "16 bits, LA": (png_of_16_bits(FINE[:, :, :2], 4), over_white(grey(FINE[:, :, 0] / 257), FINE[:, :, 1] / 257)),
    "16 bits, RGB": (png_of_16_bits(FINE[:, :, :3], 2), FINE[:, :, :3] / 257),
    "16 bits, RGBA": (png_of_16_bits(FINE, 6), over_white(FINE[:, :, :3] / 257, FINE[:, :, 3] / 257)),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_the_picture_that_its_values_mean(mode):
    data, expected = MODES[mode]
    # Of 16 bits of colour PIL keeps the upper 8, and of opacity as well.
    assert np.abs(decoded(data) - expected).max() <= (1.5 if "16" in mode else 1.01)


def test_16_bits_with_a_clear_value():
    values = FINE[:, :, 0].copy()
    values[1:3, 2:4] = 4660
    data = saved(Image.fromarray(values), transparency=4660)
    assert np.abs(decoded(data) - grey(np.where(values == 4660, 255, values / 257))).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_jpegs_are_near_what_was_saved(mode):
    ramp = np.linspace(30, 220, 64).astype(np.uint8)
    smooth = np.dstack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 90, np.uint8)])
    picture = Image.fromarray(smooth).convert(mode)
    expected = np.asarray(picture.convert("RGB")).astype(int)
    if mode == "CMYK":
        inks = np.asarray(picture).astype(float)
        expected = (255 - inks[:, :, :3]) * (255 - inks[:, :, 3:]) / 255
    assert np.abs(decoded(saved(picture, "JPEG", quality=98)) - expected).max() < 8


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_it_is_the_first_picture(kind):
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    data = saved(first, kind, save_all=True, append_images=[second], **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 2
    assert (decoded(data) == (255, 0, 0)).all()


def noise(side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize("loading_truncated", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_file_that_is_cut_short_is_refused_wherever_it_is_cut(kind, loading_truncated, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", loading_truncated)  # as other packs leave it
    data = saved(noise(), kind)
    for part in (0, 1, 7, 20, 50, *(len(data) * tenths // 10 for tenths in range(1, 10))):
        with pytest.raises(UnusablePictureError, match="damaged"):
            decoded(data[:part])
    assert loading_truncated == ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_header_that_promises_a_picture_of_30_000_pixels_a_side_is_refused_before_it_is_read():
    data = bytearray(saved(noise()))
    data[16:24] = struct.pack(">II", 30_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(UnusablePictureError, match="more than 100 megapixels"):
        decoded(bytes(data))
    data[16:24] = struct.pack(">II", 11_000, 11_000)  # not so many that PIL itself would mind
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(UnusablePictureError, match="more than 100 megapixels"):
        decoded(bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",  # for which PIL would start another program
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        saved(Image.fromarray(RGB.astype(np.float32)[:, :, 0]), "TIFF"),
        saved(Image.fromarray(RGB.astype(np.int32)[:, :, 0] * 100_000), "TIFF"),
    ],
)
def test_what_no_picture_can_be_made_of_is_refused(data):
    with pytest.raises(UnusablePictureError):
        decoded(data)


def test_values_of_a_wire_are_rounded_and_transparency_is_over_white():
    values = RANDOM.random((4, 6, 4))
    assert np.abs(np.asarray(from_values(values[:, :, :3])) - values[:, :, :3] * 255).max() <= 0.5
    assert np.abs(np.asarray(from_values(values)) - over_white(values[:, :, :3] * 255, values[:, :, 3] * 255)).max() < 2
    assert np.abs(np.asarray(from_values(values[:, :, :1])) - values[:, :, :1] * 255).max() <= 0.5
    assert np.asarray(from_values(np.array([[[-3.0, 0.5, 7.0]]]))).tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize(
    "values", [np.full((4, 4, 3), np.nan), np.full((4, 4, 3), np.inf), np.zeros((4, 4, 2)), np.zeros((0, 4, 3))]
)
def test_values_that_make_no_picture_are_refused(values):
    with pytest.raises(UnusablePictureError):
        from_values(values)


def lanczos(values: np.ndarray, first: float, last: float, count: int) -> np.ndarray:
    """The first axis from `first` to `last` as `count` values, by Lanczos' kernel of three lobes, as wide as a step."""
    step = (last - first) / count
    wide = max(step, 1.0)
    centres = first + (np.arange(count) + 0.5) * step
    distance = (np.arange(len(values)) + 0.5 - centres[:, None]) / wide
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    return np.tensordot(weights / weights.sum(1, keepdims=True), values, 1)


@pytest.mark.parametrize(
    ("size", "target"),
    [((100, 60), (40, 40)), ((60, 100), (40, 40)), ((64, 64), (64, 64)), ((31, 53), (32, 48)), ((90, 50), (24, 40))],
)
def test_a_picture_is_scaled_to_cover_and_cut_to_its_middle(size, target):
    values = np.random.default_rng(2).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    scale = max(Fraction(target[0], size[0]), Fraction(target[1], size[1]))
    edges = [(float(side - goal / scale) / 2, float(side + goal / scale) / 2) for side, goal in zip(size, target)]  # noqa: B905
    # Across first, and rounded in between, as PIL does.
    across = lanczos(values.transpose(1, 0, 2).astype(float), *edges[0], target[0]).round().clip(0, 255)
    expected = lanczos(across.transpose(1, 0, 2), *edges[1], target[1]).round().clip(0, 255)
    found = np.asarray(fit(Image.fromarray(values), target))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1


def test_the_size_is_of_the_nearest_aspect_and_the_largest_that_need_not_be_scaled_up():
    random = np.random.default_rng(3)
    targets = [(512, 512), (1024, 1024), (832, 1216), (1216, 832), (768, 512), (384, 256)]

    def off(size, target):
        ratio = Fraction(size[0] * target[1], size[1] * target[0])
        return max(ratio, 1 / ratio)

    for size in random.integers(100, 3000, (2000, 2)).tolist():
        least = min(off(size, target) for target in targets)
        nearest = [target for target in targets if off(size, target) == least]
        covered = [target for target in nearest if size[0] >= target[0] and size[1] >= target[1]]
        expected = max(covered) if covered else min(nearest)
        assert targets[nearest_size(size, targets)] == expected, size
