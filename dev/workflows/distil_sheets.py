"""Workflows that distil, and that evaluate what was distilled."""

from . import models, parts
from .sampling_sheets import DEMO_GUIDANCE, PHOTOGRAPH
from .sheet import Output, Sheet, Value
from .titles import TITLES

TRAINING_PROMPTS = "emoji_names.txt"
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
DEMO_SETTINGS = {
    "iterations": 200,
    "batch_size": 32,
    "steps": 4,
    "student_learning_rate": 1e-3,
    "fake_learning_rate": 2e-3,
    "learning_rate_decay": True,
    "ema_half_life": 1000.0,
    "preview_every": 50,
    "mode": "lora",
    "student_rank": 12,
    "fake_rank": 16,
    "lora_targets": "all linear and convolution layers",
    "gradient_checkpointing": False,
}
PANEL = 150  # room for the pictures and curves of a run


def demo_distil() -> Sheet:
    sheet = Sheet(
        "demo_distil",
        "## Distil a model, and sample the student\n\n"
        "**SiD Distill** makes a 4-step student of the demo teacher, a LoRA, from the names of emoji alone, without "
        "a picture to learn from. On a CPU this takes some minutes.\n\n"
        "1. Press **Run**. *SiD Distill* shows its progress, and every 50 iterations what the student draws.\n"
        "2. At its end, the student draws the prompt in *Save Image*, and *SiD Save Student* writes it to "
        "**output/loras**.\n"
        "3. **Cancel** keeps what was learnt: run again, and it goes on.\n"
        "4. To learn for longer, raise *iterations* and give another *run name*: the learning rates fall towards a "
        "run's end.\n\n"
        "For a model of your own, replace the demo model by its loader, give prompts of the kind you will write, set "
        "the latent to its size, and *preset* to its family: large models bear less than these learning rates.",
        note_height=345,
    )
    model, clip, vae, _, prompt, empty = _demo_teacher(sheet)
    sheet.column("What to learn", width=270)
    learnt = _what_the_demo_learns(sheet, model, prompt, empty)
    student = _distil(sheet, **learnt, clip=clip, vae=vae, run_name="demo_student", **DEMO_SETTINGS)
    _use_of_demo_student(sheet, student, prompt, vae, "demo_student", "sid/distilled")
    return sheet


def demo_distil_best() -> Sheet:
    sheet = Sheet(
        "demo_distil_best",
        "## Distil, and keep the best\n\n"
        f"As *{TITLES['demo_distil']}*, and two nodes more. **SiD Training Evaluation** draws with the student every "
        "50 iterations and measures how far its pictures are from the teacher's; the best student comes out, and not "
        "the last. **SiD Training Options** has what is seldom changed. On a CPU this takes some minutes.\n\n"
        "1. Press **Run**.\n"
        "2. *patience* ends a run that gets no better: it is how many evaluations in a row may be no better than the "
        "best so far.",
        note_height=250,
    )
    model, clip, vae, eye, prompt, empty = _demo_teacher(sheet)
    sheet.column("What to learn", width=270)
    learnt = _what_the_demo_learns(sheet, model, prompt, empty)
    sheet.column("Keep the best", width=270)
    evaluation = sheet.add("SiDTrainingEvaluation", clip_vision=eye, every=50, samples=64)["evaluation"]
    more = {"options": sheet.add("SiDTrainingOptions")["options"], "evaluation": evaluation}
    student = _distil(sheet, **learnt, clip=clip, vae=vae, **more, run_name="demo_best_student", **DEMO_SETTINGS)
    _use_of_demo_student(sheet, student, prompt, vae, "demo_best_student", "sid/distilled_best")
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
        "3. Set *steps* to **4, 2, 1** to see what students do in fewer steps than they were trained for.\n\n"
        "With your own models any CLIP_VISION will do; numbers of different ones can't be compared.",
        note_height=300,
    )
    sheet.group("Teacher and students")
    teacher = sheet.add("SiDDemoModel", "The teacher", weights="teacher")
    four = sheet.add("SiDDemoModel", "A student of 4 steps", weights="student, 4 steps")
    one = sheet.add("SiDDemoModel", "A student of 1 step", weights="student, 1 step")
    sheet.column("What to compare")
    prompt = parts.prompt(sheet, teacher["clip"], parts.SUBJECT)
    empty = parts.empty_prompt(sheet, teacher["clip"])
    learnt = _what_the_demo_learns(sheet, teacher["model"], prompt, empty)
    sheet.column("Evaluate", width=400)
    evaluated = sheet.add(
        "SiDEvaluate",
        prompts=learnt["prompts"],
        clip=teacher["clip"],
        vae=teacher["vae"],
        latent=learnt["latent"],
        samples=64,
        teacher_steps=20,
        scheduler="karras",
        batch_size=32,
        labels="4 steps, 1 step",
        teacher=learnt["guider"],
        clip_vision=teacher["clip_vision"],
        student_1=four["model"],
        student_2=one["model"],
        control="fixed",
        room=300,
    )
    sheet.column("Plots", width=460)
    sheet.add("PreviewImage", "Plots", images=evaluated["plots"], room=350)
    sheet.group("Pictures")
    sheet.add("SaveImage", images=evaluated["grid"], filename_prefix="sid/evaluated", room=400)
    return sheet


def sdxl_distil_lora() -> Sheet:
    sheet = Sheet(
        "sdxl_distil_lora",
        "## Distil SDXL into a LoRA\n\n"
        "Makes a LoRA with which your model needs 4 steps at CFG 1, from prompts alone.\n\n"
        f"1. Get and choose\n{models.listed(models.SDXL)}  or a fine-tune of it.\n"
        "2. Give *SiD Prompts* a file with some thousand prompts like those you will write; these few are for a first "
        "look.\n"
        "3. Press **Run**. *SiD Distill* says how much memory it expects to need, and draws what the student draws "
        "every 100 iterations. **Cancel** when you like it: what was learnt is kept, and the next run goes on.\n\n"
        "The learning rates of the preset are a beginning; see the help page of *SiD Distill* for what to change when. "
        "For another family set *preset*, and the size: 512 for SD 1.5.",
        note_height=340,
        models=(models.SDXL,),
    )
    sheet.group("Teacher and prompt")
    base = parts.checkpoint(sheet, models.SDXL, "The teacher")
    clip, vae = base["CLIP"], base["VAE"]
    prompt, empty = parts.prompt(sheet, clip, PHOTOGRAPH), parts.empty_prompt(sheet, clip)
    sheet.column("What to learn", width=270)
    guider = sheet.add("SiDLSGGuider", model=base["MODEL"], positive=prompt, negative=empty, guidance_scale=1.5)
    prompts = sheet.add("SiDPrompts", text="\n".join(FIRST_LOOK), room=80)
    latent = sheet.add("EmptyLatentImage", "Size of the pictures", width=1024, height=1024)
    student = _distil(
        sheet,
        guider=guider["guider"],
        clip=clip,
        prompts=prompts["prompts"],
        latent=latent["LATENT"],
        vae=vae,
        iterations=5000,
        run_name="sdxl_lora",
        preset="SDXL, LoRA",
    )
    sheet.column("Keep and use the student", width=490)
    sheet.add("SiDSaveStudent", model=student, filename_prefix="sdxl_student")
    sampled = sheet.add("SiDGenerate", model=student, positive=prompt, width=1024, height=1024)
    parts.picture(sheet, sampled["latent"], vae, "sid/sdxl_distilled", room=215)
    return sheet


def sd15_distil_images() -> Sheet:
    sheet = Sheet(
        "sd15_distil_images",
        "## Distil SD 1.5 with real pictures, and keep the best\n\n"
        f"As *{TITLES['sdxl_distil_lora']}*, and two things more. **SiD Images**: from real pictures with captions the "
        "student learns what its teacher does not know (the adversarial term, SiDA). Only where they are better than "
        "what the student draws without them. **SiD Training Evaluation**: measures the student on its way, and the "
        "best comes out.\n\n"
        f"1. Get and choose\n{models.listed(models.SD15)}  or a fine-tune of it, and any image encoder, such as\n"
        f"{models.listed(models.SDXL_VISION)}"
        "2. Give *SiD Images* a folder of some thousand pictures of 512 pixels or more, a **.txt** with the caption "
        "beside each.\n"
        "3. Press **Run**. *adversarial_weight* of *SiD Training Options* is how much the pictures count.",
        note_height=390,
        models=(models.SD15, models.SDXL_VISION),
    )
    sheet.group("Teacher and prompt")
    base = parts.checkpoint(sheet, models.SD15, "The teacher")
    prompt, empty = parts.prompt(sheet, base["CLIP"], PHOTOGRAPH), parts.empty_prompt(sheet, base["CLIP"])
    sheet.column("What to learn", width=270)
    guider = sheet.add("SiDZeroCFGGuider", model=base["MODEL"], positive=prompt, negative=empty)
    pictures = sheet.add("SiDImages", folder="my_pictures")
    latent = sheet.add("EmptyLatentImage", "Size of the pictures", width=512, height=512)
    sheet.column("Keep the best", width=270)
    eye = sheet.add("CLIPVisionLoader", "Image encoder", clip_name=models.SDXL_VISION.name)
    evaluation = sheet.add("SiDTrainingEvaluation", clip_vision=eye["CLIP_VISION"])
    options = sheet.add("SiDTrainingOptions")
    student = _distil(
        sheet,
        guider=guider["guider"],
        clip=base["CLIP"],
        prompts=pictures["prompts"],
        latent=latent["LATENT"],
        vae=base["VAE"],
        iterations=5000,
        run_name="sd15_images",
        preset="SD1.5, LoRA",
        options=options["options"],
        images=pictures["images"],
        evaluation=evaluation["evaluation"],
    )
    sheet.column("Keep the student")
    sheet.add("SiDSaveStudent", model=student, filename_prefix="sd15_images_student")
    return sheet


SHEETS = [demo_distil, demo_distil_best, demo_evaluate, sdxl_distil_lora, sd15_distil_images]


def _demo_teacher(sheet: Sheet) -> tuple[Output, ...]:
    """→ model, clip, vae, clip_vision, a prompt and the empty one"""
    sheet.group("Teacher and prompt")
    demo = sheet.add("SiDDemoModel", weights="teacher")
    clip = demo["clip"]
    prompt, empty = parts.prompt(sheet, clip, parts.SUBJECT), parts.empty_prompt(sheet, clip)
    return demo["model"], clip, demo["vae"], demo["clip_vision"], prompt, empty


def _what_the_demo_learns(sheet: Sheet, model: Output, prompt: Output, empty: Output) -> dict[str, Output]:
    """→ guider, prompts and latent, as inputs of SiD Distill"""
    guider = sheet.add("SiDLSGGuider", model=model, positive=prompt, negative=empty, guidance_scale=DEMO_GUIDANCE)
    prompts = sheet.add("SiDPrompts", file=TRAINING_PROMPTS)
    latent = sheet.add("EmptyLatentImage", "Size of the pictures", width=parts.SIDE, height=parts.SIDE)
    return {"guider": guider["guider"], "prompts": prompts["prompts"], "latent": latent["LATENT"]}


def _distil(sheet: Sheet, **inputs: Value) -> Output:
    """A column with SiD Distill. → the student."""
    sheet.column("Distil", width=370)
    return sheet.add("SiDDistill", control="fixed", room=PANEL, **inputs)["student"]


def _use_of_demo_student(sheet: Sheet, student: Output, prompt: Output, vae: Output, file: str, prefix: str) -> None:
    sheet.column("Keep and use the student", width=490)
    sheet.add("SiDSaveStudent", model=student, filename_prefix=file)
    sampled = sheet.add("SiDGenerate", model=student, positive=prompt, **parts.SMALL)
    parts.small_pictures(sheet, sampled["latent"], vae, prefix)
