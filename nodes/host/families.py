"""The families of models: what the method has to know of each, in one place, and what it can't do with which.

A family is found by the name of the host's class (`comfy.supported_models`) that a MODEL is of or derived from, since
not every host has every class. Whatever isn't here is treated by what its `model_sampling` says, with a warning. The
table in docs/families.md is made of this one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from comfy.model_patcher import ModelPatcher
from torch import nn

SAMPLE, GUIDE, LORA, FULL, ADVERSARIAL, CLEANSTYLE = USES = (
    "sample",
    "guide",
    "distil LoRA",
    "distil full",
    "adversarial",
    "CleanStyle",
)


@dataclass(frozen=True)
class Family:
    """name: as users know it. classes: the host's. cannot: {use: why, as a sentence}.

    side: pixels of a side of the pictures that it was trained on, if all of it was. pixels: of a side that a cell of
    its latents stands for, for hosts that don't say. guidance: what its guidance embedding is told in training and
    with students; those of SiD-DiT (arXiv 2509.25127) were trained at 1. since: the version of ComfyUI that its class
    was first seen in, where the oldest supported one has none.
    """

    name: str
    classes: tuple[str, ...]
    side: int | None = None
    pixels: int = 8
    guidance: float | None = None
    since: str = ""
    cannot: dict[str, str] = field(default_factory=dict)


NO_IMAGE_PROMPTS = {CLEANSTYLE: "none of the image prompts that CleanStyle works on fits it."}
TEXT_IS_LAST = {ADVERSARIAL: "its last tokens are those of the text as well, and not of the picture alone."}
NOTHING = {use: "it does not draw pictures or videos from text." for use in USES}
FROM_A_PICTURE = {use: "it starts from a picture or a video, which training doesn't have." for use in USES[2:5]}

FAMILIES = (
    Family("SD1.5", ("SD15",), side=512),
    Family("SD2", ("SD20",), cannot=NO_IMAGE_PROMPTS),
    Family("SSD-1B", ("SSD1B",), side=1024, cannot=NO_IMAGE_PROMPTS),
    Family("Segmind Vega", ("Segmind_Vega",), side=1024, cannot=NO_IMAGE_PROMPTS),
    Family(
        "KOALA 700M",
        ("KOALA_700M",),
        side=1024,
        cannot=NO_IMAGE_PROMPTS
        | {ADVERSARIAL: "its UNet has no middle block, whose features tell real images from the student's."},
    ),
    Family("KOALA 1B", ("KOALA_1B",), side=1024, cannot=NO_IMAGE_PROMPTS),
    Family("SDXL", ("SDXL",), side=1024),
    Family("SD3", ("SD3",), side=1024, cannot=NO_IMAGE_PROMPTS),
    Family("FLUX.1 schnell", ("FluxSchnell",)),
    Family("FLUX.2", ("Flux2",), pixels=16, guidance=1.0, cannot=NO_IMAGE_PROMPTS),
    Family("FLUX.1", ("Flux",), guidance=1.0),
    Family("Chroma", ("Chroma",), cannot=NO_IMAGE_PROMPTS),
    Family("Z-Image", ("ZImage",), cannot=NO_IMAGE_PROMPTS | TEXT_IS_LAST),
    Family("Lumina 2", ("Lumina2",), cannot=NO_IMAGE_PROMPTS | TEXT_IS_LAST),
    Family("Qwen-Image", ("QwenImage",), cannot=NO_IMAGE_PROMPTS),
    Family("AuraFlow", ("AuraFlow",), cannot=NO_IMAGE_PROMPTS),
    Family("PixArt sigma", ("PixArtSigma",), cannot=NO_IMAGE_PROMPTS),
    Family("PixArt alpha", ("PixArtAlpha",), cannot=NO_IMAGE_PROMPTS),
    Family("HiDream", ("HiDream",), cannot=NO_IMAGE_PROMPTS),
    Family("Kandinsky 5 Image", ("Kandinsky5Image",), since="0.33.0", cannot=NO_IMAGE_PROMPTS),
    Family("Kandinsky 5", ("Kandinsky5",), since="0.33.0", cannot=NO_IMAGE_PROMPTS),
    Family("Wan 2.2 5B", ("WAN22_T2V",), pixels=16, cannot=NO_IMAGE_PROMPTS),
    Family(
        "Wan with a picture or a video",
        ("WAN21_I2V", "WAN21_FunControl2V", "WAN21_Camera", "WAN22_Camera", "WAN21_Vace", "WAN21_HuMo", "WAN22_S2V")
        + ("WAN22_Animate",),
        cannot=NO_IMAGE_PROMPTS | FROM_A_PICTURE,
    ),
    Family("Wan 2.1", ("WAN21_T2V",), cannot=NO_IMAGE_PROMPTS),
    Family("audio and 3D models", ("StableAudio", "ACEStep", "ACEStep15", "Hunyuan3Dv2"), cannot=NOTHING),
)
DEMO = Family("the demo model", ("DemoModel",), side=64)  # the pack's own, which is none of the host's
BY_CLASS = {name: family for family in (*FAMILIES, DEMO) for name in family.classes}

# The layer whose input are a transformer's last tokens, after the norm with its modulation, by the network's class.
LAST_TOKENS = {
    "comfy.ldm.modules.diffusionmodules.mmdit.MMDiT": "final_layer.linear",
    "comfy.ldm.flux.model.Flux": "final_layer.linear",
    "comfy.ldm.chroma.model.Chroma": "final_layer.linear",
    "comfy.ldm.aura.mmdit.MMDiT": "final_linear",
    "comfy.ldm.pixart.pixartms.PixArtMS": "final_layer.linear",
    "comfy.ldm.hidream.model.HiDreamImageTransformer2DModel": "final_layer.linear",
    "comfy.ldm.qwen_image.model.QwenImageTransformer2DModel": "proj_out",
    "comfy.ldm.wan.model.WanModel": "head.head",
    "comfy.ldm.kandinsky5.model.Kandinsky5": "out_layer.out_layer",
}


def family_of(model: ModelPatcher) -> Family:
    """The MODEL's; one of no entry for a class that isn't known, with that class as its name."""
    kind = type(model.model.model_config)
    known = (BY_CLASS[each.__name__] for each in kind.__mro__ if each.__name__ in BY_CLASS)
    return next(known, Family(kind.__name__, (), cannot=NO_IMAGE_PROMPTS))


def require_use(model: ModelPatcher, use: str) -> None:
    """Raise ValueError where the MODEL's family can't be used so, and say why."""
    family = family_of(model)
    if use in family.cannot:
        raise ValueError(
            f"Choose a model of another family: {family.name} can't be used so ({use}), as {family.cannot[use]}"
        )


def unknown_family(model: ModelPatcher) -> str | None:
    """What to say of a MODEL whose family is not among those that were tried."""
    family = family_of(model)
    if family.classes:
        return None
    return (
        f"Look at the first pictures early: models of the kind {family.name} were never tried, and this one is treated "
        "by what ComfyUI says of its noise."
    )


def last_tokens(network: nn.Module) -> nn.Module | None:
    """The layer of LAST_TOKENS in the network; None where that is not known, or it has none."""
    for kind in type(network).__mro__:
        if path := LAST_TOKENS.get(f"{kind.__module__}.{kind.__qualname__}"):
            return next(_at(network, path), None)
    return None


def _at(module: nn.Module, path: str) -> Iterator[nn.Module]:
    for name in path.split("."):
        module = getattr(module, name, None)
        if module is None:
            return
    yield module
