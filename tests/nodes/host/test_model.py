"""The progress of a run under each sampling that a stock node sets, against the host's percents by bisection."""

import math

import pytest
import torch
from tiny_models import flux, sd3, sd15

pytestmark = pytest.mark.usefixtures("comfyui")


def discrete(sampling, zsnr=False):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return ModelSamplingDiscrete().patch(sd15(), sampling, zsnr)[0]


def continuous(sampling):
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    return ModelSamplingContinuousEDM().patch(sd15(), sampling, 120.0, 0.002)[0]


def shifted(shift):
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    return ModelSamplingSD3().patch(sd3(), shift, 1000.0)[0]


def cascade():
    from comfy_extras.nodes_model_advanced import ModelSamplingStableCascade

    return ModelSamplingStableCascade().patch(sd15(), 2.0)[0]


MODELS = {
    "sd15": sd15,
    "lcm": lambda: discrete("lcm"),
    "zsnr": lambda: discrete("v_prediction", zsnr=True),
    "lcm zsnr": lambda: discrete("lcm", zsnr=True),
    "edm": lambda: continuous("edm_playground_v2.5"),
    "cascade": cascade,
    "flux": flux,
    "shift 1": lambda: shifted(1.0),
    "shift 12": lambda: shifted(12.0),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request, comfyui):
    return MODELS[request.param]()


def found(sampling, sigma, last):
    """The first or the last percent whose sigma is no more, or no less, than this one."""
    low, high = 1e-6, 1 - 1e-6
    for _ in range(40):
        middle = (low + high) / 2
        after = float(sampling.percent_to_sigma(middle))
        beyond = after < sigma if last else after <= sigma
        low, high = (low, middle) if beyond else (middle, high)
    return low


def test_it_undoes_the_hosts_percents(model):
    from sid_pack.nodes.host.model import progress_by_sigma

    sampling, progress_at = model.get_model_object("model_sampling"), progress_by_sigma(model)
    for index in range(1, 200):
        sigma = float(sampling.percent_to_sigma(index / 200))
        expected = sorted((found(sampling, sigma * 1.0001, False), found(sampling, sigma * 0.9999, True)))
        assert expected[0] - 2e-3 <= progress_at(sigma) <= expected[1] + 2e-3


def test_every_sigma_of_every_scheduler_has_a_progress(model):
    """At the largest and the smallest sigma too, and beyond."""
    import comfy.samplers

    from sid_pack.nodes.host.model import progress_by_sigma

    sampling, progress_at = model.get_model_object("model_sampling"), progress_by_sigma(model)
    for name in comfy.samplers.SCHEDULER_NAMES:
        sigmas = comfy.samplers.calculate_sigmas(sampling, name, 7).tolist()
        progress = [progress_at(sigma) for sigma in sigmas]
        assert all(math.isfinite(p) and 0 <= p <= 1 for p in progress)
        assert progress == sorted(progress)
        assert progress[-1] == 1
    largest, smallest = (float(edge) for edge in (sampling.sigma_max, sampling.sigma_min))
    assert progress_at(largest) == pytest.approx(0, abs=2e-3)
    assert [progress_at(sigma) for sigma in (largest * 3, math.inf)] == [0, 0]
    assert progress_at(smallest) == pytest.approx(1, abs=2e-3)
    assert [progress_at(sigma) for sigma in (0.0, math.nan, -1.0)] == [1, 1, 1]


@pytest.mark.parametrize("scheduler", ["normal", "exponential"])
def test_cleanstyle_samples_a_distilled_model(comfyui, scheduler):
    import comfy.samplers
    from tiny_models import conditioning

    from sid_pack.nodes.cleanstyle.model import clean
    from sid_pack.nodes.cleanstyle.purify import Settings
    from sid_pack.nodes.host.halves import PROMPT
    from sid_pack.nodes.image_prompts.attention import put_attention, with_branch

    class Noted:
        """A branch that notes whether it is changed."""

        image_tokens = (torch.eye(4)[None],)

        def is_active(self, sigma):
            return True

        def __call__(self, out, q, k, v, extra_options, change=None):
            assert extra_options["cond_or_uncond"] == [PROMPT]
            seen.append(extra_options["sigmas"][0].item())
            return torch.zeros_like(out)

    seen = []
    model = discrete("lcm")
    put_attention(model, {("input", 1): with_branch(None, Noted())})
    guider = comfy.samplers.CFGGuider(clean(model, Settings()))
    guider.set_conds(conditioning(1), conditioning(2))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, 4)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        sampler = comfy.samplers.sampler_object("lcm")
        result = guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, seed=0, disable_pbar=True)
    assert result.isfinite().all()
    assert seen == pytest.approx(sigmas[:-1].tolist())
