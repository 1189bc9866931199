"""The pack's subgraph blueprints: nodes that are used together, as one node with what is turned most."""

from dataclasses import dataclass

from . import models
from .sheet import Node, Output, Sheet


@dataclass(frozen=True)
class Blueprint:
    """inputs: {name: where it goes, as (node, input)}. widgets: those of its nodes that it shows, in their order."""

    sheet: Sheet
    description: str
    searched: tuple[str, ...]
    inputs: dict[str, list[tuple[Node, str]]]
    outputs: dict[str, Output]
    widgets: list[tuple[Node, str]]


def sid_generate() -> Blueprint:
    sheet = Sheet("SiD generate", "", note_height=0)
    sheet.group("Prompt")
    text = sheet.add("CLIPTextEncode", "Prompt", text="")
    sheet.column("Draw in a few steps")
    latent = sheet.add("SiDGenerate", positive=text["CONDITIONING"])
    sheet.column("Picture")
    image = sheet.add("VAEDecode", samples=latent["latent"])
    return Blueprint(
        sheet,
        "Pictures of a prompt by a few-step student, at CFG 1.",
        ("few step", "4 steps", "turbo", "lightning", "lcm", "dmd"),
        inputs={"model": [(latent, "model")], "clip": [(text, "clip")], "vae": [(image, "vae")]},
        outputs={"image": image["IMAGE"]},
        widgets=[(text, "text"), *((latent, name) for name in ("seed", "width", "height", "batch_size", "steps"))],
    )


def style_cleaned() -> Blueprint:
    files = (models.SDXL_ADAPTER, models.SDXL_VISION)
    sheet = Sheet("Style, cleaned", "", note_height=0, models=files)
    sheet.group("Files")
    adapter = sheet.add("CleanStyleIPAdapterLoader", ip_adapter=models.SDXL_ADAPTER.name)
    vision = sheet.add("CLIPVisionLoader", clip_name=models.SDXL_VISION.name)
    sheet.column("Style of a picture", width=320)
    styled = sheet.add(
        "CleanStyleIPAdapter",
        ip_adapter=adapter["ip_adapter"],
        clip_vision=vision["CLIP_VISION"],
        blocks="style (InstantStyle)",
    )
    sheet.column("Clean it", width=320)
    cleaned = sheet.add("CleanStyle", model=styled["model"])
    return Blueprint(
        sheet,
        "Gives a model the style of a picture, and not its subject: an IP-Adapter, and CleanStyle after it.",
        ("style transfer", "instantstyle", "leakage", "svd", "ip-adapter"),
        inputs={"model": [(styled, "model")], "image": [(styled, "image")]},
        outputs={"model": cleaned["model"]},
        widgets=[
            (adapter, "ip_adapter"),
            (vision, "clip_name"),
            (styled, "weight"),
            (cleaned, "alpha"),
            (cleaned, "top_k"),
        ],
    )


BLUEPRINTS = [sid_generate, style_cleaned]
