"""The families of models: what the method has to know of each, in one place, and what it can't do with which.

A family is found by the name of the host's class (`comfy.supported_models`) that a MODEL is of or derived from, since
not every host has every class. Whatever isn't here is treated by what its `model_sampling` says, with a warning. The
tables in docs/families.md are made of this one and of family_defaults.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from comfy.model_patcher import ModelPatcher
from torch import nn

from .family_defaults import FLOW, PRESETS, SD15, SDXL, Defaults

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

    defaults: what its students begin from; None is what the process says. side: pixels of a side of the pictures that
    it was trained on, if all of it was. pixels: of a side that a cell of its latents stands for, for hosts that don't
    say. guidance: what its guidance embedding is told in training and with students. padded: whether its texts are
    filled up to one length, of which its network is told how many are no filling, and leaves out the rest. since: the
    version of ComfyUI that its class was first seen in, where the oldest supported one has none.
    """

    name: str
    classes: tuple[str, ...]
    defaults: Defaults | None = None
    side: int | None = None
    pixels: int = 8
    guidance: float | None = None
    padded: bool = False
    since: str = ""
    cannot: dict[str, str] = field(default_factory=dict)


NO_IMAGE_PROMPTS = {CLEANSTYLE: "none of the image prompts that CleanStyle works on fits it."}
TEXT_IS_LAST = {ADVERSARIAL: "its last tokens are those of the text as well, and not of the picture alone."}
NOTHING = {use: "it does not draw pictures or videos from text." for use in USES}
SOUND = {use: "its latents are of sound as well as of a video." for use in USES}
FROM_A_PICTURE = {use: "it starts from a picture or a video, which training doesn't have." for use in USES[2:5]}
OTHER_NOISE = {use: "SiD has no formula for its noise, as it has for ε-, v- and flow prediction." for use in USES}
FINISHES = {
    use: "it finishes pictures that another model has begun, and knows the least noise alone." for use in USES[2:5]
}
TWO_TIMES = {
    use: "it draws in few steps already: its network is told where a step ends, too, which a teacher can't be."
    for use in USES[2:5]
}
OF_SID_DIT = 1.0  # as those of SiD-DiT (arXiv 2509.25127) were trained
OF_COMFYUI = 6.0  # ours: as ComfyUI tells it where no FluxGuidance does

FAMILIES = (
    Family("SD1.5", ("SD15",), SD15, side=512),
    Family("SD2", ("SD20",), SD15, cannot=NO_IMAGE_PROMPTS),
    Family("SSD-1B", ("SSD1B",), SDXL, side=1024, cannot=NO_IMAGE_PROMPTS),
    Family("Segmind Vega", ("Segmind_Vega",), SDXL, side=1024, cannot=NO_IMAGE_PROMPTS),
    Family(
        "KOALA 700M",
        ("KOALA_700M",),
        SDXL,
        side=1024,
        cannot=NO_IMAGE_PROMPTS
        | {ADVERSARIAL: "its UNet has no middle block, whose features tell real images from the student's."},
    ),
    Family("KOALA 1B", ("KOALA_1B",), SDXL, side=1024, cannot=NO_IMAGE_PROMPTS),
    Family("SDXL", ("SDXL",), SDXL, side=1024),
    Family("SD3", ("SD3",), FLOW, side=1024, cannot=NO_IMAGE_PROMPTS),
    Family("FLUX.1 schnell", ("FluxSchnell",), FLOW),
    Family("FLUX.2", ("Flux2",), FLOW, pixels=16, guidance=OF_SID_DIT, cannot=NO_IMAGE_PROMPTS),
    Family("FLUX.1", ("Flux",), FLOW, guidance=OF_SID_DIT),
    Family("Chroma", ("Chroma",), FLOW, cannot=NO_IMAGE_PROMPTS),
    Family("Z-Image", ("ZImage",), FLOW, cannot=NO_IMAGE_PROMPTS | TEXT_IS_LAST),
    Family("Lumina 2", ("Lumina2",), FLOW, cannot=NO_IMAGE_PROMPTS | TEXT_IS_LAST),
    Family("OmniGen2", ("Omnigen2",), FLOW, cannot=NO_IMAGE_PROMPTS | TEXT_IS_LAST),
    Family("Qwen-Image", ("QwenImage",), FLOW, cannot=NO_IMAGE_PROMPTS),
    Family("AuraFlow", ("AuraFlow",), FLOW, cannot=NO_IMAGE_PROMPTS),
    # Of the SD kind, at SDXL's size: ours, as no SiD paper has them.
    Family("PixArt sigma", ("PixArtSigma",), SDXL, cannot=NO_IMAGE_PROMPTS),
    Family("PixArt alpha", ("PixArtAlpha",), SDXL, cannot=NO_IMAGE_PROMPTS),
    Family("Hunyuan-DiT", ("HunyuanDiT",), SDXL, cannot=NO_IMAGE_PROMPTS),
    Family("HiDream", ("HiDream",), FLOW, cannot=NO_IMAGE_PROMPTS),
    Family("Kandinsky 5 Image", ("Kandinsky5Image",), FLOW, since="0.33.0", cannot=NO_IMAGE_PROMPTS),
    Family("Kandinsky 5", ("Kandinsky5",), FLOW, since="0.33.0", cannot=NO_IMAGE_PROMPTS),
    Family("HunyuanImage 2.1", ("HunyuanImage21",), FLOW, pixels=32, guidance=OF_COMFYUI, cannot=NO_IMAGE_PROMPTS),
    Family("HunyuanVideo 1.5", ("HunyuanVideo15",), FLOW, pixels=16, guidance=OF_COMFYUI, cannot=NO_IMAGE_PROMPTS),
    Family(
        "Hunyuan with a picture or a video",
        ("HunyuanVideoI2V", "HunyuanVideoSkyreelsI2V", "HunyuanImage21Refiner", "HunyuanVideo15_SR_Distilled"),
        FLOW,
        cannot=NO_IMAGE_PROMPTS | FROM_A_PICTURE,
    ),
    Family("HunyuanVideo", ("HunyuanVideo",), FLOW, guidance=OF_COMFYUI, cannot=NO_IMAGE_PROMPTS),
    Family("LTX-Video", ("LTXV",), FLOW, pixels=32, cannot=NO_IMAGE_PROMPTS),
    Family("Mochi", ("GenmoMochi",), FLOW, padded=True, cannot=NO_IMAGE_PROMPTS),
    Family("Wan 2.2 5B", ("WAN22_T2V",), FLOW, pixels=16, cannot=NO_IMAGE_PROMPTS),
    Family(
        "Wan with a picture or a video",
        ("WAN21_I2V", "WAN21_FunControl2V", "WAN21_Camera", "WAN22_Camera", "WAN21_Vace", "WAN21_HuMo", "WAN22_S2V")
        + ("WAN22_Animate", "WAN_Animate2", "WAN21_FlowRVS", "WAN21_SCAIL", "WAN21_SCAIL2", "WAN22_WanDancer"),
        FLOW,
        cannot=NO_IMAGE_PROMPTS | FROM_A_PICTURE,
    ),
    Family("Wan 2.1", ("WAN21_T2V",), FLOW, cannot=NO_IMAGE_PROMPTS),
    Family(
        "SD with a picture",
        ("SD15_instructpix2pix", "SDXL_instructpix2pix", "SD21UnclipL", "SD21UnclipH", "SD_X4Upscaler")
        + ("Stable_Zero123", "LotusD"),
        cannot=NO_IMAGE_PROMPTS | FROM_A_PICTURE,
    ),
    Family("the SDXL refiner", ("SDXLRefiner",), SDXL, cannot=NO_IMAGE_PROMPTS | FINISHES),
    Family("Cosmos", ("CosmosT2V", "CosmosI2V", "CosmosT2IPredict2", "CosmosI2VPredict2"), cannot=OTHER_NOISE),
    Family("Stable Cascade", ("Stable_Cascade_C", "Stable_Cascade_B"), cannot=OTHER_NOISE),
    Family("SVD and SV3D", ("SVD_img2vid",), cannot=OTHER_NOISE),
    Family("CogVideoX", ("CogVideoX_T2V",), since="0.33.0", cannot=OTHER_NOISE),
    Family("LTX-Video with sound", ("LTXAV",), since="0.33.0", cannot=SOUND),
    Family(
        "audio and 3D models",
        ("StableAudio", "ACEStep", "ACEStep15", "MiniMaxMusic3", "Hunyuan3Dv2", "Trellis2", "TripoSplat"),
        cannot=NOTHING,
    ),
)
PAIRED, OF_14B = "Wan 2.1", 5120  # what Wan 2.2 A14B's experts are as well, and the width of its tokens
BETWEEN_EXPERTS = 0.875  # Wan 2.2's own configuration of text-to-video
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
    "comfy.ldm.hunyuan_video.model.HunyuanVideo": "final_layer.linear",
    "comfy.ldm.lightricks.model.LTXVModel": "proj_out",
    "comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint": "final_layer.linear",
    "comfy.ldm.hydit.models.HunYuanDiT": "final_layer.linear",
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
    # Hunyuan's MeanFlow files, which the host has no class of their own for.
    if use in TWO_TIMES and getattr(model.model.diffusion_model, "time_r_in", None) is not None:
        raise ValueError(
            f"Choose the {family.name} that needs many steps: this one can't be used so ({use}), as {TWO_TIMES[use]}"
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


def before_training(model: ModelPatcher, preset: str, mode: str) -> list[str]:
    """What to say of a MODEL before it is distilled, a sentence each. preset: the one chosen, see `PRESETS`."""
    family = family_of(model)
    said = [unknown_family(model)]
    if preset in PRESETS and family.defaults is not None and preset != (own := family.defaults.preset(mode)):
        said.append(f"Set preset to {own!r}, or to what suits {family.name} by hand: {preset!r} is for other families.")
    if family.name == PAIRED and getattr(model.model.diffusion_model, "dim", None) == OF_14B:
        said.append(
            "Connect Wan 2.1, and not one of the two experts of Wan 2.2 A14B (high noise, low noise), whose weights "
            f"look the same: each knows the times on one side of {BETWEEN_EXPERTS} alone, and a student needs them all."
        )
    return [each for each in said if each]


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
