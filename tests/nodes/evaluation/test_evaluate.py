import json

import pytest
import torch
from graphs import demo, node

WORDS = ("red apple", "grinning face", "rocket", "dog", "cat", "sun", "tree", "house")


def evaluated(**changes):
    """The demo's two students and its teacher, very small."""
    settings = {
        "prompts": ["prompts", 0],
        "clip": ["demo", 1],
        "vae": ["demo", 2],
        "latent": ["latent", 0],
        "samples": 16,
        "per_prompt": 2,
        "steps": "0",
        "teacher_steps": 4,
        "sampler_name": "euler",
        "scheduler": "sgm_uniform",
        "batch_size": 4,
        "seed": 5,
        "name": "test",
        "labels": "",
        "teacher": ["guider", 0],
        "clip_vision": ["demo", 3],
        "student_1": ["four", 0],
        "student_2": ["one", 0],
    }
    settings = {name: value for name, value in (settings | changes).items() if value is not None}
    return {
        **demo(),
        "four": node("SiDDemoModel", weights="student, 4 steps"),
        "one": node("SiDDemoModel", weights="student, 1 step"),
        "guider": node(
            "SiDLSGGuider", model=["demo", 0], positive=["positive", 0], negative=["negative", 0], guidance_scale=1.5
        ),
        "prompts": node("SiDPrompts", text="\n".join(WORDS), file=""),
        "evaluated": node("SiDEvaluate", **settings),
    }


def test_it_runs(run_graph):
    result = run_graph(evaluated())
    assert result.success, result.error
    print(result.value("evaluated", 0))
    for slot, name in ((1, "plots"), (2, "grid")):
        import numpy as np
        from PIL import Image

        image = result.value("evaluated", slot)
        Image.fromarray((image[0].numpy() * 255).astype(np.uint8)).save(f"/tmp/eval_{name}.png")
    print(result.value("evaluated", 3)[:3000])
