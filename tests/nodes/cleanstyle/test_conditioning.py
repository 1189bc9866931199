"""Purified tokens beside the text's, seen where the network gets them."""

import math

import pytest
import tiny_models
import torch
from graphs import demo, node, sampled
from oracles import progress, relative_error, suppressed

TEXT, IMAGE, WIDTH = 5, 6, 16
SCHEDULE = {"alpha": 0.08, "gamma": 15.0, "center": 0.4}
SETTINGS = SCHEDULE | {
    "top_k": 1,
    "beta": 0.9,
    "normalize": False,
    "style_negative": "soft",
    "negative_alpha": 0.1,
}


@pytest.fixture
def execute(comfyui):
    """The node on with_style and without_style → positive, negative."""
    from sid_pack.nodes.cleanstyle.conditioning import CleanStyleConditioning

    def call(*conditionings, **changes):
        return CleanStyleConditioning.execute(*conditionings, **(SETTINGS | changes)).args

    return call


def picture(seed: int = 5, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(1, IMAGE, WIDTH, generator=torch.Generator().manual_seed(seed))


def styled(conditioning: list, tokens: torch.Tensor) -> list:
    """What ComfyUI's own node makes of a conditioning and a picture whose tokens are these."""
    import nodes

    class StyleModel:
        def get_cond(self, clip_vision_output):
            return tokens.clone()

    return nodes.StyleModelApply().apply_stylemodel(conditioning, StyleModel(), None, 1.0, "multiply")[0]


def sample(model, positive, negative, cfg: float, steps: int = 14) -> list[tuple[float, int, torch.Tensor]]:
    """What the network was given in a run of ComfyUI's sampler: sigma, 0 or 1 for positive or negative, its tokens."""
    import comfy.sample
    import comfy.samplers

    seen = []

    def watch(apply_model, args):
        chunks = args["cond_or_uncond"]
        for which, rows in zip(chunks, args["c"]["c_crossattn"].chunk(len(chunks)), strict=True):
            seen.append((float(args["timestep"][0]), which, rows))
        return apply_model(args["input"], args["timestep"], **args["c"])

    model = model.clone()
    model.set_model_unet_function_wrapper(watch)
    channels = model.get_model_object("latent_format").latent_channels
    noise = torch.randn(1, channels, 8, 8, generator=torch.manual_seed(0))
    sampler = comfy.samplers.sampler_object("euler")
    scheduled = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    latent = comfy.sample.sample_custom(
        model, noise, cfg, sampler, scheduled, positive, negative, torch.zeros_like(noise), disable_pbar=True
    )
    assert latent.isfinite().all()
    return seen


@pytest.mark.parametrize("name", ["sd15", "flux"])
@pytest.mark.parametrize("k", [1, 2])
def test_each_sigma_has_the_tokens_that_the_schedule_purifies_there(execute, name, k):
    from sid_pack.sid_core.method.cleanstyle import suppression

    with torch.inference_mode():
        model = getattr(tiny_models, name)()
        text, image = tiny_models.conditioning(1), picture()
        positive, negative = execute(styled(text, image), text, top_k=k, negative=tiny_models.conditioning(2))
        seen = sample(model, positive, negative, cfg=3.0)
    sigmas = sorted({sigma for sigma, _, _ in seen}, reverse=True)
    assert len(sigmas) == 14
    alphas = []
    for sigma in sigmas:
        (tokens,) = [tokens for at, which, tokens in seen if at == sigma and which == 0]
        torch.testing.assert_close(tokens[:, :TEXT], text[0][0])
        expected = suppression(progress(name, sigma), **SCHEDULE)
        for alpha in suppressed(tokens[:, TEXT:], image, k, SETTINGS["beta"]):
            assert alpha == pytest.approx(expected, abs=0.05 * SCHEDULE["alpha"] + 1e-4), sigma
        alphas.append(expected)
        (tokens,) = [tokens for at, which, tokens in seen if at == sigma and which == 1]
        torch.testing.assert_close(tokens[:, :TEXT], tiny_models.conditioning(2)[0][0])
        for alpha in suppressed(tokens[:, TEXT:], image, 0, SETTINGS["beta"]):
            assert alpha == pytest.approx(0.1, rel=1e-3)
    assert alphas[0] > 0.9 * SCHEDULE["alpha"]  # the run has seen the suppression begin and end
    assert alphas[-1] < 0.05 * SCHEDULE["alpha"]


def test_tokens_before_the_text_are_found_too(execute):
    text, image = tiny_models.conditioning(1), picture()
    before = [[torch.cat([image, text[0][0]], dim=1), text[0][1]]]
    positive, negative = execute(before, text, gamma=0.0, negative=text)
    ((tokens, extra),) = positive
    assert tokens.shape == (1, IMAGE + TEXT, WIDTH)
    torch.testing.assert_close(tokens[:, IMAGE:], text[0][0])
    # Half of alpha at all times, where gamma is 0.
    assert suppressed(tokens[:, :IMAGE], image, 1, 0.9) == pytest.approx([0.04] * (IMAGE - 1), rel=1e-3)
    assert "start_percent" not in extra
    assert "end_percent" not in extra
    torch.testing.assert_close(negative[0][0][:, IMAGE:], text[0][0])


def test_everything_else_of_an_entry_is_kept_and_what_was_given_is_not_changed(execute):
    text = tiny_models.conditioning(1)
    text[0][1]["guidance"] = 2.5
    given = styled(text, picture())
    before = given[0][0].clone()
    positive, negative = execute(given, text)
    assert len(positive) > 5
    for _, extra in [*positive, *negative]:
        assert extra["guidance"] == 2.5
    assert all(extra["pooled_output"] is given[0][1]["pooled_output"] for _, extra in positive)
    assert torch.equal(given[0][0], before)
    assert given[0][1].keys() == {"pooled_output", "guidance"}


def test_ranges_follow_each_other_from_open_end_to_open_end(execute):
    text = tiny_models.conditioning(1)
    positive, _ = execute(styled(text, picture()), text)
    assert "start_percent" not in positive[0][1]
    assert "end_percent" not in positive[-1][1]
    for (_, before), (_, after) in zip(positive, positive[1:], strict=False):
        assert before["end_percent"] == after["start_percent"]


def test_an_entry_for_a_part_of_the_run_keeps_to_it(execute):
    text = tiny_models.conditioning(1)
    text[0][1] |= {"start_percent": 0.35, "end_percent": 0.8}
    positive, _ = execute(styled(text, picture()), text)
    assert positive[0][1]["start_percent"] == 0.35
    assert positive[-1][1]["end_percent"] == 0.8
    assert all(extra["start_percent"] < extra["end_percent"] for _, extra in positive)
    assert len(positive) < len(execute(styled(tiny_models.conditioning(1), picture()), tiny_models.conditioning(1))[0])


def test_two_pictures_are_purified_each_by_its_own_node(execute):
    text, first, second = tiny_models.conditioning(1), picture(5), picture(6)
    once, _ = execute(styled(text, first), text)
    twice, negative = execute(styled(once, second), once)
    assert len(twice) == len(once)  # the same ranges
    for (tokens, extra), (before, extra_before) in zip(twice, once, strict=True):
        torch.testing.assert_close(tokens[:, :-IMAGE], before)
        assert extra.get("start_percent") == extra_before.get("start_percent")
        alphas = suppressed(tokens[:, -IMAGE:], second, 1, 0.9)
        assert alphas == pytest.approx(suppressed(before[:, -IMAGE:], first, 1, 0.9), rel=1e-2, abs=1e-5)
    assert len(negative) == len(twice)


def test_without_a_negative_prompt_the_style_negative_stands_beside_zeros(execute):
    text, image = tiny_models.conditioning(1), picture()
    _, ((tokens, extra),) = execute(styled(text, image), text, style_negative="hard", beta=1.0, top_k=2)
    assert not tokens[:, :TEXT].any()
    assert not extra["pooled_output"].any()
    u, values, vt = torch.linalg.svd(image.double(), full_matrices=False)
    values[:, :2] = 0
    assert relative_error(tokens[:, TEXT:].double(), u @ values[..., None].mul(vt)) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_so(execute, dtype):
    text = [[tiny_models.conditioning(1)[0][0].to(dtype), {}]]
    positive, negative = execute(styled(text, picture().to(dtype)), text)
    assert {tokens.dtype for tokens, _ in [*positive, *negative]} == {dtype}


def test_conditionings_that_do_not_belong_together_are_refused(execute):
    text, other = tiny_models.conditioning(1), tiny_models.conditioning(2)
    with_style = styled(text, picture())
    with pytest.raises(
        ValueError,
        match=r"^Connect the CONDITIONING that comes out of Apply Style Model.*neither the first nor the last.*11",
    ):
        execute(with_style, other)
    with pytest.raises(
        ValueError, match=r"^Connect the.*goes into.*5 tokens and without_style 5, so no picture's tokens were added"
    ):
        execute(text, text)
    with pytest.raises(ValueError, match="^Connect the.*2 entries and without_style 1"):
        execute([*with_style, *with_style], text)
    with pytest.raises(ValueError, match="^Connect a CLIPTextEncode of the same CLIP.*8 numbers and with_style's 16"):
        execute(with_style, text, negative=[[torch.zeros(1, 5, 8), {}]])


def test_what_has_no_spectrum_or_too_small_a_one_is_refused(execute):
    text = tiny_models.conditioning(1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        execute(styled(text, picture() * math.nan), text)
    with pytest.raises(ValueError, match="k is 7, but these style tokens have 6"):
        execute(styled(text, picture()), text, top_k=7)


def test_a_graph_with_it_runs(run_graph):
    """ComfyUI's own node that joins two prompts stands in for an image encoder."""
    graph = demo() | {
        "image": node("CLIPTextEncode", clip=["demo", 1], text="grinning face"),
        "joined": node("ConditioningConcat", conditioning_to=["positive", 0], conditioning_from=["image", 0]),
        "clean": node(
            "CleanStyleConditioning",
            with_style=["joined", 0],
            without_style=["positive", 0],
            negative=["negative", 0],
            **SETTINGS,
        ),
        "guider": node("CFGGuider", model=["demo", 0], positive=["clean", 0], negative=["clean", 1], cfg=3.0),
        "sampler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["demo", 0], scheduler="simple", steps=4, denoise=1.0),
    }
    result = run_graph(graph | sampled(["sampler", 0], ["sigmas", 0], ["guider", 0]))
    assert result.success, result.error
    assert result.value("sampled")["samples"].isfinite().all()
