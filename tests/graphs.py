"""Small API-format graphs of the demo model, for tests to build on: {node id: node}, linked by [id, slot]."""

from typing import Any

Graph = dict[str, dict[str, Any]]
SHOWN = "shown"


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def demo(weights: str = "teacher", prompt: str = "red apple") -> Graph:
    """The demo model, a prompt, the empty prompt, and an empty latent of two 64x64 pictures."""
    return {
        "demo": node("SiDDemoModel", weights=weights),
        "positive": node("CLIPTextEncode", clip=["demo", 1], text=prompt),
        "negative": node("CLIPTextEncode", clip=["demo", 1], text=""),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=2),
    }


def shown(latent: list) -> Graph:
    """Decode a latent and show it, which makes a graph one that ComfyUI executes."""
    return {
        "decoded": node("VAEDecode", samples=latent, vae=["demo", 2]),
        SHOWN: node("PreviewImage", images=["decoded", 0]),
    }


def sampled(
    sampler: list, sigmas: list, guider: list | None = None, *, latent: list | None = None, seed: int = 7
) -> Graph:
    """SamplerCustomAdvanced over what `demo` has, with a plain guider where none is given."""
    return {
        "noise": node("RandomNoise", noise_seed=seed),
        "basic": node("BasicGuider", model=["demo", 0], conditioning=["positive", 0]),
        "sampled": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=guider or ["basic", 0],
            sampler=sampler,
            sigmas=sigmas,
            latent_image=latent or ["latent", 0],
        ),
        **shown(["sampled", 0]),
    }


def training_options(**changes: Any) -> dict[str, Any]:
    """SiD Training Options with its defaults, but for these."""
    defaults = {"warm_up_iterations": 0, "fake_updates": 1, "gradient_norm": 0.0, "weighting": "as published"}
    defaults |= {"caption_dropout": 0.1, "score_time_low": 20, "score_time_high": 979, "adam_epsilon": 1e-8}
    return node("SiDTrainingOptions", **(defaults | changes))


def distilled(**changes: Any) -> Graph:
    """A very short distillation of the demo teacher into a LoRA, a tenth of the time of a whole network's, and two
    pictures of the student."""
    settings: dict[str, Any] = {
        "guider": ["guider", 0],
        "clip": ["demo", 1],
        "prompts": ["prompts", 0],
        "latent": ["latent", 0],
        "iterations": 2,
        "batch_size": 2,
        "steps": 2,
        "t_init": 0.0,
        "student_learning_rate": 1e-4,
        "fake_learning_rate": 1e-4,
        "learning_rate_decay": False,
        "alpha": 1.0,
        "ema_half_life": 100.0,
        "seed": 3,
        "run_name": "test",
        "existing_run": "start over",
        "preview_every": 1000,
        "save_every": 1000,
        "keep_last": 2,
        "mode": "lora",
        "student_rank": 8,
        "fake_rank": 8,
    }
    return {
        **demo(),
        "guider": node(
            "SiDLSGGuider", model=["demo", 0], positive=["positive", 0], negative=["negative", 0], guidance_scale=1.5
        ),
        "prompts": node("SiDPrompts", text="red apple\ngrinning face\nred apple", file=""),
        "distilled": node("SiDDistill", **(settings | changes)),
        "generated": node(
            "SiDGenerate",
            model=["distilled", 0],
            positive=["positive", 0],
            seed=1,
            width=64,
            height=64,
            batch_size=2,
            steps=0,
            t_init=0.0,
            noise_mode="as trained",
        ),
        **shown(["generated", 0]),
    }


def evaluated(run_name: str, **changes: Any) -> Graph:
    """Four iterations, evaluated after each two."""
    asked = {
        name: changes.pop(name) for name in ("every", "metric", "samples", "patience", "student") if name in changes
    }
    settings = {"every": 2, "metric": "kernel distance", "samples": 8, "teacher_steps": 3, "patience": 0}
    settings |= {"clip_vision": ["demo", 3], "student": "best"}
    graph = distilled(**({"iterations": 4, "run_name": run_name, "existing_run": "continue it"} | changes))
    graph["evaluation"] = node("SiDTrainingEvaluation", **(settings | asked))
    graph["distilled"]["inputs"] |= {"vae": ["demo", 2], "evaluation": ["evaluation", 0]}
    return graph
