import pytest
import torch
from graphs import demo, node, sampled

WIRES = {"model": ["demo", 0], "positive": ["positive", 0], "negative": ["negative", 0]}
SCHEDULE = {
    "sampler": node("KSamplerSelect", sampler_name="euler"),
    "sigmas": node("BasicScheduler", model=["demo", 0], scheduler="karras", steps=3, denoise=1.0),
}


def with_guider(guider: dict, **extra) -> dict:
    graph = {**demo(), **SCHEDULE, "guider": guider, **extra}
    return graph | sampled(["sampler", 0], ["sigmas", 0], ["guider", 0])


def latent_of(result) -> torch.Tensor:
    assert result.success, result.error
    return result.value("sampled")["samples"]


@pytest.mark.parametrize(
    ("guider", "cfg"),
    [
        (node("SiDLSGGuider", **WIRES, guidance_scale=3.0), 3.0),
        (node("SiDLSGGuider", **WIRES, guidance_scale=1.0), 1.0),
        (node("SiDZeroCFGGuider", **WIRES), 1.0),
        (node("SiDAntiCFGGuider", **WIRES, fake_guidance_scale=-1.0), 1.0),
    ],
)
def test_the_teacher_is_seen_as_it_is_distilled(run_graph, guider, cfg):
    """κ4 of each strategy, against the stock guider at that CFG."""
    ours = latent_of(run_graph(with_guider(guider)))
    stock = latent_of(run_graph(with_guider(node("CFGGuider", **WIRES, cfg=cfg))))
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-5)


def test_scale_zero_is_the_empty_prompt_alone(run_graph):
    ours = latent_of(run_graph(with_guider(node("SiDLSGGuider", **WIRES, guidance_scale=0.0))))
    swapped = node("CFGGuider", **(WIRES | {"positive": ["negative", 0]}), cfg=1.0)
    torch.testing.assert_close(ours, latent_of(run_graph(with_guider(swapped))), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("scale", "forwards"), [(0.0, 1), (1.0, 1), (2.0, 2)])
def test_only_the_forwards_that_the_scale_needs(run_graph, monkeypatch, scale, forwards):
    from comfy.model_base import BaseModel

    rows = []
    plain = BaseModel._apply_model

    def counted(self, x, *args, **kwargs):
        rows.append(len(x))
        return plain(self, x, *args, **kwargs)

    monkeypatch.setattr(BaseModel, "_apply_model", counted)
    latent_of(run_graph(with_guider(node("SiDLSGGuider", **WIRES, guidance_scale=scale))))
    assert sum(rows) == 3 * 2 * forwards  # steps, pictures


def weaker(strength: float, loader: dict) -> dict:
    guider = node("SiDZeroCFGGuider", **WIRES, weaker_model=["weak", 0], weaker_strength=strength)
    return with_guider(guider, weak=loader)


def test_strength_zero_is_off(run_graph):
    plain = latent_of(run_graph(with_guider(node("SiDZeroCFGGuider", **WIRES))))
    off = latent_of(run_graph(weaker(0.0, node("SiDDemoModel", weights="student, 1 step"))))
    torch.testing.assert_close(off, plain, rtol=0, atol=0)


def test_a_weaker_model_is_moved_away_from(run_graph):
    """One step from pure noise, so the result is f + s (f - f_weak) of two results that stock nodes give."""
    one_step = {"sigmas": node("SiDScheduler", model=["demo", 0], steps=1, t_init=625.0)}

    def result(graph):
        return latent_of(run_graph(graph | one_step))

    strong = result(with_guider(node("SiDZeroCFGGuider", **WIRES)))
    other = node("BasicGuider", model=["weak", 0], conditioning=["positive", 0])
    weak = result(with_guider(other, weak=node("SiDDemoModel", weights="student, 1 step")))
    steered = result(weaker(0.5, node("SiDDemoModel", weights="student, 1 step")))
    torch.testing.assert_close(steered, strong + 0.5 * (strong - weak), rtol=0, atol=1e-4)
    assert (strong - weak).abs().mean() > 1e-2


def test_a_weaker_model_on_the_same_weights_is_refused(run_graph):
    result = run_graph(
        weaker(0.5, node("ModelSamplingDiscrete", model=["demo", 0], sampling="v_prediction", zsnr=False))
    )
    assert not result.success
    assert "shares its weights" in result.error


ONE_STEP = {"sigmas": node("SiDScheduler", model=["demo", 0], steps=1, t_init=625.0)}
WEAK = node("SiDDemoModel", weights="student, 1 step")
FREE_U = node("FreeU_V2", model=["weak", 0], b1=1.5, b2=1.6, s1=0.5, s2=0.2)
SHRUNK = node(
    "PatchModelAddDownscale",
    model=["weak", 0],
    block_number=1,
    downscale_factor=2.0,
    start_percent=0.0,
    end_percent=1.0,
    downscale_after_skip=True,
    downscale_method="bicubic",
    upscale_method="bicubic",
)
RESCALED = node("RescaleCFG", model=["weak", 0], multiplier=1.0)
PERTURBED = node("PerturbedAttentionGuidance", model=["weak", 0], scale=3.0)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("patch", [SHRUNK, RESCALED, PERTURBED], ids=lambda patch: patch["class_type"])
def test_what_is_on_the_weaker_model_acts_on_its_prediction(run_graph, patch, scale):
    """As stock nodes give that prediction: CFGGuider on the same MODEL."""
    extra = ONE_STEP | {"weak": WEAK, "patched": patch}

    def latent(guider, **inputs):
        return latent_of(run_graph(with_guider(node(guider, **(WIRES | inputs)), **extra)))

    def alone(model):
        wires = {"model": [model, 0], "cfg": scale or 1.0}
        return latent("CFGGuider", **wires | ({"positive": ["negative", 0]} if scale == 0 else {}))

    weaker = {"guidance_scale": scale, "weaker_strength": 0.5}
    strong, weak, other = (alone(model) for model in ("demo", "patched", "weak"))
    steered = latent("SiDLSGGuider", weaker_model=["patched", 0], **weaker)
    torch.testing.assert_close(steered, strong + 0.5 * (strong - weak), rtol=0, atol=1e-4 * weak.abs().max())
    assert (weak - other).abs().mean() > 1e-3 or (patch is RESCALED and scale < 2)


class Counted:
    """A wrapper that counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, executor, *args, **kwargs):
        self.calls += 1
        return executor(*args, **kwargs)


def weak_and_strong():
    from tiny_models import sd15

    strong, weak = sd15(), sd15()
    for weight in weak.model.diffusion_model.state_dict().values():
        weight.mul_(1.3)
    return strong, weak


def sampled_by(guider, steps=3):
    import comfy.samplers

    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([*range(steps, 0, -1), 0.0])
    with torch.inference_mode():
        sampler = comfy.samplers.sampler_object("euler")
        return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, seed=0, disable_pbar=True)


def guider_of(model, weaker, strength=0.5, scale=2.0):
    from tiny_models import conditioning

    from sid_pack.nodes.sampling.guiders import SiDLSGGuider

    return SiDLSGGuider.execute(model, conditioning(1), conditioning(2), scale, weaker, strength).args[0]


def test_wrappers_and_callbacks_of_the_weaker_model_are_called(comfyui):
    from comfy.patcher_extension import CallbacksMP, WrappersMP

    strong, weak = weak_and_strong()
    kinds = [WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL]
    counted = {kind: Counted() for kind in kinds}
    for kind, wrapper in counted.items():
        weak.add_wrapper(kind, wrapper)
    sigmas, ready = [], []
    weak.set_model_attn1_patch(lambda q, k, v, options: sigmas.append(options["sample_sigmas"].tolist()) or (q, k, v))
    weak.add_callback(CallbacksMP.ON_PRE_RUN, lambda model: ready.append("begin"))
    weak.add_callback(CallbacksMP.ON_CLEANUP, lambda model: ready.append("end"))
    sampled_by(guider_of(strong, weak))
    assert [wrapper.calls for wrapper in counted.values()] == [3, 3, 3, 3]
    assert sigmas
    assert set(map(tuple, sigmas)) == {(3.0, 2.0, 1.0, 0.0)}
    assert (ready[0], ready[-1], ready.count("begin")) == ("begin", "end", 1)


def test_the_samplers_own_patches_stay_with_their_model(comfyui):
    """What is on model acts on that alone, and nothing stays on either for the next run."""
    strong, weak = weak_and_strong()
    patched = strong.clone()
    seen = []
    patched.set_model_sampler_post_cfg_function(lambda args: seen.append(args["model"]) or args["denoised"] * 0)
    expected = sampled_by(guider_of(strong, weak))
    sampled_by(guider_of(patched, weak))
    assert all(model is strong.model for model in seen)
    torch.testing.assert_close(sampled_by(guider_of(strong, weak)), expected, rtol=0, atol=0)
    assert weak.model.current_patcher is None


def test_hooks_of_the_prompt_act_on_both(comfyui):
    """A LoRA on a conditioning; against both models with that LoRA in their weights."""
    import comfy.hooks
    from tiny_models import conditioning

    strong, weak = weak_and_strong()
    name = "diffusion_model.time_embed.0"
    generator = torch.Generator().manual_seed(3)
    up, down = 10 * torch.randn(128, 2, generator=generator), torch.randn(2, 32, generator=generator)
    lora = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
    hooks = comfy.hooks.create_hook_lora(lora=lora, strength_model=1.0, strength_clip=0.0)
    hooked = guider_of(strong, weak)
    conds = ([[tokens, extra | {"hooks": hooks}] for tokens, extra in conditioning(seed)] for seed in (1, 2))
    hooked.set_conds(*conds)
    plain, found = sampled_by(guider_of(strong, weak)), sampled_by(hooked)
    merged = []
    for model in (strong, weak):
        merged.append(model.clone())
        merged[-1].add_patches({f"{name}.weight": ("diff", (up @ down,))})
    expected = sampled_by(guider_of(*merged))
    effect = (expected - plain).abs().mean()
    assert effect > 3e-3
    assert (found - expected).abs().max() < 5e-2 * effect


def test_what_acts_on_a_whole_run_is_refused_on_the_weaker_model(run_graph):
    cache = node(
        "EasyCache", model=["weak", 0], reuse_threshold=0.2, start_percent=0.15, end_percent=0.95, verbose=False
    )
    guider = node("SiDZeroCFGGuider", **WIRES, weaker_model=["patched", 0], weaker_strength=0.5)
    result = run_graph(with_guider(guider, weak=WEAK, patched=cache))
    assert not result.success
    assert "Take easycache off weaker_model" in result.error
    fuzzy = node("DifferentialDiffusion", model=["weak", 0])
    result = run_graph(with_guider(guider, weak=WEAK, patched=fuzzy))
    assert "Take denoise_mask_function off weaker_model" in result.error


def test_what_to_know_before_distilling(run_graph):
    from sid_pack.nodes.sampling.patches import before_distilling

    def told(guider, **extra):
        result = run_graph(with_guider(guider, **extra))
        assert result.success, result.error
        return before_distilling(result.value("guider"))

    assert told(node("SiDZeroCFGGuider", **WIRES)) == []
    student = node("SiDZeroCFGGuider", **WIRES | {"model": ["weak", 0]})
    (again,) = told(student, weak=node("SiDDemoModel", weights="student, 4 steps"))
    assert again.startswith("Connect the diffusion model itself")
    assert "a student of 4 steps, which" in again
    both = node("SiDZeroCFGGuider", **WIRES, weaker_model=["patched", 0], weaker_strength=0.5)
    (patched,) = told(both, weak=WEAK, patched=FREE_U)  # a student may well be the weaker one
    assert patched.startswith("Take FreeU_V2 off the guider's weaker_model")
