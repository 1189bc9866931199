import logging

import pytest
import torch
from graphs import demo, node, sampled, shown
from looks import Looks

# ComfyUI's sigmas of the SiD times 625, 468, 312, 156 under the SD schedule.
SIGMAS_OF_FOUR_STEPS = [2.502, 1.455, 0.868, 0.470, 0.0]


def student_graph(sampler: dict, **extra) -> dict:
    scheduler = node("SiDScheduler", model=["demo", 0], steps=4, t_init=0.0)
    return {**demo(), "sigmas": scheduler, "sampler": sampler, **sampled(["sampler", 0], ["sigmas", 0]), **extra}


def latent_of(result) -> torch.Tensor:
    assert result.success, result.error
    return result.value("sampled")["samples"]


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 50])
def test_scheduler_spaces_any_number_of_steps_evenly_from_t_init(run_graph, steps):
    graph = {**demo(), "sigmas": node("SiDScheduler", model=["demo", 0], steps=steps, t_init=625.0)}
    graph |= sampled(["lcm", 0], ["sigmas", 0]) | {"lcm": node("KSamplerSelect", sampler_name="lcm")}
    result = run_graph(graph)
    sigmas = result.value("sigmas")
    sampling = result.value("demo").model.model_sampling
    times = [625 * (steps - i) // steps for i in range(steps)]
    torch.testing.assert_close(sigmas[:-1], sampling.sigmas[times], rtol=1e-5, atol=0)
    assert sigmas[-1] == 0


def test_scheduler_gives_the_published_sigmas(run_graph):
    result = run_graph(student_graph(node("SiDSampler", noise_mode="fresh")))
    torch.testing.assert_close(result.value("sigmas"), torch.tensor(SIGMAS_OF_FOUR_STEPS), rtol=0, atol=6e-4)


def test_fresh_noise_is_the_stock_lcm_sampler(run_graph):
    ours = latent_of(run_graph(student_graph(node("SiDSampler", noise_mode="fresh"))))
    stock = latent_of(run_graph(student_graph(node("KSamplerSelect", sampler_name="lcm"))))
    torch.testing.assert_close(ours, stock, rtol=0, atol=2e-5)
    assert ours.std() > 0.1


def test_part_of_a_schedule_is_the_stock_lcm_sampler(run_graph):
    def first_two_steps(sampler):
        split = {"split": node("SplitSigmas", sigmas=["sigmas", 0], step=2)}
        graph = student_graph(sampler, **split)
        graph["sampled"]["inputs"]["sigmas"] = ["split", 0]
        return latent_of(run_graph(graph))

    ours = first_two_steps(node("SiDSampler", noise_mode="fresh"))
    stock = first_two_steps(node("KSamplerSelect", sampler_name="lcm"))
    torch.testing.assert_close(ours, stock, rtol=0, atol=2e-5)


def masked(graph: dict) -> dict:
    """Inpaint the left half of a picture of the demo's own."""
    graph |= {
        "grey": node("EmptyImage", width=64, height=64, batch_size=2, color=0x4080C0),
        "encoded": node("VAEEncode", pixels=["grey", 0], vae=["demo", 2]),
        "all": node("SolidMask", value=0.0, width=64, height=64),
        "left": node("SolidMask", value=1.0, width=32, height=64),
        "mask": node("MaskComposite", destination=["all", 0], source=["left", 0], x=0, y=0, operation="add"),
        "inpaint": node("SetLatentNoiseMask", samples=["encoded", 0], mask=["mask", 0]),
    }
    graph["sampled"]["inputs"]["latent_image"] = ["inpaint", 0]
    return graph


def test_inpainting_keeps_the_unmasked_part_and_equals_the_stock_sampler(run_graph):
    result = run_graph(masked(student_graph(node("SiDSampler", noise_mode="fresh"))))
    ours, source = latent_of(result), result.value("encoded")["samples"]
    stock = latent_of(run_graph(masked(student_graph(node("KSamplerSelect", sampler_name="lcm")))))
    torch.testing.assert_close(ours, stock, rtol=0, atol=2e-5)
    torch.testing.assert_close(ours[..., 4:], source[..., 4:], rtol=0, atol=1e-5)
    assert (ours[..., :4] - source[..., :4]).abs().mean() > 0.1


@pytest.mark.parametrize("mode", ["ddim", "fixed"])
def test_noise_modes_against_the_papers_own_scale(run_graph, mode):
    """Independent route: x_t in VP scale from the raw network, the noise of each step by its definition."""
    result = run_graph(student_graph(node("SiDSampler", noise_mode=mode)))
    ours = latent_of(result)
    model = result.value("demo").model
    context = result.value("positive")[0][0].expand(2, -1, -1)
    noise = torch.randn(ours.shape, generator=torch.manual_seed(7))
    clean = None
    with torch.inference_mode():
        for t in (625, 468, 312, 156):
            sigma = float(model.model_sampling.sigmas[t])
            alpha, sigma_vp = (1 + sigma**2) ** -0.5, sigma * (1 + sigma**2) ** -0.5
            x_t = sigma_vp * noise if clean is None else alpha * clean + sigma_vp * noise
            v = model.diffusion_model(x_t, torch.full((2,), float(t)), context=context, transformer_options={})
            clean = alpha * x_t - sigma_vp * v
            if mode == "ddim":
                noise = (x_t - alpha * clean) / sigma_vp
    torch.testing.assert_close(ours, clean, rtol=0, atol=1e-4)


def test_every_step_reports_to_the_preview_callback(run_graph, monkeypatch):
    import latent_preview

    reported = []

    def prepare_callback(model, steps, *_):
        return lambda step, clean, x, total: reported.append((step, clean, x.shape, total))

    monkeypatch.setattr(latent_preview, "prepare_callback", prepare_callback)
    latent = latent_of(run_graph(student_graph(node("SiDSampler", noise_mode="fresh"))))
    assert [(step, total) for step, _, _, total in reported] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert all(clean.shape == shape == latent.shape for _, clean, shape, _ in reported)
    assert (reported[-1][1] - latent).abs().max() < 1e-5


def generated(**changes) -> dict:
    inputs = {"width": 64, "height": 64, "batch_size": 2, "steps": 0, "t_init": 0.0, "noise_mode": "as trained"}
    inputs |= {"model": ["demo", 0], "positive": ["positive", 0], "seed": 7} | changes
    return {**demo(changes.pop("weights", "student, 4 steps")), "sampled": node("SiDGenerate", **inputs)} | shown(
        ["sampled", 0]
    )


def test_generate_is_the_three_nodes_it_replaces(run_graph):
    one = latent_of(run_graph(generated()))
    graph = {**student_graph(node("SiDSampler", noise_mode="as trained")), **demo("student, 4 steps")}
    torch.testing.assert_close(one, latent_of(run_graph(graph)), rtol=0, atol=1e-5)


def test_the_student_says_how_many_steps(run_graph):
    by_itself = latent_of(run_graph(generated()))
    asked = latent_of(run_graph(generated(steps=4, t_init=625.0, noise_mode="fresh")))
    torch.testing.assert_close(by_itself, asked, rtol=0, atol=0)


def test_a_widget_against_the_student_warns(run_graph, caplog):
    with caplog.at_level(logging.WARNING):
        result = run_graph(generated(steps=2))
    assert result.success
    said = "Set steps to 0 or 4, as this student was trained: with 2 it may look worse."
    assert said in caplog.text
    assert any(said.encode() in bytes(data) for _, data in result.events if isinstance(data, bytes | bytearray))


def test_steps_zero_without_a_student_says_what_to_do(run_graph):
    graph = student_graph(node("SiDSampler", noise_mode="fresh"))
    graph["sigmas"]["inputs"]["steps"] = 0
    result = run_graph(graph)
    assert not result.success
    assert "this MODEL is no student" in result.error and "SiD Load Student" in result.error


def test_an_unknown_noise_mode_is_refused(run_graph):
    result = run_graph(student_graph(node("SiDSampler", noise_mode="frsh")))
    assert not result.success
    assert "frsh" in result.error


def test_pictures_of_a_batch_differ(run_graph):
    pictures = latent_of(run_graph(generated()))
    assert pictures.shape == (2, 32, 8, 8)
    assert (pictures[0] - pictures[1]).abs().mean() > 0.05


def last_of(sampler: dict, which: int) -> dict:
    """Sampling with what SplitSigmas leaves after all steps: slot 0 has all of them, 1 the last sigma alone."""
    graph = student_graph(sampler, split=node("SplitSigmas", sigmas=["sigmas", 0], step=4))
    graph["sampled"]["inputs"]["sigmas"] = ["split", which]
    return graph


@pytest.mark.parametrize("denoise", [1.0, 0.0])
def test_where_there_is_nothing_to_do_it_does_as_a_stock_sampler(run_graph, denoise):
    """One sigma; and none, which is what a denoise of 0 gives. ComfyUI 0.33's lcm fails then, its euler doesn't."""

    def result(sampler):
        graph = last_of(sampler, 1)
        if denoise == 0:
            graph["sigmas"] = node("BasicScheduler", model=["demo", 0], scheduler="normal", steps=4, denoise=0.0)
            graph["sampled"]["inputs"]["sigmas"] = ["sigmas", 0]
        return latent_of(run_graph(graph))

    ours, stock = (result(sampler) for sampler in (node("SiDSampler", noise_mode="ddim"), EULER))
    torch.testing.assert_close(ours, stock, rtol=0, atol=0)


EULER = node("KSamplerSelect", sampler_name="euler")


@pytest.mark.parametrize(
    ("sigmas", "said"),
    [
        ([1.0, 2.0, 0.0], "they are 1, 2, 0; expected them to fall"),
        ([0.0, 0.5, 3.0], "they are 0, 0.5, 3; expected numbers above 0"),
        ([3.0, 0.0, 0.0], "expected numbers above 0, but for the last"),
        ([3.0, float("nan"), 0.0], "they are 3, nan, 0; expected numbers above 0"),
        ([float("inf"), 1.0, 0.0], "they are inf, 1, 0"),
        ([3.0, 1.0, -1.0], "they are 3, 1, -1"),
        ([[3.0, 1.0, 0.0]], r"they are of shape \(1, 3\); expected one list"),
        ([[3.0], [0.0]], r"they are of shape \(2, 1\)"),
        (3.0, r"they are of shape \(\)"),
        ([float(n) for n in range(1, 1001)], "they are 1, 2, 3, 4, 5, 6, …; expected"),
    ],
    ids=str,
)
def test_sigmas_that_are_no_run_are_refused(comfyui, sigmas, said):
    from sid_pack.nodes.sampling.few_step import SiDSampler

    sampler = SiDSampler.execute("fresh").args[0]
    with pytest.raises(ValueError, match=rf"^Connect a scheduler such as SiD Scheduler.*{said}"):
        sampler.sample(None, torch.tensor(sigmas), {}, None, None)


def test_the_sampling_node_says_it(run_graph):
    graph = student_graph(node("SiDSampler", noise_mode="fresh"), up=node("FlipSigmas", sigmas=["sigmas", 0]))
    graph["sampled"]["inputs"]["sigmas"] = ["up", 0]
    result = run_graph(graph)
    assert not result.success
    assert "Connect a scheduler such as SiD Scheduler" in result.error
    assert "or take FlipSigmas out: they are 0.0001, 0.46" in result.error


@pytest.mark.parametrize("noise_mode", ["fresh", "fixed", "ddim"])
def test_nothing_waits_for_the_device_between_steps(run_graph, monkeypatch, noise_mode):
    """By what is read of tensors, in our code and in the host's below it: no more in 6 steps than in 2."""
    import comfy.samplers

    reads, plain = [], comfy.samplers.CFGGuider.inner_sample

    def watched(*args, **kwargs):
        # Here, as a mode is its thread's alone; and in inference mode reads go by it.
        with torch.inference_mode(False), torch.no_grad(), Looks() as looks:
            found = plain(*args, **kwargs)
        reads.append(looks.count)
        return found

    monkeypatch.setattr(comfy.samplers.CFGGuider, "inner_sample", watched)
    for steps in (2, 6):
        graph = student_graph(node("SiDSampler", noise_mode=noise_mode))
        graph["sigmas"]["inputs"]["steps"] = steps
        latent_of(run_graph(graph))
    assert reads[0] == reads[1]
