"""Captions within image files, as the programs that write them do."""

import io
import json

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sid_pack.sid_core.data.image_captions import caption_within
from sid_pack.sid_core.data.pictures import opened

PICTURE = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
WEB_UI = "a cat, <b>\nsitting\nNegative prompt: dog, blurry\nSteps: 20, Sampler: Euler, Seed: 1"
COMFYUI = json.dumps({"3": {"class_type": "KSampler", "inputs": {"seed": 1}}})


def within(kind: str, **options) -> str:
    file = io.BytesIO()
    PICTURE.save(file, kind, **options)
    with opened(file.getvalue()) as image:
        image.load()
        return caption_within(image)


def png(**texts: str) -> str:
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    return within("PNG", pnginfo=info)


def exif(description: str | None = None, comment: bytes | None = None) -> bytes:
    made = Image.Exif()
    if description is not None:
        made[0x010E] = description
    if comment is not None:
        made.get_ifd(0x8769)[0x9286] = comment
    return made.tobytes()


@pytest.mark.parametrize(
    ("texts", "caption"),
    [
        ({"parameters": WEB_UI}, "a cat, <b>\nsitting"),
        ({"parameters": "a cat\nSteps: 4, Sampler: Euler"}, "a cat"),
        ({"parameters": "Steps: up to the house, by Klimt"}, "Steps: up to the house, by Klimt"),
        ({"parameters": "Negative prompt: dog\nSteps: 20, Seed: 1", "Description": "a bear"}, "a bear"),
        ({"prompt": COMFYUI, "workflow": COMFYUI}, ""),
        ({"prompt": COMFYUI, "Description": "ein Bär"}, "ein Bär"),
        ({"prompt": " a red apple "}, "a red apple"),
        ({"Software": "GIMP"}, ""),
        ({}, ""),
    ],
)
def test_texts_of_pngs(texts, caption):
    assert png(**texts) == caption


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG", "TIFF"])
def test_exif_s_description(kind):
    assert within(kind, exif=exif("a red apple")) == "a red apple"
    assert within(kind, exif=exif("")) == ""


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + WEB_UI.encode("utf-16-be"),
        b"UNICODE\0" + WEB_UI.encode("utf-16-le"),
        b"ASCII\0\0\0" + WEB_UI.encode(),
        bytes(8) + WEB_UI.encode(),
    ],
)
def test_exif_s_comment_in_each_of_its_encodings(kind, comment):
    assert within(kind, exif=exif(comment=comment)) == "a cat, <b>\nsitting"


XMP = (
    '<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title><rdf:Alt><rdf:li xml:lang="x-default">a title</rdf:li>'
    '</rdf:Alt></dc:title><dc:description><rdf:Alt><rdf:li xml:lang="x-default">salt &amp; pepper, 30°</rdf:li>'
    "</rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def test_xmp_s_description():
    assert within("JPEG", xmp=XMP.encode()) == "salt & pepper, 30°"
    assert within("WEBP", xmp=XMP.encode()) == "salt & pepper, 30°"
    assert png(**{"XML:com.adobe.xmp": XMP}) == "salt & pepper, 30°"
    assert within("JPEG", xmp=XMP.replace("dc:description", "dc:other").encode()) == ""
    assert within("JPEG", xmp=XMP.encode(), exif=exif("first")) == "first"


def test_what_is_broken_is_no_caption():
    assert within("JPEG", exif=b"Exif\0\0MM\0*broken") == ""
    assert within("JPEG", exif=exif(comment=b"UNICODE\0\0")) == ""
    assert "\0" not in within("JPEG", exif=exif(comment=b"ASCII\0\0\0a\0b\xff"))
