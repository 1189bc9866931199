"""Image prompts under ComfyUI's guiders of two and of three conditionings, ours included.

By hand: each conditioning's prediction alone, as the positive of CFGGuider at CFG 1 or as its negative at CFG 0, put
together by the guider's own formula.
"""

from functools import cache, partial

import pytest
import torch
from adapter_files import Draw, adapter_tensors, flat
from safetensors.torch import save_file
from tiny_models import conditioning, sd15, with_sd15_layout

pytestmark = pytest.mark.usefixtures("comfyui")
SIGMA = 6.0
FOLLOW, AVOID, EMPTY = PROMPTS = tuple(conditioning(seed) for seed in (1, 2, 3))


def ours(folder):
    """An IP-Adapter on a tiny SD1.5, and that MODEL without it."""
    from sid_pack.nodes.host.unet_layers import cross_attention_layers
    from sid_pack.nodes.image_prompts.ip_adapter import apply_adapter
    from sid_pack.nodes.image_prompts.ip_adapter_branch import ImageTokens
    from sid_pack.nodes.image_prompts.ip_adapter_files import load_adapter

    model = sd15()
    layers = cross_attention_layers(model)
    save_file(flat(adapter_tensors("base", [layer.width for layer in layers], 16)), folder / "adapter.safetensors")
    tokens = ImageTokens(Draw(1)(1, 4, 16, scale=3.0), Draw(2)(1, 4, 16))
    adapter = load_adapter(folder / "adapter.safetensors")
    return apply_adapter(model, adapter, tokens, list(enumerate(layers))), model


def theirs(folder):
    """IPAdapter_plus's patches."""
    from fakes.ipadapter_plus import ipadapter_execute

    model = with_sd15_layout()
    widths = [32, 32, 64, 64, 128, 128, *[128] * 3, *[64] * 3, *[32] * 3, 128]
    embeds = {"pos_embed": Draw(1)(1, 4, 16, scale=3.0), "neg_embed": Draw(2)(1, 4, 16)}
    return ipadapter_execute(model.clone(), adapter_tensors("base", widths, 16), None, **embeds)[0], model


def cleaned(made, folder, **changes):
    from sid_pack.nodes.cleanstyle.model import clean
    from sid_pack.nodes.cleanstyle.purify import Settings

    prompted, model = made(folder)
    return clean(prompted, Settings(**({"alpha": 0.05, "negative_alpha": 0.1} | changes))), model


MODELS = {
    "ours": ours,
    "ours, purified": partial(cleaned, ours),
    "ours, moved away": partial(cleaned, ours, attention_strength=2.0, style_negative="hard"),
    "IPAdapter_plus's, purified": partial(cleaned, theirs),
}


@pytest.fixture(scope="module", params=MODELS)
def each(comfyui, request, tmp_path_factory):
    """Each of MODELS, and it without the image prompt."""
    with torch.inference_mode():
        yield MODELS[request.param](tmp_path_factory.mktemp("adapter"))
    alone.cache_clear()


@pytest.fixture(scope="module")
def prompted(comfyui, tmp_path_factory):
    """The one that most is done to."""
    with torch.inference_mode():
        yield MODELS["ours, moved away"](tmp_path_factory.mktemp("adapter"))[0]
    alone.cache_clear()


def prediction(guider, pictures=2):
    """What a guider says that the clean picture is."""
    import comfy.samplers

    def one_step(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return model(x, sigmas[0] * x.new_ones(len(x)), **extra_args)

    noise = torch.randn(pictures, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([SIGMA, 0.0])
    with torch.inference_mode():
        sampler = comfy.samplers.KSAMPLER(one_step)
        return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, seed=0, disable_pbar=True).clone()


def guided(model, positive, negative, cfg):
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return prediction(guider)


def followed(model, cond):
    return alone(model, next(i for i, known in enumerate(PROMPTS) if known is cond), 1.0)


def avoided(model, cond):
    return alone(model, next(i for i, known in enumerate(PROMPTS) if known is cond), 0.0)


@cache
def alone(model, number, cfg):
    return guided(model, PROMPTS[number], PROMPTS[number], cfg)


def dual(model, cond1, cond2, negative, cfg1, cfg2, nested=False):
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    guider = Guider_DualCFG(model)
    guider.set_conds(cond1, cond2, negative)
    guider.set_cfg(cfg1, cfg2, nested)
    return guider


def dual_by_hand(model, cond1, cond2, negative, cfg1, cfg2, nested=False):
    one, two, against = followed(model, cond1), avoided(model, cond2), avoided(model, negative)
    if nested:
        return against + cfg2 * (two + cfg1 * (one - two) - against)
    return against + cfg2 * (two - against) + cfg1 * (one - two)


def perpendicular(model, positive, negative, empty, cfg, scale):
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    guider = Guider_PerpNeg(model)
    guider.set_conds(positive, negative, empty)
    guider.set_cfg(cfg, scale)
    return guider


def perpendicular_by_hand(model, positive, negative, empty, cfg, scale):
    nothing = avoided(model, empty)
    up, down = followed(model, positive) - nothing, avoided(model, negative) - nothing
    return nothing + cfg * (up - scale * (down - (down * up).sum() / up.norm() ** 2 * up))


def close(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * other.abs().max().item())


# cond2 is a negative prompt to ComfyUI, which says so to the model.
@pytest.mark.parametrize("cfgs", [(1.5, 7.5), (4.0, 1.0), (0.5, 2.0, True)], ids=str)
def test_dual_cfg(each, cfgs):
    prompted, _ = each
    result = prediction(dual(prompted, FOLLOW, AVOID, EMPTY, *cfgs))
    close(result, dual_by_hand(prompted, FOLLOW, AVOID, EMPTY, *cfgs))


def test_dual_cfg_follows_the_image_as_cfg_does(each):
    prompted, plain = each
    under_dual = prediction(dual(prompted, FOLLOW, AVOID, EMPTY, 1.5, 7.5)) - prediction(
        dual(plain, FOLLOW, AVOID, EMPTY, 1.5, 7.5)
    )
    under_cfg = guided(prompted, FOLLOW, AVOID, 1.5) - guided(plain, FOLLOW, AVOID, 1.5)
    assert torch.cosine_similarity(under_dual.flatten(), under_cfg.flatten(), dim=0) > 0.9


@pytest.mark.parametrize("cfgs", [(4.0, 1.0), (1.0, 0.0)], ids=str)
def test_perp_neg(each, cfgs):
    prompted, _ = each
    result = prediction(perpendicular(prompted, FOLLOW, AVOID, EMPTY, *cfgs))
    close(result, perpendicular_by_hand(prompted, FOLLOW, AVOID, EMPTY, *cfgs))


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_our_own_guiders(each, scale):
    from sid_pack.nodes.sampling.guiders import SiDLSGGuider

    prompted, _ = each
    guider = SiDLSGGuider.execute(prompted, FOLLOW, AVOID, scale).args[0]
    against = avoided(prompted, AVOID)
    close(prediction(guider), against + scale * (followed(prompted, FOLLOW) - against))


def test_one_chunk_at_a_time(prompted, monkeypatch):
    """As where memory is short: DualCFGGuider's places 0 and 1 then come alone."""
    together = prediction(dual(prompted, FOLLOW, AVOID, EMPTY, 1.5, 7.5))
    monkeypatch.setattr(type(prompted.model), "memory_required", lambda *args, **kwargs: 1e30)
    close(prediction(dual(prompted, FOLLOW, AVOID, EMPTY, 1.5, 7.5)), together)


def regions(*conds):
    """Conditionings side by side, each in columns of its own."""
    width = 8 // len(conds)
    return [
        [tokens, extra | {"area": (8, width, 0, width * place), "strength": 1.0}]
        for place, ((tokens, extra),) in enumerate(conds)
    ]


def test_regional_prompts(prompted):
    """ComfyUI then adds an entry for each region to the conditionings that have none, under the region's own id."""
    positive = [*regions(FOLLOW, conditioning(7)), *conditioning(8)]
    expected = guided(prompted, positive, AVOID, 3.0)
    close(prediction(dual(prompted, positive, AVOID, EMPTY, 3.0, 1.0)), expected)
    nothing_to_avoid = prediction(perpendicular(prompted, positive, AVOID, AVOID, 3.0, 0.0))
    close(nothing_to_avoid, expected)


def test_hooks(prompted):
    """Conditionings with a hook run apart from the others."""
    import comfy.hooks

    hooks = comfy.hooks.create_hook_lora(lora={}, strength_model=1.0, strength_clip=0.0)
    hooked = [[tokens, extra | {"hooks": hooks}] for tokens, extra in FOLLOW]
    close(
        prediction(dual(prompted, hooked, AVOID, EMPTY, 1.5, 7.5)),
        dual_by_hand(prompted, FOLLOW, AVOID, EMPTY, 1.5, 7.5),
    )


def test_context_windows(prompted):
    """They copy a guider's conditionings for each window."""

    class OneWindow:
        def should_use_context(self, *args):
            return True

        def execute(self, calc, model, conds, x, timestep, model_options):
            copies = [[entry.copy() for entry in cond] for cond in conds]
            return calc(model, copies, x, timestep, model_options)

    patched = prompted.clone()
    patched.model_options["context_handler"] = OneWindow()
    close(
        prediction(dual(patched, FOLLOW, AVOID, EMPTY, 1.5, 7.5)),
        dual_by_hand(prompted, FOLLOW, AVOID, EMPTY, 1.5, 7.5),
    )


def test_a_patch_that_computes_the_negative_alone(prompted):
    """Such as self-attention guidance, whose only conditioning is at place 0."""
    import comfy.samplers

    patched = prompted.clone()
    seen = []

    def again(args):
        one = [args["uncond"]]
        seen.append(
            comfy.samplers.calc_cond_batch(args["model"], one, args["input"], args["sigma"], args["model_options"])
        )
        close(seen[0][0], args["uncond_denoised"])
        return args["denoised"]

    patched.set_model_sampler_post_cfg_function(again)
    guided(patched, FOLLOW, AVOID, 3.0)
    assert len(seen) == 1


def named(model, conds, order):
    """A guider that gives its conditionings names of its own, and adds up what they predict."""
    import comfy.samplers

    class Guider(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options=None, seed=None):
            listed = [self.conds[name] for name in order]
            return sum(comfy.samplers.calc_cond_batch(self.inner_model, listed, x, timestep, model_options))

    guider = Guider(model)
    guider.inner_set_conds(conds)
    return guider


def test_names_of_other_packs(prompted):
    guider = named(prompted, {"uncond": AVOID, "positive_2": FOLLOW}, ["uncond", "positive_2"])
    close(prediction(guider), followed(prompted, FOLLOW) + avoided(prompted, AVOID))


def test_what_can_not_be_known_is_refused(each):
    prompted, plain = each
    guider = named(prompted, {"positive": FOLLOW, "style": AVOID}, ["positive", "style"])
    with pytest.raises(ValueError, match="^Sample with CFGGuider.*neither positive nor negative"):
        prediction(guider)
    assert prediction(named(plain, {"positive": FOLLOW, "style": AVOID}, ["positive", "style"])).isfinite().all()
