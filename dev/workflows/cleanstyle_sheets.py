"""Workflows with CleanStyle that run with files of the user's."""

from . import models, parts
from .models import Model
from .sheet import Output, Sheet
from .titles import TITLES

STYLE_IMAGE = "example.png"  # every ComfyUI has it; users choose their own
PROMPT = "a cat sitting on a garden wall"
NEGATIVE = "lowres, blurry, text, watermark"
SEED = 42
STYLE_BLOCK = "style (InstantStyle)"
SAMPLER = {"steps": 30, "sampler_name": "dpmpp_2m", "scheduler": "karras"}
SDXL_MODELS = (models.SDXL, models.SDXL_ADAPTER, models.SDXL_VISION)
SDXL_FILES = f"Files:\n{models.listed(*SDXL_MODELS)}"
CHOOSE = "1. Press **R**, choose the files, and a picture in *Style picture*.\n"


def sdxl_cleanstyle() -> Sheet:
    sheet = Sheet(
        "sdxl_cleanstyle",
        "## The style of a picture, not its subject (SDXL)\n\n"
        "An IP-Adapter in InstantStyle's block for style, and **CleanStyle** after it.\n\n"
        f"{SDXL_FILES}\n{CHOOSE}"
        "2. Press **Run**.\n"
        "3. Does the picture's subject still come along? Raise *alpha*. Is style lost? Lower it, or raise *top_k*.",
        note_height=305,
        models=SDXL_MODELS,
    )
    model, clip, vae = _checkpoint(sheet, models.SDXL)
    conds, latent = _prompts(sheet, clip, size=1024)
    styled = _image_prompt(sheet, model, blocks=STYLE_BLOCK)
    cleaned = _cleaned(sheet, styled)
    _sample(sheet, cleaned, conds, latent, vae, "cleanstyle/sdxl", cfg=5.0)
    return sheet


def sdxl_cleanstyle_before_after() -> Sheet:
    sheet = Sheet(
        "sdxl_cleanstyle_before_after",
        "## Before and after\n\n"
        "The same prompt and seed three times, side by side: **the prompt alone, with the image prompt, and with "
        "CleanStyle after it**. Below, what is taken out of each layer, and when.\n\n"
        f"{SDXL_FILES}\n"
        "1. Press **R**, choose the files, and in *Style picture* a picture whose subject is easy to know again.\n"
        "2. Press **Run**.\n"
        "3. Change one setting of *CleanStyle* at a time; the first two pictures are kept from the run before.",
        note_height=335,
        models=SDXL_MODELS,
    )
    model, clip, vae = _checkpoint(sheet, models.SDXL)
    conds, latent = _prompts(sheet, clip, size=1024)
    styled = _image_prompt(sheet, model)
    cleaned = _cleaned(sheet, styled)
    sheet.group("What it takes out")
    settings = {"scheduler": SAMPLER["scheduler"], "steps": SAMPLER["steps"]}
    sigmas = sheet.add("BasicScheduler", folded=True, model=cleaned, **settings)["SIGMAS"]
    spectrum = sheet.add("CleanStyleSpectrum", model=cleaned, sigmas=sigmas)["image"]
    sheet.column("Sample three times", width=272)
    sampled = {}
    for title, each in (("By the prompt", model), ("With the image", styled), ("Purified", cleaned)):
        settings = {**conds, **SAMPLER, "latent_image": latent, "seed": SEED, "cfg": 5.0, "control": "fixed"}
        sampled[title] = sheet.add("KSampler", title, model=each, **settings)["LATENT"]
    sheet.column("Side by side", width=490)
    joined = parts.side_by_side(sheet, sampled, vae, spacing=16)
    sheet.add("SaveImage", images=joined, filename_prefix="cleanstyle/before_after", room=290)
    sheet.group("What is taken out")
    sheet.add("PreviewImage", "What is taken out", images=spectrum, room=320)
    return sheet


def sdxl_cleanstyle_student() -> Sheet:
    sheet = Sheet(
        "sdxl_cleanstyle_student",
        "## The style of a picture, in 4 steps at CFG 1 (SDXL)\n\n"
        "A SiD student with an IP-Adapter and **CleanStyle**. At CFG 1 there is no unconditional half that could lead "
        "away from the picture's content, so *attention_strength* does it inside attention. A student begins at 37 % "
        "of the way from noise to image, so *center* is later than usual.\n\n"
        f"{SDXL_FILES}"
        f"- a student of your SDXL model: *{TITLES['sdxl_distil_lora']}* makes one. A LoRA of another few-step method "
        "(LCM, Lightning, DMD2) works too, with *Load LoRA* and *KSampler* in the place of both SiD nodes.\n\n"
        f"{CHOOSE}"
        "2. Press **Run**. Set *attention_strength* to 0 to see what it does.",
        note_height=420,
        models=SDXL_MODELS,
    )
    model, clip, vae = _checkpoint(sheet, models.SDXL)
    student = sheet.add("SiDLoadStudent", model=model, student="sdxl_student_00001_.safetensors")["model"]
    prompt = parts.prompt(sheet, clip, PROMPT)
    styled = _image_prompt(sheet, student, blocks=STYLE_BLOCK)
    cleaned = _cleaned(sheet, styled, center=0.6, style_negative="hard", attention_strength=1.0)
    sheet.group("Draw in 4 steps")
    latent = sheet.add("SiDGenerate", model=cleaned, positive=prompt, width=1024, height=1024)["latent"]
    sheet.column("Picture", width=480)
    parts.picture(sheet, latent, vae, "cleanstyle/sdxl_student", room=480)
    return sheet


def sd15_cleanstyle_styleshot() -> Sheet:
    files = (models.SD15, models.STYLESHOT, models.STYLESHOT_ENCODER)
    sheet = Sheet(
        "sd15_cleanstyle_styleshot",
        "## StyleShot without content (SD 1.5)\n\n"
        "StyleShot has an encoder for style alone; **CleanStyle** takes out what content is left in its tokens.\n\n"
        f"Files:\n{models.listed(*files)}\n{CHOOSE}"
        "2. Press **Run**. *center* and *negative_alpha* are the authors' for StyleShot.",
        note_height=280,
        models=files,
    )
    model, clip, vae = _checkpoint(sheet, models.SD15)
    conds, latent = _prompts(sheet, clip, size=512)
    sheet.column("Style, by StyleShot", width=320)
    adapter = sheet.add(
        "CleanStyleIPAdapterLoader", ip_adapter=models.STYLESHOT.name, style_encoder=models.STYLESHOT_ENCODER.name
    )
    image = _style_image(sheet)
    styled = sheet.add("CleanStyleIPAdapter", model=model, ip_adapter=adapter["ip_adapter"], image=image)["model"]
    cleaned = _cleaned(sheet, styled, center=0.35, negative_alpha=0.1)
    _sample(sheet, cleaned, conds, latent, vae, "cleanstyle/styleshot", cfg=7.5)
    return sheet


def sdxl_cleanstyle_ipadapter_plus() -> Sheet:
    sheet = Sheet(
        "sdxl_cleanstyle_ipadapter_plus",
        "## CleanStyle after IPAdapter_plus (SDXL)\n\n"
        "**CleanStyle** purifies what IPAdapter_plus has put onto the MODEL; weight types, masks and chained adapters "
        "stay as they are. It needs the pack *ComfyUI_IPAdapter_plus* or a fork of it, from ComfyUI Manager.\n\n"
        f"{SDXL_FILES}\n{CHOOSE}"
        "2. Press **Run**. Bypass *CleanStyle* (Ctrl+B) to compare.",
        note_height=295,
        models=SDXL_MODELS,
    )
    model, clip, vae = _checkpoint(sheet, models.SDXL)
    conds, latent = _prompts(sheet, clip, size=1024)
    sheet.column("The style", width=320)
    adapter = sheet.add("IPAdapterModelLoader", ipadapter_file=models.SDXL_ADAPTER.name)["IPADAPTER"]
    vision = sheet.add("CLIPVisionLoader", clip_name=models.SDXL_VISION.name)["CLIP_VISION"]
    image = _style_image(sheet)
    styled = sheet.add(
        "IPAdapterAdvanced",
        model=model,
        ipadapter=adapter,
        image=image,
        clip_vision=vision,
        weight_type="style transfer",
    )["MODEL"]
    cleaned = _cleaned(sheet, styled)
    _sample(sheet, cleaned, conds, latent, vae, "cleanstyle/ipadapter_plus", cfg=5.0)
    return sheet


def flux_cleanstyle_redux() -> Sheet:
    files = (models.FLUX, models.REDUX, models.REDUX_VISION)
    sheet = Sheet(
        "flux_cleanstyle_redux",
        "## Redux without the picture's content (FLUX)\n\n"
        "Redux joins a picture's tokens to those of the prompt. **CleanStyle Conditioning** takes the content out of "
        "them. Experimental.\n\n"
        f"Files:\n{models.listed(*files)}\n{CHOOSE}"
        "2. Press **Run**. Does the picture's subject still come along? Raise *alpha*, and lower *strength* of "
        "*Apply Style Model*.",
        note_height=295,
        models=files,
    )
    model, clip, vae = _checkpoint(sheet, models.FLUX)
    sheet.group("Prompt")
    text = parts.prompt(sheet, clip, PROMPT)
    prompt = sheet.add("FluxGuidance", conditioning=text, guidance=3.5)["CONDITIONING"]
    sheet.column("Style, by Redux", width=320)
    style_model = sheet.add("StyleModelLoader", style_model_name=models.REDUX.name)["STYLE_MODEL"]
    vision = sheet.add("CLIPVisionLoader", clip_name=models.REDUX_VISION.name)["CLIP_VISION"]
    image = _style_image(sheet)
    seen = sheet.add("CLIPVisionEncode", clip_vision=vision, image=image, crop="center")["CLIP_VISION_OUTPUT"]
    sheet.column("Clean it", width=320)
    styled = sheet.add("StyleModelApply", conditioning=prompt, style_model=style_model, clip_vision_output=seen)[
        "CONDITIONING"
    ]
    cleaned = sheet.add("CleanStyleConditioning", with_style=styled, without_style=prompt)["positive"]
    sheet.column("How to sample", width=280)
    guider = sheet.add("BasicGuider", "Guider: the prompt alone", model=model, conditioning=cleaned)["GUIDER"]
    noise = sheet.add("RandomNoise")["NOISE"]
    sampler = sheet.add("KSamplerSelect", sampler_name="euler")["SAMPLER"]
    sigmas = sheet.add("BasicScheduler", model=model, scheduler="simple", steps=20)["SIGMAS"]
    latent = sheet.add("EmptySD3LatentImage", width=1024, height=1024)["LATENT"]
    sheet.column("Picture", width=400)
    sampled = sheet.add(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
    )
    parts.picture(sheet, sampled["output"], vae, "cleanstyle/redux", room=400)
    return sheet


SHEETS = [
    sdxl_cleanstyle,
    sdxl_cleanstyle_before_after,
    sdxl_cleanstyle_student,
    sd15_cleanstyle_styleshot,
    sdxl_cleanstyle_ipadapter_plus,
    flux_cleanstyle_redux,
]


def _checkpoint(sheet: Sheet, file: Model) -> tuple[Output, Output, Output]:
    sheet.group("Model")
    base = parts.checkpoint(sheet, file)
    return base["MODEL"], base["CLIP"], base["VAE"]


def _prompts(sheet: Sheet, clip: Output, size: int) -> tuple[dict[str, Output], Output]:
    sheet.group("Prompt and size")
    positive = parts.prompt(sheet, clip, PROMPT)
    negative = parts.prompt(sheet, clip, NEGATIVE, "Negative prompt")
    latent = sheet.add("EmptyLatentImage", width=size, height=size)["LATENT"]
    return {"positive": positive, "negative": negative}, latent


def _image_prompt(sheet: Sheet, model: Output, **settings: str) -> Output:
    sheet.column("Style of a picture", width=320)
    loaded = sheet.add("CleanStyleIPAdapterLoader", ip_adapter=models.SDXL_ADAPTER.name)["ip_adapter"]
    encoder = sheet.add("CLIPVisionLoader", clip_name=models.SDXL_VISION.name)["CLIP_VISION"]
    image = _style_image(sheet)
    return sheet.add(
        "CleanStyleIPAdapter", model=model, ip_adapter=loaded, image=image, clip_vision=encoder, **settings
    )["model"]


def _style_image(sheet: Sheet) -> Output:
    return sheet.add("LoadImage", "Style picture", image=STYLE_IMAGE)["IMAGE"]


def _cleaned(sheet: Sheet, styled: Output, **settings: float | str) -> Output:
    sheet.column("Clean it", width=320)
    return sheet.add("CleanStyle", model=styled, **settings)["model"]


def _sample(
    sheet: Sheet, model: Output, conds: dict[str, Output], latent: Output, vae: Output, prefix: str, *, cfg: float
) -> None:
    sheet.group("Sample")
    sampled = sheet.add("KSampler", model=model, **conds, latent_image=latent, cfg=cfg, **SAMPLER)["LATENT"]
    sheet.column("Picture", width=480)
    parts.picture(sheet, sampled, vae, prefix, room=480)
