"""Files of DMD2, Lightning, Hyper-SD and LCM: the times that SiD Scheduler gives them, and what stock samplers draw."""

import pytest
import tiny_models
import torch
from tiny_models import conditioning

pytestmark = pytest.mark.usefixtures("comfyui")
DMD2 = "DMD2, Lightning, Hyper-SD"
# of the SD schedule at 999, 749, 499, 249
SIGMAS = [14.6146, 4.0819, 1.6129, 0.6929, 0.0]


def scheduled(model, **inputs):
    from sid_pack.nodes.sampling.few_step import SiDScheduler

    with torch.inference_mode():
        return SiDScheduler.execute(**({"model": model, "steps": 0, "t_init": 0.0} | inputs)).args[0]


def sampled(model, sampler, sigmas, pictures: int = 2):
    """By the host's guider, at CFG 1 without a picture."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning(1), conditioning(2))
    guider.set_cfg(1.0)
    channels = model.get_model_object("latent_format").latent_channels
    noise = torch.randn(pictures, channels, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=5)


def ours(mode: str):
    from sid_pack.nodes.sampling.few_step import SiDSampler

    return SiDSampler.execute(mode).args[0]


def stock(name: str):
    import comfy.samplers

    return comfy.samplers.sampler_object(name)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_dmd2s_four_steps_are_lcm_at_its_own_times(kind):
    model = getattr(tiny_models, kind)()
    sigmas = scheduled(model, steps=4, times=DMD2)
    assert sigmas.tolist() == pytest.approx(SIGMAS, abs=1e-3)
    torch.testing.assert_close(sampled(model, ours("fresh"), sigmas), sampled(model, stock("lcm"), sigmas))


def test_lightnings_four_steps_are_euler_at_its_own_times():
    model = tiny_models.sdxl()
    sigmas = scheduled(model, steps=4, times=DMD2)
    euler = sampled(model, stock("euler"), sigmas)
    torch.testing.assert_close(sampled(model, ours("ddim"), sigmas), euler, rtol=1e-4, atol=1e-4)
    assert (sampled(model, ours("fresh"), sigmas) - euler).abs().mean() > 0.01


@pytest.mark.parametrize(("t", "sigma"), [(399, 1.161), (800, 5.111)], ids=["DMD2", "Hyper-SD"])
def test_one_step_at_a_time_of_its_own(t, sigma):
    model = tiny_models.sd15()
    assert scheduled(model, steps=1, t_init=float(t)).tolist() == pytest.approx([sigma, 0], abs=1e-3)
    assert scheduled(model, own_times=str(t)).tolist() == pytest.approx([sigma, 0], abs=1e-3)


def test_lcms_times_are_its_own():
    model = tiny_models.sd15()
    expected = model.model.model_sampling.sigmas[[999, 759, 499, 259]].tolist()
    assert scheduled(model, steps=4, times="LCM")[:-1].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_flow_models_shifted_times_are_its_sigmas():
    """As SD3 with a shift of 5 has them: a flow's times are the host's sigmas."""
    sigmas = scheduled(tiny_models.sd3(), own_times="1, 0.9375, 0.8333, 0.625")
    assert sigmas.tolist() == pytest.approx([1, 0.9375, 0.8333, 0.625, 0])


def test_times_by_hand_go_before_all_else():
    model = tiny_models.sd15()
    alone = scheduled(model, own_times="700, 300")
    assert scheduled(model, steps=9, t_init=800.0, times="LCM", own_times="700, 300").tolist() == alone.tolist()
    assert scheduled(model, own_times="  ", steps=2).tolist() == scheduled(model, steps=2).tolist()


class Gaussians:
    """A MODEL whose clean prediction is the true posterior mean of pictures N(mean, deviation²), whatever its UNet."""

    mean, deviation = 0.8, 0.5

    def model(self):
        model = tiny_models.sd15()
        model.set_model_unet_function_wrapper(self.predicted)
        return model

    def predicted(self, apply_model, arguments):
        x, variance = arguments["input"], arguments["timestep"].view(-1, 1, 1, 1) ** 2
        return (self.deviation**2 * x + variance * self.mean) / (self.deviation**2 + variance)

    def moments(self, sigmas: list[float]) -> tuple[float, float]:
        """Of what is drawn with fresh noise, in closed form; the host begins at its largest sigma with x_t = n."""
        centre = spread = 0.0
        for place, sigma in enumerate(sigmas):
            gain = self.deviation**2 / (self.deviation**2 + sigma**2)
            noise = (1 + sigma**2) ** 0.5 if place == 0 and sigma > 14.6 else sigma
            centre = self.mean + gain * (centre - self.mean)
            spread = gain * (spread**2 + noise**2) ** 0.5
        return centre, spread


@pytest.mark.parametrize("times", ["SiD", DMD2, "LCM"])
def test_a_perfect_network_draws_what_follows_from_the_times(times):
    gaussians = Gaussians()
    model = gaussians.model()
    sigmas = scheduled(model, steps=4, times=times)
    latents = sampled(model, ours("fresh"), sigmas, pictures=400) * 0.18215  # as the network sees them
    centre, spread = gaussians.moments(sigmas[:-1].tolist())
    assert latents.mean().item() == pytest.approx(centre, abs=0.01)
    assert latents.std().item() == pytest.approx(spread, rel=0.02)


def test_a_students_own_times_are_said_and_other_ones_too(run_graph):
    from graphs import demo, node, sampled, shown

    def said(**inputs) -> str:
        scheduler = node("SiDScheduler", **({"model": ["demo", 0], "steps": 4, "t_init": 0.0} | inputs))
        graph = {**demo(), "sigmas": scheduler, "lcm": node("KSamplerSelect", sampler_name="lcm")}
        result = run_graph(graph | sampled(["lcm", 0], ["sigmas", 0]) | shown(["sampled", 0]))
        assert result.success, result.error
        return b" ".join(bytes(data) for _, data in result.events if isinstance(data, bytes | bytearray)).decode()

    assert "4 steps at 999, 749, 499, 249" in said(times=DMD2)
    assert "4 steps at 625, 468, 312, 156" in said()
