"""A MODEL's times and sigmas, whatever ComfyUI's ModelSampling… nodes have made of it."""

import pytest
import tiny_models
import torch


@pytest.fixture(params=["sd15", "sdxl", "sd3"])
def model(request, comfyui):
    with torch.inference_mode():
        return getattr(tiny_models, request.param)()


def patched(name: str, model, **inputs):
    """The MODEL behind one of ComfyUI's own nodes."""
    import nodes

    node = nodes.NODE_CLASS_MAPPINGS[name]
    with torch.inference_mode():
        return getattr(node(), node.FUNCTION)(model, **inputs)[0]


def sigmas(model, steps: int = 4, t_init: float | None = None) -> list[float]:
    from sid_pack.nodes.host.model import sigmas_for

    with torch.inference_mode():
        return sigmas_for(model, steps, t_init).tolist()


def test_sigmas_are_those_of_the_published_times(model):
    published = [1.0, 0.75, 0.5, 0.25, 0.0] if "SD3" in model_name(model) else [2.502, 1.455, 0.868, 0.470, 0.0]
    assert sigmas(model) == pytest.approx(published, abs=6e-4)


def model_name(model) -> str:
    return type(model.model).__name__


@pytest.mark.parametrize("shift", [1.0, 3.0, 12.0])
def test_a_shift_moves_no_sigma(comfyui, shift):
    with torch.inference_mode():
        model = tiny_models.sd3()
    for other in (
        patched("ModelSamplingSD3", model, shift=shift),
        patched("ModelSamplingFlux", model, max_shift=shift, base_shift=0.5, width=1024, height=1024),
    ):
        assert sigmas(other) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])


def test_zero_terminal_snr_has_the_sigmas_of_its_own_schedule(comfyui):
    with torch.inference_mode():
        model = tiny_models.sd15()
    other = patched("ModelSamplingDiscrete", model, sampling="v_prediction", zsnr=True)
    schedule = other.get_model_object("model_sampling").sigmas
    assert sigmas(other, 4) == pytest.approx([*schedule[[625, 468, 312, 156]].tolist(), 0.0])
    assert sigmas(other, 1, 999) == pytest.approx([float(schedule[999]), 0.0], rel=1e-4)
    assert sigmas(other, 4) != pytest.approx(sigmas(model, 4), rel=1e-2)


@pytest.mark.parametrize(
    ("node", "inputs", "named"),
    [
        ("ModelSamplingDiscrete", {"sampling": "lcm", "zsnr": False}, "ModelSamplingDiscreteDistilled, LCM"),
        ("ModelSamplingDiscrete", {"sampling": "x0", "zsnr": False}, "X0"),
        ("ModelSamplingDiscrete", {"sampling": "img_to_img", "zsnr": False}, "IMG_TO_IMG"),
        ("ModelSamplingContinuousEDM", {"sampling": "edm", "sigma_max": 120.0, "sigma_min": 0.002}, "EDM"),
        ("ModelSamplingContinuousEDM", {"sampling": "eps", "sigma_max": 120.0, "sigma_min": 0.002}, "ContinuousEDM"),
        ("ModelSamplingContinuousEDM", {"sampling": "cosmos_rflow", "sigma_max": 80.0, "sigma_min": 0.002}, "COSMOS"),
        (
            "ModelSamplingContinuousV",
            {"sampling": "v_prediction", "sigma_max": 500.0, "sigma_min": 0.03},
            "ContinuousV",
        ),
        ("ModelSamplingStableCascade", {"shift": 2.0}, "StableCascadeSampling"),
    ],
)
def test_other_kinds_of_sampling_are_refused_by_name(comfyui, node, inputs, named):
    with torch.inference_mode():
        model = tiny_models.sd15()
    with pytest.raises(ValueError, match=f"^Connect an eps- or v-prediction model.*ModelSampling… node.*{named}"):
        sigmas(patched(node, model, **inputs), 4, 40)


@pytest.mark.parametrize(
    ("name", "t_init", "within"), [("sd15", 1.0, "from 4 to 999"), ("sd3", 625.0, "above 0, up to 1")]
)
def test_a_first_time_of_another_kind_of_model_is_refused(comfyui, name, t_init, within):
    with torch.inference_mode():
        model = getattr(tiny_models, name)()
    with pytest.raises(ValueError, match=f"^Set t_init to a time {within}: it is {t_init:g}"):
        sigmas(model, 4, t_init)
