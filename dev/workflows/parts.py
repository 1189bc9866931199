"""What several workflows have in common."""

from .models import Model
from .sheet import Node, Output, Sheet

SIDE, SHOWN = 64, 256  # the demo model's pictures, in pixels: as drawn, and enlarged to be looked at
PICTURES = 8
SMALL = {"width": SIDE, "height": SIDE, "batch_size": PICTURES}
STYLES = ("shaded", "retro", "flat", "modern", "inked", "glossy", "woodcut", "simple", "cartoon")
*_FIRST, _LAST = (f"**{style}**" for style in STYLES)
STYLES_LISTED = f"{', '.join(_FIRST)} and {_LAST}"
SUBJECT = "red apple"
EMPTY = "∅-prompt (empty)"


def demo_model(sheet: Sheet, weights: str) -> tuple[Output, Output, Output]:
    """→ its model, clip and vae"""
    node = sheet.add("SiDDemoModel", weights=weights)
    return node["model"], node["clip"], node["vae"]


def checkpoint(sheet: Sheet, model: Model, title: str | None = None) -> Node:
    return sheet.add("CheckpointLoaderSimple", title, ckpt_name=model.name)


def prompt(sheet: Sheet, clip: Output, text: str, title: str = "Prompt") -> Output:
    return sheet.add("CLIPTextEncode", title, clip=clip, text=text)["CONDITIONING"]


def empty_prompt(sheet: Sheet, clip: Output) -> Output:
    return prompt(sheet, clip, "", EMPTY)


def small_pictures(sheet: Sheet, latent: Output, vae: Output, prefix: str) -> None:
    """The demo model's, enlarged."""
    decoded = sheet.add("VAEDecode", folded=True, samples=latent, vae=vae)["IMAGE"]
    save_enlarged(sheet, decoded, prefix, width=SHOWN, room=225, beside=True)


def save_enlarged(sheet: Sheet, image: Output, prefix: str, *, width: int, room: int, beside: bool = False) -> None:
    """width: pixels; 0: as the height of SHOWN asks for. beside: right of the folded node before."""
    shown = sheet.add(
        "ImageScale",
        "Enlarge 4 times",
        folded=True,
        beside=beside,
        image=image,
        upscale_method="lanczos",
        width=width,
        height=SHOWN,
    )
    sheet.add("SaveImage", images=shown["IMAGE"], filename_prefix=prefix, room=room)


def picture(sheet: Sheet, latent: Output, vae: Output, prefix: str, *, room: int = 420) -> None:
    image = sheet.add("VAEDecode", folded=True, samples=latent, vae=vae)["IMAGE"]
    sheet.add("SaveImage", images=image, filename_prefix=prefix, room=room)


def side_by_side(
    sheet: Sheet, images: dict[str, Output], vae: Output, *, spacing: int, first: Output | None = None
) -> Output:
    """{title: latent} decoded and put in a row, after the first picture if there is one."""
    joined = first
    counted = iter(("Two pictures", "Three pictures", "Four pictures"))
    for title, latent in images.items():
        # Folded nodes show no more than 20 letters.
        decoded = sheet.add("VAEDecode", f"{title}: VAE", folded=True, samples=latent, vae=vae)["IMAGE"]
        if joined is None:
            joined = decoded
            continue
        stitched = sheet.add(
            "ImageStitch", next(counted), beside=True, image1=joined, image2=decoded, spacing_width=spacing
        )
        joined = stitched["IMAGE"]
    return joined
