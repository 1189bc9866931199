"""Captions that lie within an image file: what programs that draw pictures write into them, EXIF and XMP."""

import html
import re

from PIL import Image

PNG_TEXTS = ("parameters", "prompt", "Description")
IMAGE_DESCRIPTION, USER_COMMENT, EXIF_PART = 0x010E, 0x9286, 0x8769
# The lines that follow the prompt where Stable Diffusion web UIs write down how a picture was made.
AFTER_PROMPT = re.compile(r"^(Negative prompt:|Steps: \d+, ).*", re.MULTILINE | re.DOTALL)
XMP_DESCRIPTION = re.compile(r"<dc:description\b[^>]*>(.*?)</dc:description>", re.DOTALL)
XMP_TEXT = re.compile(r"<rdf:li\b[^>]*>(.*?)</rdf:li>", re.DOTALL)
MOST_XMP = 1 << 20  # bytes
UTF_16 = b"UNICODE\0"


def caption_within(image: Image.Image) -> str:
    """The first caption that an opened image file has in its metadata; empty without any.

    A PNG's texts `parameters`, `prompt` and `Description`, EXIF's ImageDescription and UserComment, XMP's
    dc:description. ComfyUI's own `prompt` is a graph, and none.
    """
    texts = (_png_text(image, name) for name in PNG_TEXTS)
    for text in (*texts, *_exif_texts(image), _xmp_description(image)):
        caption = AFTER_PROMPT.sub("", text).replace("\0", "").strip()
        if caption and not caption.startswith(("{", "[{")):
            return caption
    return ""


def _png_text(image: Image.Image, name: str) -> str:
    text = image.info.get(name)
    return str(text) if isinstance(text, str) and image.format == "PNG" else ""


def _exif_texts(image: Image.Image) -> list[str]:
    try:
        exif = image.getexif()
        found = [exif.get(IMAGE_DESCRIPTION), exif.get_ifd(EXIF_PART).get(USER_COMMENT)]
    except Exception:  # noqa: BLE001  of all kinds; the picture itself may be whole
        return []
    return [_decoded(value) for value in found]


def _decoded(value: object) -> str:
    """EXIF's texts: Latin-1 where PIL has decoded them, and the comment's with its encoding in front."""
    if isinstance(value, str):
        try:  # many programs write UTF-8 in spite of EXIF
            return value.encode("latin-1").decode("utf-8")
        except UnicodeError:
            return value
    if not isinstance(value, bytes):
        return ""
    kind, text = value[:8], value[8:]
    if kind == UTF_16:
        # In the byte order of the file, or not: most letters have a zero in their upper half.
        order = "utf-16-be" if text[::2].count(0) >= text[1::2].count(0) else "utf-16-le"
        return text.decode(order, "ignore")
    return (text if kind in (b"ASCII\0\0\0", bytes(8)) else value).decode("utf-8", "ignore")


def _xmp_description(image: Image.Image) -> str:
    data = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    data = data.encode() if isinstance(data, str) else data
    if not isinstance(data, bytes) or len(data) > MOST_XMP:
        return ""
    description = XMP_DESCRIPTION.search(data.decode("utf-8", "ignore"))
    text = description and XMP_TEXT.search(description[1])
    return html.unescape(text[1]) if text else ""
