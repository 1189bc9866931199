"""What the template browser calls each workflow: the file's name is all it shows and searches, and it lists them in no
order of its own. So a name begins with a number, and holds the words that people type."""

_DEMO = "emoji demo, no download"

TITLES = {
    "demo_sample_student": f"01 SiD few-step pictures - {_DEMO}",
    "demo_distil": f"02 SiD distillation into a LoRA - {_DEMO}",
    "demo_cleanstyle": f"03 CleanStyle style transfer - {_DEMO}",
    "demo_evaluate": f"04 SiD evaluation of students - {_DEMO}",
    "demo_distil_best": f"05 SiD distillation, the best kept - {_DEMO}",
    "demo_teacher": f"06 SiD guidance of the teacher - {_DEMO}",
    "demo_sample_student_stock": f"07 SiD few-step with stock nodes - {_DEMO}",
    "demo_cleanstyle_student": f"08 CleanStyle in 4 steps - {_DEMO}",
    "demo_change_picture": f"09 SiD img2img and inpainting - {_DEMO}",
    "demo_extract_lora": f"10 SiD student made smaller, as a LoRA - {_DEMO}",
    "sdxl_sample_student": "11 SiD few-step pictures - SDXL",
    "sdxl_distil_lora": "12 SiD distillation into a LoRA - SDXL",
    "sd15_distil_images": "13 SiD distillation with real pictures - SD1.5",
    "sdxl_cleanstyle": "14 CleanStyle style transfer - SDXL",
    "sdxl_cleanstyle_before_after": "15 CleanStyle before and after - SDXL",
    "sdxl_cleanstyle_student": "16 CleanStyle in 4 steps - SDXL",
    "sd15_cleanstyle_styleshot": "17 CleanStyle with StyleShot - SD1.5",
    "sdxl_cleanstyle_ipadapter_plus": "18 CleanStyle with IPAdapter_plus - SDXL",
    "flux_cleanstyle_redux": "19 CleanStyle with Redux - FLUX",
    "sdxl_second_pass": "20 SiD few-step pictures, larger by a second pass - SDXL",
}
"""{name of the API file: title}"""
