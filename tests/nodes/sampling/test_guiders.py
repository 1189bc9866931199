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
