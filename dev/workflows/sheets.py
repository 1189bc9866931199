"""The pack's workflows."""

from . import cleanstyle_sheets
from .demo import PICTURES, SHOWN, SIDE, STYLES_LISTED
from .sheet import Node, Output, Sheet, Value

PROMPT = "red apple"
TRAINING_PROMPTS = "emoji_names.txt"
DEMO_GUIDANCE = 3.0
PHOTOGRAPH = "a lighthouse on a cliff at sunset, waves, dramatic clouds, photograph"
FIRST_LOOK = (
    PHOTOGRAPH,
    "portrait of an old fisherman with a grey beard, soft window light",
    "a red fox asleep in the snow, close-up",
    "a bowl of ramen on a wooden table, steam, top view",
    "a steam train crossing a stone viaduct, morning fog",
    "watercolour of a village square with a fountain",
    "an astronaut riding a horse across a salt flat",
    "a cosy reading room full of books, oil lamp, rain outside",
)


def demo_sample_student() -> Sheet:
    sheet = Sheet(
        "demo_sample_student",
        "## Pictures in 4 steps\n\n"
        "A **student** of the small text-to-emoji model that comes with this pack draws eight pictures of a prompt, in "
        "4 steps at CFG 1, each in some style. No download, and any CPU will do.\n\n"
        "1. Press **Run**. The pictures appear in *Save Image*; each further run draws others.\n"
        "2. Write another prompt. Names of emoji work best: `sunflower`, `cat face`, `penguin`. A style may follow: "
        f"`sunflower, cartoon`. There are {STYLES_LISTED}.\n"
        "3. *steps* 0 means: as the student was trained. Try 1 or 2 and compare.",
        note_height=250,
    )
    sheet.column("Model")
    model, clip, vae = _demo(sheet, "student, 4 steps")
    sheet.column("Prompt")
    prompt = _prompt(sheet, clip, PROMPT)
    sheet.column("Sample")
    latent = sheet.add("SiDGenerate", model=model, positive=prompt, width=SIDE, height=SIDE, batch_size=PICTURES)
    _pictures(sheet, latent["latent"], vae, "sid/student")
    return sheet


def demo_sample_student_stock() -> Sheet:
    sheet = Sheet(
        "demo_sample_student_stock",
        "## The student, with ComfyUI's own sampling nodes\n\n"
        "*SiD Generate* taken apart: the student's own sigmas (*SiD Scheduler*) and its sampler (*SiD Sampler*) in "
        "**SamplerCustomAdvanced**, as you need it for inpainting or to use other packs' nodes in between.\n\n"
        "1. Press **Run**.\n"
        "2. Put a *KSamplerSelect* with `lcm` in the place of *SiD Sampler*: that is the same method as its "
        "*noise_mode* `fresh`.",
        note_height=200,
    )
    sheet.column("Model")
    model, clip, vae = _demo(sheet, "student, 4 steps")
    sheet.column("Prompt")
    prompt = _prompt(sheet, clip, PROMPT)
    sheet.column("How to sample")
    guider = sheet.add("BasicGuider", "Guider: the prompt alone, CFG 1", model=model, conditioning=prompt)
    sampler = sheet.add("SiDSampler")
    sigmas = sheet.add("SiDScheduler", model=model)
    _sample_custom(sheet, guider["GUIDER"], sampler["sampler"], sigmas["sigmas"], vae, "sid/student_stock")
    return sheet


def demo_teacher_lsg() -> Sheet:
    return _demo_teacher(
        "demo_teacher_lsg",
        "SiDLSGGuider",
        "## The teacher under LSG\n\n"
        "**Long-short guidance** uses one guidance scale for the teacher and the fake score. What you see is the "
        "teacher that *SiD Distill* would learn from when it gets this guider.\n\n"
        "1. Press **Run**.\n"
        "2. Change *guidance_scale*: higher follows the prompt more closely, with less variety. 1 is no guidance.\n"
        "3. When you like the pictures, connect the same guider to *SiD Distill* (see *demo_distil*).",
        note_height=220,
        guidance_scale=DEMO_GUIDANCE,
    )


def demo_teacher_zero_cfg() -> Sheet:
    return _demo_teacher(
        "demo_teacher_zero_cfg",
        "SiDZeroCFGGuider",
        "## The teacher under Zero-CFG\n\n"
        "**Zero-CFG** does not guide the teacher: these are its pictures at CFG 1, from one forward a step. While "
        "distilling, the fake score does without the prompt. It favours variety.\n\n"
        "1. Press **Run**.\n"
        "2. Compare with *demo_teacher_lsg*, where the teacher is guided.",
        note_height=190,
    )


def demo_teacher_anti_cfg() -> Sheet:
    return _demo_teacher(
        "demo_teacher_anti_cfg",
        "SiDAntiCFGGuider",
        "## The teacher under Anti-CFG\n\n"
        "**Anti-CFG** does not guide the teacher: these are its pictures at CFG 1, from one forward a step. While "
        "distilling, the fake score is guided *negatively*. It favours pictures that fit the prompt.\n\n"
        "1. Press **Run**.\n"
        "2. *fake_guidance_scale* changes nothing here: it is for *SiD Distill*. Compare with *demo_teacher_lsg*, "
        "where the teacher is guided.",
        note_height=200,
    )


def demo_distil() -> Sheet:
    sheet = Sheet(
        "demo_distil",
        "## Distil a model, and sample the student\n\n"
        "**SiD Distill** makes a 4-step student of the demo teacher, a LoRA, from the names of emoji alone, without "
        "a picture to learn from. On a CPU this takes some minutes.\n\n"
        "1. Press **Run**. *SiD Distill* shows its progress, and every 50 iterations what the student draws.\n"
        "2. At its end, the student draws the prompt in *Save Image*, and *SiD Save Student* writes it to "
        "`output/loras`.\n"
        "3. **Cancel** keeps what was learnt: run again, and it goes on. Raise *iterations* to learn for longer.\n\n"
        "For a model of your own, replace the demo model by its loader, give prompts of the kind you will write, set "
        "the latent to its size, and *preset* to its family: large models bear less than these learning rates.",
        note_height=290,
    )
    sheet.column("Model and prompt")
    model, clip, vae = _demo(sheet, "teacher")
    prompt = _prompt(sheet, clip, PROMPT)
    empty = _prompt(sheet, clip, "", title="∅-prompt (empty)")
    sheet.column("What to learn")
    guider = sheet.add("SiDLSGGuider", model=model, positive=prompt, negative=empty, guidance_scale=DEMO_GUIDANCE)
    prompts = sheet.add("SiDPrompts", file=TRAINING_PROMPTS)
    latent = sheet.add("EmptyLatentImage", "Size of the pictures", width=SIDE, height=SIDE)
    sheet.column("Distil", width=380)
    student = sheet.add(
        "SiDDistill",
        guider=guider["guider"],
        clip=clip,
        prompts=prompts["prompts"],
        latent=latent["LATENT"],
        vae=vae,
        iterations=200,
        batch_size=32,
        steps=4,
        student_learning_rate=1e-3,
        fake_learning_rate=2e-3,
        ema_half_life=1000.0,
        run_name="demo_student",
        preview_every=50,
        mode="lora",
        student_rank=12,
        fake_rank=16,
        lora_targets="all linear and convolution layers",
        gradient_checkpointing=False,
        control="fixed",
        room=320,
    )["student"]
    sheet.column("Use the student")
    sheet.add("SiDSaveStudent", model=student, filename_prefix="demo_student")
    sampled = sheet.add("SiDGenerate", model=student, positive=prompt, width=SIDE, height=SIDE, batch_size=PICTURES)
    _pictures(sheet, sampled["latent"], vae, "sid/distilled")
    return sheet


def demo_evaluate() -> Sheet:
    sheet = Sheet(
        "demo_evaluate",
        "## How good is a student?\n\n"
        "**SiD Evaluate** draws the same prompts by the demo teacher and by two students, and compares their pictures "
        "as an image encoder sees them: how near, how varied, how fast. No real pictures are needed. On a CPU this "
        "takes a minute.\n\n"
        "1. Press **Run**. The table appears on *SiD Evaluate*, and right of it plots and the three models' pictures.\n"
        "2. Raise *samples*: the intervals get narrower. What was drawn already is not drawn again.\n"
        "3. Set *steps* to `4, 2, 1` to see what students do in fewer steps than they were trained for.\n\n"
        "With your own models any CLIP_VISION will do; numbers of different ones can't be compared.",
        note_height=290,
    )
    sheet.column("Models and prompt")
    teacher = sheet.add("SiDDemoModel", "The teacher", weights="teacher")
    four = sheet.add("SiDDemoModel", "A student of 4 steps", weights="student, 4 steps")
    one = sheet.add("SiDDemoModel", "A student of 1 step", weights="student, 1 step")
    prompt = _prompt(sheet, teacher["clip"], PROMPT)
    empty = _prompt(sheet, teacher["clip"], "", title="∅-prompt (empty)")
    sheet.column("What to compare")
    guider = sheet.add(
        "SiDLSGGuider", model=teacher["model"], positive=prompt, negative=empty, guidance_scale=DEMO_GUIDANCE
    )
    prompts = sheet.add("SiDPrompts", file=TRAINING_PROMPTS)
    latent = sheet.add("EmptyLatentImage", "Size of the pictures", width=SIDE, height=SIDE)
    sheet.column("Evaluate", width=380)
    evaluated = sheet.add(
        "SiDEvaluate",
        prompts=prompts["prompts"],
        clip=teacher["clip"],
        vae=teacher["vae"],
        latent=latent["LATENT"],
        samples=64,
        teacher_steps=20,
        scheduler="karras",
        batch_size=32,
        labels="4 steps, 1 step",
        teacher=guider["guider"],
        clip_vision=teacher["clip_vision"],
        student_1=four["model"],
        student_2=one["model"],
        control="fixed",
        room=300,
    )
    sheet.column("Plots", width=460)
    sheet.add("PreviewImage", "Plots", images=evaluated["plots"], room=320)
    sheet.column("Pictures", width=460)
    sheet.add("SaveImage", images=evaluated["grid"], filename_prefix="sid/evaluated", room=420)
    return sheet


SDXL = "sdxl", "SDXL", "sd_xl_base_1.0.safetensors", "stabilityai/stable-diffusion-xl-base-1.0", 1024
SD15 = "sd15", "SD 1.5", "v1-5-pruned-emaonly-fp16.safetensors", "Comfy-Org/stable-diffusion-v1-5-archive", 512


def sdxl_sample_student() -> Sheet:
    return _checkpoint_student(*SDXL)


def sd15_sample_student() -> Sheet:
    return _checkpoint_student(*SD15)


def sdxl_distil_lora() -> Sheet:
    return _checkpoint_distil(*SDXL, preset="SDXL, LoRA")


def sd15_distil_lora() -> Sheet:
    return _checkpoint_distil(*SD15, preset="SD1.5, LoRA")


def sd15_distil_images() -> Sheet:
    name, family, checkpoint, repository, size = SD15
    sheet = Sheet(
        "sd15_distil_images",
        f"## Distil {family} with real pictures, and keep the best\n\n"
        f"As *{name}_distil_lora*, and two things more. **SiD Images**: from real pictures with captions the student "
        "learns what its teacher does not know (the adversarial term, SiDA). Only where they are better than what the "
        "student draws without them. **SiD Training Evaluation**: measures the student on its way, and the best comes "
        "out.\n\n"
        f"1. Put [{checkpoint}](https://huggingface.co/{repository}/resolve/main/{checkpoint}), or a fine-tune of it, "
        "into `models/checkpoints`, and any image encoder (CLIP vision) into `models/clip_vision`; choose both.\n"
        "2. Give *SiD Images* a folder of some thousand pictures of 512 pixels or more, a `.txt` with the caption "
        "beside each.\n"
        "3. Press **Run**. *adversarial_weight* of *SiD Training Options* is how much the pictures count.",
        note_height=330,
    )
    sheet.column("Model and prompt", width=340)
    base = sheet.add("CheckpointLoaderSimple", "The teacher", ckpt_name=checkpoint)
    eye = sheet.add("CLIPVisionLoader", "Image encoder", clip_name=cleanstyle_sheets.VISION)
    prompt = _prompt(sheet, base["CLIP"], PHOTOGRAPH)
    empty = _prompt(sheet, base["CLIP"], "", title="∅-prompt (empty)")
    sheet.column("What to learn", width=340)
    guider = sheet.add("SiDZeroCFGGuider", model=base["MODEL"], positive=prompt, negative=empty)
    pictures = sheet.add("SiDImages", folder="my_pictures")
    latent = sheet.add("EmptyLatentImage", "Size of the pictures", width=size, height=size)
    options = sheet.add("SiDTrainingOptions")
    evaluation = sheet.add("SiDTrainingEvaluation", clip_vision=eye["CLIP_VISION"])
    student = _distil_checkpoint(
        sheet,
        base,
        guider=guider["guider"],
        prompts=pictures["prompts"],
        latent=latent["LATENT"],
        run_name=f"{name}_images",
        preset="SD1.5, LoRA",
        options=options["options"],
        images=pictures["images"],
        evaluation=evaluation["evaluation"],
    )
    sheet.column("Use the student")
    sheet.add("SiDSaveStudent", model=student, filename_prefix=f"{name}_images_student")
    return sheet


SHEETS = [
    demo_sample_student,
    demo_sample_student_stock,
    demo_teacher_lsg,
    demo_teacher_zero_cfg,
    demo_teacher_anti_cfg,
    demo_distil,
    demo_evaluate,
    sdxl_sample_student,
    sd15_sample_student,
    sdxl_distil_lora,
    sd15_distil_lora,
    sd15_distil_images,
    *cleanstyle_sheets.SHEETS,
]


def _demo_teacher(name: str, guider_kind: str, note: str, *, note_height: int, **guidance: float) -> Sheet:
    sheet = Sheet(name, note, note_height=note_height)
    sheet.column("Model")
    model, clip, vae = _demo(sheet, "teacher")
    sheet.column("Prompt")
    prompt = _prompt(sheet, clip, PROMPT)
    empty = _prompt(sheet, clip, "", title="∅-prompt (empty)")
    sheet.column("How to sample")
    guider = sheet.add(guider_kind, model=model, positive=prompt, negative=empty, **guidance)
    sampler = sheet.add("KSamplerSelect", sampler_name="dpmpp_2m")
    sigmas = sheet.add("BasicScheduler", model=model, scheduler="karras", steps=20)
    prefix = f"sid/{name.removeprefix('demo_')}"
    _sample_custom(sheet, guider["guider"], sampler["SAMPLER"], sigmas["SIGMAS"], vae, prefix)
    return sheet


def _checkpoint_student(name: str, family: str, checkpoint: str, repository: str, size: int) -> Sheet:
    student = f"{name}_student"
    sheet = Sheet(
        f"{name}_sample_student",
        f"## {family} in a few steps\n\n"
        "A student that you have distilled, on the model that it was distilled from.\n\n"
        f"1. Put [{checkpoint}](https://huggingface.co/{repository}/resolve/main/{checkpoint}) into "
        "`models/checkpoints`.\n"
        f"2. Get a student: this pack comes with none for {family}. *{name}_distil_lora* makes one, in `output/loras`; "
        "one from elsewhere goes into `models/loras` or, if it is a whole model, `models/diffusion_models`.\n"
        "3. Press **R** to refresh the lists, choose both files, press **Run**.\n\n"
        "The student brings its steps along. A file that was distilled from another model is refused, with the reason.",
        note_height=260,
    )
    sheet.column("Model", width=340)
    base = sheet.add("CheckpointLoaderSimple", "The model it was distilled from", ckpt_name=checkpoint)
    sheet.column("Student and prompt", width=340)
    loaded = sheet.add("SiDLoadStudent", model=base["MODEL"], student=f"{student}_00001_.safetensors")
    prompt = _prompt(sheet, base["CLIP"], PHOTOGRAPH)
    sheet.column("Sample")
    latent = sheet.add("SiDGenerate", model=loaded["model"], positive=prompt, width=size, height=size)
    image = sheet.add("VAEDecode", samples=latent["latent"], vae=base["VAE"])["IMAGE"]
    sheet.column("Picture", width=420)
    sheet.add("SaveImage", images=image, filename_prefix=f"sid/{name}", room=420)
    return sheet


def _checkpoint_distil(name: str, family: str, checkpoint: str, repository: str, size: int, preset: str) -> Sheet:
    sheet = Sheet(
        f"{name}_distil_lora",
        f"## Distil {family} into a LoRA\n\n"
        "Makes a LoRA with which your model needs 4 steps at CFG 1, from prompts alone.\n\n"
        f"1. Put [{checkpoint}](https://huggingface.co/{repository}/resolve/main/{checkpoint}), or a fine-tune of it, "
        "into `models/checkpoints` and choose it.\n"
        "2. Give *SiD Prompts* a file with some thousand prompts like those you will write; these few are for a first "
        "look.\n"
        "3. Press **Run**. *SiD Distill* says how much memory it expects to need, and draws what the student draws "
        "every 100 iterations. **Cancel** when you like it: what was learnt is kept, and the next run goes on.\n\n"
        "The learning rates of the preset are a beginning; see the help page of *SiD Distill* for what to change when.",
        note_height=290,
    )
    sheet.column("Model and prompt", width=340)
    base = sheet.add("CheckpointLoaderSimple", "The teacher", ckpt_name=checkpoint)
    prompt = _prompt(sheet, base["CLIP"], PHOTOGRAPH)
    empty = _prompt(sheet, base["CLIP"], "", title="∅-prompt (empty)")
    sheet.column("What to learn")
    guider = sheet.add("SiDLSGGuider", model=base["MODEL"], positive=prompt, negative=empty, guidance_scale=1.5)
    prompts = sheet.add("SiDPrompts", text="\n".join(FIRST_LOOK))
    latent = sheet.add("EmptyLatentImage", "Size of the pictures", width=size, height=size)
    student = _distil_checkpoint(
        sheet,
        base,
        guider=guider["guider"],
        prompts=prompts["prompts"],
        latent=latent["LATENT"],
        run_name=f"{name}_lora",
        preset=preset,
    )
    sheet.column("Use the student")
    sheet.add("SiDSaveStudent", model=student, filename_prefix=f"{name}_student")
    sampled = sheet.add("SiDGenerate", model=student, positive=prompt, width=size, height=size)
    image = sheet.add("VAEDecode", samples=sampled["latent"], vae=base["VAE"])["IMAGE"]
    sheet.column("Picture", width=420)
    sheet.add("SaveImage", images=image, filename_prefix=f"sid/{name}_distilled", room=420)
    return sheet


def _distil_checkpoint(sheet: Sheet, base: Node, **inputs: Value) -> Output:
    """A column with SiD Distill on a loaded checkpoint. → the student."""
    sheet.column("Distil", width=380)
    return sheet.add(
        "SiDDistill",
        clip=base["CLIP"],
        vae=base["VAE"],
        iterations=5000,
        control="fixed",
        room=320,
        **inputs,
    )["student"]


def _demo(sheet: Sheet, weights: str) -> tuple[Output, Output, Output]:
    node = sheet.add("SiDDemoModel", weights=weights)
    return node["model"], node["clip"], node["vae"]


def _prompt(sheet: Sheet, clip: Output, text: str, title: str = "Prompt") -> Output:
    return sheet.add("CLIPTextEncode", title, clip=clip, text=text)["CONDITIONING"]


def _sample_custom(sheet: Sheet, guider: Output, sampler: Output, sigmas: Output, vae: Output, prefix: str) -> None:
    noise = sheet.add("RandomNoise")["NOISE"]
    empty = sheet.add("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=PICTURES)["LATENT"]
    sheet.column("Sample")
    sampled = sheet.add(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=empty
    )
    _pictures(sheet, sampled["output"], vae, prefix)


def _pictures(sheet: Sheet, latent: Output, vae: Output, prefix: str) -> None:
    decoded = sheet.add("VAEDecode", samples=latent, vae=vae)["IMAGE"]
    sheet.column("Pictures", width=380)
    shown = sheet.add(
        "ImageScale", "Enlarge 4 times", image=decoded, upscale_method="lanczos", width=SHOWN, height=SHOWN
    )
    sheet.add("SaveImage", images=shown["IMAGE"], filename_prefix=prefix, room=320)
