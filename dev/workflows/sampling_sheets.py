"""Workflows that draw with a student, or look at a teacher."""

from . import models, parts
from .sheet import Output, Sheet
from .titles import TITLES

PHOTOGRAPH = "a lighthouse on a cliff at sunset, waves, dramatic clouds, photograph"
DEMO_GUIDANCE = 3.0
SEED = 42
CHANGE = 0.9  # of a picture: with less, half of the apples stay red


def demo_sample_student() -> Sheet:
    sheet = Sheet(
        "demo_sample_student",
        "## Pictures in 4 steps\n\n"
        "A **student** of the small text-to-emoji model that comes with this pack draws eight pictures of a prompt, in "
        "4 steps at CFG 1, each in some style. No download, and any CPU will do.\n\n"
        "1. Press **Run**. The pictures appear in *Save Image*; each further run draws others.\n"
        "2. Write another prompt. Names of emoji work best: **sunflower**, **cat face**, **penguin**. A style may "
        f"follow: **sunflower, cartoon**. There are {parts.STYLES_LISTED}.\n"
        "3. *steps* 0 means: as the student was trained. Try 1 or 2 and compare.",
        note_height=275,
    )
    sheet.group("Model")
    model, clip, vae = parts.demo_model(sheet, "student, 4 steps")
    sheet.column("Prompt")
    prompt = parts.prompt(sheet, clip, parts.SUBJECT)
    sheet.group("Draw in 4 steps")
    latent = sheet.add("SiDGenerate", model=model, positive=prompt, **parts.SMALL)
    sheet.column("Pictures", width=500)
    parts.small_pictures(sheet, latent["latent"], vae, "sid/student")
    return sheet


def demo_sample_student_stock() -> Sheet:
    sheet = Sheet(
        "demo_sample_student_stock",
        "## The student, with ComfyUI's own sampling nodes\n\n"
        "*SiD Generate* taken apart: the student's own sigmas (*SiD Scheduler*) and its sampler (*SiD Sampler*) in "
        "**SamplerCustomAdvanced**, as you need it for inpainting or to use other packs' nodes in between.\n\n"
        "1. Press **Run**.\n"
        "2. Put a *KSamplerSelect* with **lcm** in the place of *SiD Sampler*: that is the same method as its "
        "*noise_mode* **fresh**.",
        note_height=240,
    )
    sheet.group("Model")
    model, clip, vae = parts.demo_model(sheet, "student, 4 steps")
    sheet.column("Prompt")
    prompt = parts.prompt(sheet, clip, parts.SUBJECT)
    sheet.group("How to sample")
    guider = sheet.add("BasicGuider", "Guider: the prompt alone, CFG 1", model=model, conditioning=prompt)["GUIDER"]
    sampler = sheet.add("SiDSampler")["sampler"]
    sigmas = sheet.add("SiDScheduler", model=model)["sigmas"]
    sheet.column("Sample")
    noise, empty = _noise(sheet), _latents(sheet)
    sampled = sheet.add(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=empty
    )
    sheet.column("Pictures", width=500)
    parts.small_pictures(sheet, sampled["output"], vae, "sid/student_stock")
    return sheet


def demo_teacher() -> Sheet:
    sheet = Sheet(
        "demo_teacher",
        "## What a student would learn from\n\n"
        "A guider makes of a model the **teacher** that *SiD Distill* learns from, and here it can be looked at. Each "
        "picture that is saved has three beside each other, from one seed: **LSG, Zero-CFG, Anti-CFG**.\n\n"
        "- **LSG**: one *guidance_scale* for the teacher and the fake score. Higher follows the prompt more closely, "
        "with less variety; 1 is no guidance.\n"
        "- **Zero-CFG**: the teacher is not guided, and the fake score does without the prompt. It is the fastest, and "
        "meant for learning from real pictures too; from prompts alone LSG's student fits the prompt better and varies "
        "more.\n"
        "- **Anti-CFG**: the teacher is not guided, and the fake score is guided *negatively* while distilling. It "
        "favours pictures that fit the prompt. Its teacher looks like that of Zero-CFG.\n\n"
        "1. Press **Run**, change *guidance_scale*, run again.\n"
        f"2. Connect the guider that you like to *SiD Distill*: see *{TITLES['demo_distil']}*.",
        note_height=400,
    )
    sheet.group("Model")
    model, clip, vae = parts.demo_model(sheet, "teacher")
    sheet.group("Prompt")
    conds = {"positive": parts.prompt(sheet, clip, parts.SUBJECT), "negative": parts.empty_prompt(sheet, clip)}
    sheet.column("Three ways to guide")
    lsg = sheet.add("SiDLSGGuider", model=model, **conds, guidance_scale=DEMO_GUIDANCE)
    zero = sheet.add("SiDZeroCFGGuider", model=model, **conds)
    anti = sheet.add("SiDAntiCFGGuider", model=model, **conds)
    sheet.group("20 steps, one seed")
    noise = _noise(sheet, control="fixed", noise_seed=SEED)
    sampler = sheet.add("KSamplerSelect", sampler_name="dpmpp_2m")["SAMPLER"]
    sigmas = sheet.add("BasicScheduler", model=model, scheduler="karras", steps=20)["SIGMAS"]
    sheet.column("Sample three times")
    shared = {"noise": noise, "sampler": sampler, "sigmas": sigmas, "latent_image": _latents(sheet)}
    guiders = {"LSG": lsg, "Zero-CFG": zero, "Anti-CFG": anti}
    sampled = {
        title: sheet.add("SamplerCustomAdvanced", title, guider=guider["guider"], **shared)["output"]
        for title, guider in guiders.items()
    }
    sheet.column("Side by side", width=500)
    joined = parts.side_by_side(sheet, sampled, vae, spacing=4)
    parts.save_enlarged(sheet, joined, "sid/teacher", width=0, room=420)
    return sheet


def demo_change_picture() -> Sheet:
    sheet = Sheet(
        "demo_change_picture",
        "## Change a picture, or a part of it\n\n"
        "The demo's **student** draws a picture, and changes it by another prompt. Each picture that is saved shows "
        "**the first, all of it changed, and its left half changed**.\n\n"
        "1. Press **Run**.\n"
        "2. *denoise* says how much: with 0.5 the student begins at half of its first time, and runs its last two of "
        "four steps. Try 0.5 and 1.\n"
        "3. A picture of your own: *Load Image* and *VAE Encode* in the place of *The first*, 64x64 pixels for the "
        "demo; and the mask that you paint on it in the place of *Left half*.",
        note_height=320,
    )
    sheet.group("Model")
    model, clip, vae = parts.demo_model(sheet, "student, 4 steps")
    sheet.group("Prompts")
    apple = parts.prompt(sheet, clip, parts.SUBJECT)
    lemon = parts.prompt(sheet, clip, "lemon", "Prompt of the change")
    sheet.column("Draw")
    first = sheet.add("SiDGenerate", "The first", model=model, positive=apple, **parts.SMALL)["latent"]
    sheet.group("The part to change")
    nothing = sheet.add("SolidMask", "Nothing", folded=True, value=0.0, width=parts.SIDE, height=parts.SIDE)["MASK"]
    half = sheet.add("SolidMask", "Half", folded=True, value=1.0, width=parts.SIDE // 2, height=parts.SIDE)["MASK"]
    left = sheet.add(
        "MaskComposite", "Left half", folded=True, destination=nothing, source=half, x=0, y=0, operation="add"
    )["MASK"]
    masked = sheet.add("SetLatentNoiseMask", "Latent and mask", folded=True, samples=first, mask=left)["LATENT"]
    sheet.column("Change all of it")
    # The size is the latent's; the settings for it read the same, so that nobody takes it for another.
    change = {"model": model, "positive": lemon, "denoise": CHANGE, **parts.SMALL}
    changed = sheet.add("SiDGenerate", "All changed", latent_image=first, **change)["latent"]
    sheet.column("Change a part")
    inpainted = sheet.add("SiDGenerate", "Part changed", latent_image=masked, **change)["latent"]
    sheet.column("Side by side", width=500)
    latents = {"The first": first, "All changed": changed, "Part changed": inpainted}
    parts.save_enlarged(sheet, parts.side_by_side(sheet, latents, vae, spacing=4), "sid/changed", width=0, room=420)
    return sheet


def demo_extract_lora() -> Sheet:
    sheet = Sheet(
        "demo_extract_lora",
        "## A student as a small LoRA\n\n"
        "**SiD Extract LoRA** takes what a student has learnt beyond its base, and keeps the most of it that a LoRA of "
        "the *rank* can hold. Each picture that is saved has two beside each other, from one seed: drawn by **the "
        "student, and by the LoRA**.\n\n"
        "1. Press **Run**. The node says how far off the LoRA is, and in which layers; *report* has all layers.\n"
        "2. Set *rank* to **1**, then to **12**, which is all that this student has. A whole student wants more: 64 "
        "to begin with.\n"
        "3. Lower *energy*, as to **0.9**: each layer then has no more of the rank than it needs.\n\n"
        "*SiD Save Student* writes it to **output/loras**.",
        note_height=310,
    )
    sheet.group("Student and base")
    four = sheet.add("SiDDemoModel", "The student", weights="student, 4 steps")
    teacher = sheet.add("SiDDemoModel", "The base", weights="teacher")
    sheet.group("Prompt")
    prompt = parts.prompt(sheet, teacher["clip"], parts.SUBJECT)
    sheet.column("Make it a LoRA", width=330)
    small = sheet.add("SiDExtractLoRA", model=four["model"], base=teacher["model"], rank=6)["student"]
    sheet.add("SiDSaveStudent", model=small, filename_prefix="demo_small_student")
    sheet.column("Draw with both")
    drawn = {
        title: sheet.add("SiDGenerate", title, model=model, positive=prompt, **parts.SMALL, control="fixed", seed=SEED)
        for title, model in {"By the student": four["model"], "By the LoRA": small}.items()
    }
    sheet.column("Side by side", width=500)
    latents = {title: each["latent"] for title, each in drawn.items()}
    joined = parts.side_by_side(sheet, latents, teacher["vae"], spacing=4)
    parts.save_enlarged(sheet, joined, "sid/small_student", width=0, room=380)
    return sheet


def sdxl_sample_student() -> Sheet:
    sheet = Sheet(
        "sdxl_sample_student",
        "## SDXL in a few steps\n\n"
        "A student that you have distilled, on the model that it was distilled from.\n\n"
        f"1. Get\n{models.listed(models.SDXL)}"
        f"2. Get a student: this pack comes with none for SDXL. *{TITLES['sdxl_distil_lora']}* makes one, in "
        "**output/loras**; one from elsewhere goes into **models/loras** or, if it is a whole model, "
        "**models/diffusion_models**.\n"
        "3. Press **R** to refresh the lists, choose both files, press **Run**.\n\n"
        "The student brings its steps along. A file that was distilled from another model is refused, with the "
        "reason. Models of another family go the same way: choose their files, and their size (512 for SD 1.5).",
        note_height=355,
        models=(models.SDXL,),
    )
    sheet.group("Model")
    base = parts.checkpoint(sheet, models.SDXL, "The model it was distilled from")
    sheet.column("Student", width=340)
    student = sheet.add("SiDLoadStudent", model=base["MODEL"], student="sdxl_student_00001_.safetensors")["model"]
    sheet.group("Prompt")
    prompt = parts.prompt(sheet, base["CLIP"], PHOTOGRAPH)
    sheet.group("Draw in a few steps")
    latent = sheet.add("SiDGenerate", model=student, positive=prompt, width=1024, height=1024)["latent"]
    sheet.column("Picture", width=480)
    parts.picture(sheet, latent, base["VAE"], "sid/sdxl", room=480)
    return sheet


def sdxl_second_pass() -> Sheet:
    sheet = Sheet(
        "sdxl_second_pass",
        "## Larger than the student has learnt, by a second pass\n\n"
        "A student draws best at the size that it was trained at. For a larger picture its latent is enlarged, and the "
        "student goes over it once more with *denoise* below 1, so that it fills in what enlarging left vague.\n\n"
        f"1. Files as for *{TITLES['sdxl_sample_student']}*:\n{models.listed(models.SDXL)}"
        "2. Press **Run**. The picture is decoded in tiles, which takes less memory.\n"
        "3. Does the second pass invent too much? Lower its *denoise*: 0.5 is the last two of four steps, 0.25 the "
        "last.",
        note_height=330,
        models=(models.SDXL,),
    )
    sheet.group("Model")
    base = parts.checkpoint(sheet, models.SDXL, "The model it was distilled from")
    sheet.column("Student", width=320)
    student = sheet.add("SiDLoadStudent", model=base["MODEL"], student="sdxl_student_00001_.safetensors")["model"]
    sheet.group("Prompt")
    prompt = parts.prompt(sheet, base["CLIP"], PHOTOGRAPH)
    sheet.column("Draw in a few steps")
    drawn = {"model": student, "positive": prompt}
    first = sheet.add("SiDGenerate", "First pass", **drawn, width=1024, height=1024)["latent"]
    sheet.column("Enlarge, and go over it")
    larger = sheet.add("LatentUpscaleBy", samples=first, upscale_method="bislerp", scale_by=1.5)["LATENT"]
    enlarged = {"latent_image": larger, "width": 1536, "height": 1536}  # what the latent has, which decides
    second = sheet.add("SiDGenerate", "Second pass", **drawn, **enlarged, denoise=0.5)["latent"]
    sheet.column("Picture", width=440)
    image = sheet.add("VAEDecodeTiled", samples=second, vae=base["VAE"])["IMAGE"]
    sheet.add("SaveImage", images=image, filename_prefix="sid/sdxl_larger", room=440)
    return sheet


SHEETS = [
    demo_sample_student,
    demo_sample_student_stock,
    demo_teacher,
    demo_change_picture,
    demo_extract_lora,
    sdxl_sample_student,
    sdxl_second_pass,
]


def _noise(sheet: Sheet, control: str = "randomize", **settings: int) -> Output:
    return sheet.add("RandomNoise", control=control, **settings)["NOISE"]


def _latents(sheet: Sheet) -> Output:
    return sheet.add("EmptyLatentImage", **parts.SMALL)["LATENT"]
