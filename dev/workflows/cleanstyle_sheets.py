"""The pack's workflows with CleanStyle. All but the demo's run with files of the user's."""

from .demo import PICTURES, SHOWN, SIDE, STYLES_LISTED
from .sheet import Output, Sheet

STYLE_IMAGE = "example.png"  # every ComfyUI has it; users choose their own
PROMPT = "a cat sitting on a garden wall"
NEGATIVE = "lowres, blurry, text, watermark"
SEED = 42
STYLE_BLOCK = "style (InstantStyle)"
SAMPLER = {"steps": 30, "sampler_name": "dpmpp_2m", "scheduler": "karras"}
HUB = "https://huggingface.co"
SDXL_FILE = "sd_xl_base_1.0.safetensors"
SD15_FILE = "v1-5-pruned-emaonly-fp16.safetensors"
ADAPTER = "ip-adapter_sdxl.safetensors"
VISION = "CLIP-ViT-bigG-14-laion2B-39B-b160k.safetensors"
SDXL_FILES = (
    f"- [{SDXL_FILE}]({HUB}/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/{SDXL_FILE}) in "
    "`models/checkpoints`\n"
    f"- [{ADAPTER}]({HUB}/h94/IP-Adapter/resolve/main/sdxl_models/{ADAPTER}) in `models/ipadapter`\n"
    f"- its [image encoder]({HUB}/h94/IP-Adapter/resolve/main/sdxl_models/image_encoder/model.safetensors) as "
    f"`{VISION}` in `models/clip_vision`\n"
)

DEMO_ADAPTER = "demo (comes with the pack)"
DEMO_SAMPLER = {"steps": 12, "cfg": 4.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"}


def demo_cleanstyle() -> Sheet:
    sheet = Sheet(
        "demo_cleanstyle",
        "## The style of a picture, not its subject\n\n"
        "With the small model that comes with this pack: no download, and any CPU will do. It draws a style picture "
        "first. Each picture that is saved then shows, from left to right, **the style picture, what the prompt alone "
        "gives, what it gives with the image prompt, and that with CleanStyle**, all from one seed.\n\n"
        "1. Press **Run**.\n"
        "2. Write another *Prompt*, or another *Prompt of the style picture*: a subject and a style. Styles are "
        f"{STYLES_LISTED}. For a picture of "
        "your own put *Load Image* in the place of *Style picture*.\n"
        "3. Does its subject come along? Raise *alpha* of *CleanStyle*. Is the style lost? Lower it.",
        note_height=330,
    )
    sheet.column("Model")
    demo = sheet.add("SiDDemoModel")
    model, clip, vae, vision = (demo[name] for name in ("model", "clip", "vae", "clip_vision"))
    empty = sheet.add("CLIPTextEncode", "Empty prompt", clip=clip, text="")["CONDITIONING"]
    sheet.column("Style picture")
    wanted = sheet.add("CLIPTextEncode", "Prompt of the style picture", clip=clip, text="rocket, woodcut")
    latent = sheet.add("EmptyLatentImage", "One picture", width=SIDE, height=SIDE)["LATENT"]
    drawn = _demo_sampled(sheet, "Draw it", model, wanted["CONDITIONING"], empty, latent)
    style = sheet.add("VAEDecode", "Style picture", samples=drawn, vae=vae)["IMAGE"]
    sheet.column("Image prompt, without and with CleanStyle", width=340)
    adapter = sheet.add("CleanStyleIPAdapterLoader", ip_adapter=DEMO_ADAPTER)["ip_adapter"]
    styled = sheet.add("CleanStyleIPAdapter", model=model, ip_adapter=adapter, image=style, clip_vision=vision)["model"]
    cleaned = sheet.add("CleanStyle", model=styled)["model"]
    sheet.column("Prompt")
    prompt = sheet.add("CLIPTextEncode", "Prompt", clip=clip, text="elephant")["CONDITIONING"]
    latents = sheet.add("EmptyLatentImage", "Pictures", width=SIDE, height=SIDE, batch_size=PICTURES)["LATENT"]
    sheet.column("Sample three times")
    pictures = [style]
    for title, each in (("By the prompt", model), ("With the image", styled), ("Purified", cleaned)):
        sampled = _demo_sampled(sheet, title, each, prompt, empty, latents)
        pictures.append(sheet.add("VAEDecode", f"{title}: picture", samples=sampled, vae=vae)["IMAGE"])
    sheet.column("Side by side", width=620)
    first, *others = pictures
    for title, other in zip(("Two pictures", "Three pictures", "Four pictures"), others, strict=True):
        first = sheet.add("ImageStitch", title, image1=first, image2=other, spacing_width=4)["IMAGE"]
    shown = sheet.add("ImageScale", "Enlarge 4 times", image=first, upscale_method="lanczos", width=0, height=SHOWN)
    sheet.add("SaveImage", images=shown["IMAGE"], filename_prefix="cleanstyle/demo", room=320)
    return sheet


def sdxl_cleanstyle() -> Sheet:
    sheet = Sheet(
        "sdxl_cleanstyle",
        "## The style of a picture, not its subject (SDXL)\n\n"
        "An IP-Adapter in InstantStyle's block for style, and **CleanStyle** after it.\n\n"
        f"Files:\n{SDXL_FILES}\n"
        "1. Press **R**, choose the files, and a picture in *Style picture*.\n"
        "2. Press **Run**.\n"
        "3. Does the picture's subject still come along? Raise *alpha*. Is style lost? Lower it, or raise *top_k*.",
        note_height=330,
    )
    model, clip, vae = _checkpoint(sheet, SDXL_FILE)
    sheet.column("Style", width=340)
    styled = _image_prompt(sheet, model, ADAPTER, VISION, blocks=STYLE_BLOCK)
    sheet.column("CleanStyle", width=320)
    cleaned = sheet.add("CleanStyle", model=styled)["model"]
    _sample(sheet, cleaned, clip, vae, "cleanstyle/sdxl", size=1024, cfg=5.0)
    return sheet


def sdxl_cleanstyle_student() -> Sheet:
    sheet = Sheet(
        "sdxl_cleanstyle_student",
        "## The style of a picture, in 4 steps at CFG 1 (SDXL)\n\n"
        "A SiD student with an IP-Adapter and **CleanStyle**. At CFG 1 there is no unconditional half that could lead "
        "away from the picture's content, so *attention_strength* does it inside attention. A student begins at 37 % "
        "of the way from noise to image, so *center* is later than usual.\n\n"
        f"Files:\n{SDXL_FILES}"
        "- a student of your SDXL model: *sdxl_distil_lora* makes one. A LoRA of another few-step method (LCM, "
        "Lightning, DMD2) works too, with ComfyUI's *Load LoRA* and *KSampler* in the place of both SiD nodes.\n\n"
        "1. Press **R**, choose the files, and a picture in *Style picture*.\n"
        "2. Press **Run**. Set *attention_strength* to 0 to see what it does.",
        note_height=390,
    )
    model, clip, vae = _checkpoint(sheet, SDXL_FILE)
    student = sheet.add("SiDLoadStudent", model=model, student="sdxl_student_00001_.safetensors")["model"]
    sheet.column("Style", width=340)
    styled = _image_prompt(sheet, student, ADAPTER, VISION, blocks=STYLE_BLOCK)
    sheet.column("CleanStyle", width=320)
    cleaned = sheet.add("CleanStyle", model=styled, center=0.6, style_negative="hard", attention_strength=1.0)["model"]
    sheet.column("Prompt and sample", width=320)
    prompt = sheet.add("CLIPTextEncode", "Prompt", clip=clip, text=PROMPT)["CONDITIONING"]
    latent = sheet.add("SiDGenerate", model=cleaned, positive=prompt, width=1024, height=1024)["latent"]
    _picture(sheet, latent, vae, "cleanstyle/sdxl_student")
    return sheet


def sd15_cleanstyle_styleshot() -> Sheet:
    sheet = Sheet(
        "sd15_cleanstyle_styleshot",
        "## StyleShot without content (SD 1.5)\n\n"
        "StyleShot has an encoder for style alone; **CleanStyle** takes out what content is left in its tokens.\n\n"
        "Files:\n"
        f"- [{SD15_FILE}]({HUB}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/{SD15_FILE}) in "
        "`models/checkpoints`\n"
        f"- `ip.bin` and `style_aware_encoder.bin` of [StyleShot]({HUB}/Gaojunyao/StyleShot/tree/main/"
        "pretrained_weight), in `models/ipadapter`\n\n"
        "1. Press **R**, choose the files, and a picture in *Style picture*.\n"
        "2. Press **Run**. *center* and *negative_alpha* are the authors' for StyleShot.",
        note_height=290,
    )
    model, clip, vae = _checkpoint(sheet, SD15_FILE)
    sheet.column("Style", width=340)
    adapter = sheet.add("CleanStyleIPAdapterLoader", ip_adapter="ip.bin", style_encoder="style_aware_encoder.bin")
    image = sheet.add("LoadImage", "Style picture", image=STYLE_IMAGE, room=260)
    styled = sheet.add("CleanStyleIPAdapter", model=model, ip_adapter=adapter["ip_adapter"], image=image["IMAGE"])
    sheet.column("CleanStyle", width=320)
    cleaned = sheet.add("CleanStyle", model=styled["model"], center=0.35, negative_alpha=0.1)["model"]
    _sample(sheet, cleaned, clip, vae, "cleanstyle/styleshot", size=512, cfg=7.5)
    return sheet


def sdxl_cleanstyle_ipadapter_plus() -> Sheet:
    sheet = Sheet(
        "sdxl_cleanstyle_ipadapter_plus",
        "## CleanStyle after IPAdapter_plus (SDXL)\n\n"
        "**CleanStyle** purifies what IPAdapter_plus has put onto the MODEL; weight types, masks and chained adapters "
        "stay as they are. It needs the pack *ComfyUI_IPAdapter_plus* or a fork of it, from ComfyUI Manager.\n\n"
        f"Files:\n{SDXL_FILES}\n"
        "1. Press **R**, choose the files, and a picture in *Style picture*.\n"
        "2. Press **Run**. Bypass *CleanStyle* (Ctrl+B) to compare.",
        note_height=310,
    )
    model, clip, vae = _checkpoint(sheet, SDXL_FILE)
    sheet.column("Style, by IPAdapter_plus", width=340)
    adapter = sheet.add("IPAdapterModelLoader", ipadapter_file=ADAPTER)["IPADAPTER"]
    vision = sheet.add("CLIPVisionLoader", clip_name=VISION)["CLIP_VISION"]
    image = sheet.add("LoadImage", "Style picture", image=STYLE_IMAGE, room=260)["IMAGE"]
    styled = sheet.add(
        "IPAdapterAdvanced",
        model=model,
        ipadapter=adapter,
        image=image,
        clip_vision=vision,
        weight_type="style transfer",
    )["MODEL"]
    sheet.column("CleanStyle", width=320)
    cleaned = sheet.add("CleanStyle", model=styled)["model"]
    _sample(sheet, cleaned, clip, vae, "cleanstyle/ipadapter_plus", size=1024, cfg=5.0)
    return sheet


def sdxl_cleanstyle_before_after() -> Sheet:
    sheet = Sheet(
        "sdxl_cleanstyle_before_after",
        "## Before and after\n\n"
        "The same prompt and seed three times, side by side: **the prompt alone, with the image prompt, and with "
        "CleanStyle after it**. Below, what is taken out of each layer, and when.\n\n"
        f"Files:\n{SDXL_FILES}\n"
        "1. Press **R**, choose the files, and in *Style picture* a picture whose subject is easy to know again.\n"
        "2. Press **Run**.\n"
        "3. Change one setting of *CleanStyle* at a time; the first two pictures are kept from the run before.",
        note_height=340,
    )
    model, clip, vae = _checkpoint(sheet, SDXL_FILE)
    sheet.column("Style", width=340)
    styled = _image_prompt(sheet, model, ADAPTER, VISION)
    sheet.column("CleanStyle", width=320)
    cleaned = sheet.add("CleanStyle", model=styled)["model"]
    sigmas = sheet.add("BasicScheduler", model=cleaned, scheduler=SAMPLER["scheduler"], steps=30)["SIGMAS"]
    spectrum = sheet.add("CleanStyleSpectrum", model=cleaned, sigmas=sigmas)["image"]
    sheet.add("PreviewImage", "What is taken out", images=spectrum, room=300)
    sheet.column("Prompt", width=300)
    conds, latent = _prompts(sheet, clip, size=1024)
    sheet.column("Sample three times")
    pictures = []
    for title, each in (("By the prompt", model), ("With the image", styled), ("Purified", cleaned)):
        sampled = sheet.add(
            "KSampler", title, model=each, **conds, latent_image=latent, seed=SEED, cfg=5.0, control="fixed", **SAMPLER
        )
        pictures.append(sheet.add("VAEDecode", samples=sampled["LATENT"], vae=vae)["IMAGE"])
    sheet.column("Side by side", width=620)
    first, *others = pictures
    for title, other in zip(("Two pictures", "Three pictures"), others, strict=True):
        first = sheet.add("ImageStitch", title, image1=first, image2=other, spacing_width=16)["IMAGE"]
    sheet.add("SaveImage", images=first, filename_prefix="cleanstyle/before_after", room=240)
    return sheet


SHEETS = [
    demo_cleanstyle,
    sdxl_cleanstyle,
    sdxl_cleanstyle_student,
    sd15_cleanstyle_styleshot,
    sdxl_cleanstyle_ipadapter_plus,
    sdxl_cleanstyle_before_after,
]


def _demo_sampled(
    sheet: Sheet, title: str, model: Output, positive: Output, negative: Output, latent: Output
) -> Output:
    conds = {"positive": positive, "negative": negative, "latent_image": latent}
    return sheet.add("KSampler", title, model=model, **conds, seed=SEED, control="fixed", **DEMO_SAMPLER)["LATENT"]


def _checkpoint(sheet: Sheet, file: str) -> tuple[Output, Output, Output]:
    sheet.column("Model", width=340)
    base = sheet.add("CheckpointLoaderSimple", ckpt_name=file)
    return base["MODEL"], base["CLIP"], base["VAE"]


def _image_prompt(sheet: Sheet, model: Output, adapter: str, vision: str, **settings: str) -> Output:
    loaded = sheet.add("CleanStyleIPAdapterLoader", ip_adapter=adapter)["ip_adapter"]
    encoder = sheet.add("CLIPVisionLoader", clip_name=vision)["CLIP_VISION"]
    image = sheet.add("LoadImage", "Style picture", image=STYLE_IMAGE, room=260)["IMAGE"]
    return sheet.add(
        "CleanStyleIPAdapter", model=model, ip_adapter=loaded, image=image, clip_vision=encoder, **settings
    )["model"]


def _prompts(sheet: Sheet, clip: Output, size: int) -> tuple[dict[str, Output], Output]:
    positive = sheet.add("CLIPTextEncode", "Prompt", clip=clip, text=PROMPT)["CONDITIONING"]
    negative = sheet.add("CLIPTextEncode", "Negative prompt", clip=clip, text=NEGATIVE)["CONDITIONING"]
    latent = sheet.add("EmptyLatentImage", width=size, height=size)["LATENT"]
    return {"positive": positive, "negative": negative}, latent


def _sample(sheet: Sheet, model: Output, clip: Output, vae: Output, prefix: str, *, size: int, cfg: float) -> None:
    sheet.column("Prompt", width=300)
    conds, latent = _prompts(sheet, clip, size)
    sheet.column("Sample")
    sampled = sheet.add("KSampler", model=model, **conds, latent_image=latent, cfg=cfg, **SAMPLER)
    _picture(sheet, sampled["LATENT"], vae, prefix)


def _picture(sheet: Sheet, latent: Output, vae: Output, prefix: str) -> None:
    image = sheet.add("VAEDecode", samples=latent, vae=vae)["IMAGE"]
    sheet.column("Picture", width=420)
    sheet.add("SaveImage", images=image, filename_prefix=prefix, room=420)
