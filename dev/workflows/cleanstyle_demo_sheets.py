"""Workflows with CleanStyle that the demo model runs."""

from . import parts
from .sheet import Output, Sheet
from .titles import TITLES

ADAPTER = "demo (comes with the pack)"
SAMPLER = {"steps": 12, "cfg": 4.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"}
SEED = 42
# Beyond it the demo's image prompt brings little more style, and much more of the subject.
WEIGHT, STUDENT_WEIGHT = 0.6, 0.4


def demo_cleanstyle() -> Sheet:
    sheet = Sheet(
        "demo_cleanstyle",
        "## The style of a picture, not its subject\n\n"
        "With the small model that comes with this pack: no download, and any CPU will do. It draws a style picture "
        "first. Each picture that is saved then shows, from left to right, **the style picture, what the prompt alone "
        "gives, what it gives with the image prompt, and that with CleanStyle**, all from one seed.\n\n"
        "1. Press **Run**.\n"
        "2. Write another *Prompt*, or another *Prompt of the style picture*: a subject and a style. Styles are "
        f"{parts.STYLES_LISTED}. For a picture of your own put *Load Image* in the place of *Style picture*.\n"
        "3. Does its subject come along? Raise *alpha* of *CleanStyle*. Is the style lost? Lower it.",
        note_height=305,
    )
    sheet.group("Model")
    demo = sheet.add("SiDDemoModel")
    model, clip, vae, vision = (demo[name] for name in ("model", "clip", "vae", "clip_vision"))
    sheet.group("Prompt")
    empty = parts.prompt(sheet, clip, "", "Empty prompt")
    prompt = parts.prompt(sheet, clip, "elephant")
    latents = _latents(sheet)
    style = _style_picture(sheet, model, clip, vae, empty)
    adapter = sheet.add("CleanStyleIPAdapterLoader", ip_adapter=ADAPTER)["ip_adapter"]
    sheet.column("Style, cleaned", width=310)
    styled = sheet.add(
        "CleanStyleIPAdapter", model=model, ip_adapter=adapter, image=style, clip_vision=vision, weight=WEIGHT
    )["model"]
    cleaned = sheet.add("CleanStyle", model=styled, alpha=0.03)["model"]
    sheet.column("Sample three times", width=280)
    ways = {"By the prompt": model, "With the image": styled, "Purified": cleaned}
    sampled = {title: _sampled(sheet, title, each, prompt, empty, latents) for title, each in ways.items()}
    sheet.column("Side by side", width=500)
    joined = parts.side_by_side(sheet, sampled, vae, spacing=4, first=style)
    parts.save_enlarged(sheet, joined, "cleanstyle/demo", width=0, room=420)
    return sheet


def demo_cleanstyle_student() -> Sheet:
    sheet = Sheet(
        "demo_cleanstyle_student",
        "## The style of a picture, in 4 steps at CFG 1\n\n"
        "As *{}*, by the demo model's **student**. Each picture that is saved shows **the style picture, and what the "
        "student draws in its style**.\n\n"
        "At CFG 1 there is no unconditional half that could lead away from the picture's content, so "
        "*attention_strength* does it inside attention. A student begins at 37 % of the way from noise to image, so "
        "*center* is later than usual.\n\n"
        "1. Press **Run**.\n"
        "2. Set *attention_strength* to 0 to see what it does.".format(TITLES["demo_cleanstyle"]),
        note_height=255,
    )
    sheet.group("Model")
    demo = sheet.add("SiDDemoModel", "The teacher", weights="teacher")
    student = sheet.add("SiDDemoModel", "The student", weights="student, 4 steps")["model"]
    clip, vae = demo["clip"], demo["vae"]
    empty = parts.prompt(sheet, clip, "", "Empty prompt")
    style = _style_picture(sheet, demo["model"], clip, vae, empty)
    adapter = sheet.add("CleanStyleIPAdapterLoader", ip_adapter=ADAPTER)["ip_adapter"]
    sheet.column("Style, cleaned", width=310)
    styled = sheet.add(
        "CleanStyleIPAdapter",
        model=student,
        ip_adapter=adapter,
        image=style,
        clip_vision=demo["clip_vision"],
        weight=STUDENT_WEIGHT,
    )["model"]
    cleaned = sheet.add("CleanStyle", model=styled, center=0.6, style_negative="hard", attention_strength=1.0)["model"]
    sheet.column("Prompt", width=280)
    prompt = parts.prompt(sheet, clip, "elephant")
    sheet.group("Draw in 4 steps")
    latent = sheet.add("SiDGenerate", model=cleaned, positive=prompt, **parts.SMALL)["latent"]
    sheet.column("Side by side", width=500)
    joined = parts.side_by_side(sheet, {"In 4 steps": latent}, vae, spacing=4, first=style)
    parts.save_enlarged(sheet, joined, "cleanstyle/demo_student", width=0, room=420)
    return sheet


SHEETS = [demo_cleanstyle, demo_cleanstyle_student]


def _style_picture(sheet: Sheet, model: Output, clip: Output, vae: Output, empty: Output) -> Output:
    """A column that draws it."""
    sheet.column("Style picture", width=280)
    wanted = parts.prompt(sheet, clip, "rocket, woodcut", "Prompt of the style picture")
    latent = sheet.add("EmptyLatentImage", "One picture", width=parts.SIDE, height=parts.SIDE)["LATENT"]
    drawn = _sampled(sheet, "Draw it", model, wanted, empty, latent)
    return sheet.add("VAEDecode", "Style picture", samples=drawn, vae=vae)["IMAGE"]


def _latents(sheet: Sheet) -> Output:
    return sheet.add("EmptyLatentImage", "Pictures", **parts.SMALL)["LATENT"]


def _sampled(sheet: Sheet, title: str, model: Output, positive: Output, negative: Output, latent: Output) -> Output:
    conds = {"positive": positive, "negative": negative, "latent_image": latent}
    return sheet.add("KSampler", title, model=model, **conds, seed=SEED, control="fixed", **SAMPLER)["LATENT"]
