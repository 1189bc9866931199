"""CleanStyle on IPAdapter_plus's patches: a stand-in's, and its own code's where IPADAPTER_PLUS names its source.

By hand: the adapter's projections are replaced by ones that purify, recognizing a half by the numbers in its tokens.
"""

import importlib.util
import math
import os
import sys

import pytest
import torch
from tiny_models import conditioning, with_sd15_layout, with_sdxl_layout
from torch import nn

pytestmark = pytest.mark.usefixtures("comfyui")
TOKENS, WIDTH, EMBEDS = 4, 64, 8
SD15_WIDTHS = [32, 32, 64, 64, 128, 128, *[128] * 3, *[64] * 3, *[32] * 3, 128]
SDXL_WIDTHS = [*[64] * 4, *[128] * 20, *[128] * 30, *[64] * 6, *[128] * 10]
SETTINGS = {"top_k": 1, "alpha": 0.05, "gamma": 5.0, "center": 0.5, "negative_alpha": 0.1}


def source(path):
    spec = importlib.util.spec_from_file_location(
        "ipadapter_plus_source", os.path.join(path, "__init__.py"), submodule_search_locations=[path]
    )
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return importlib.import_module("ipadapter_plus_source.IPAdapterPlus")


@pytest.fixture(params=["stand-in", "real"])
def plus(request):
    if request.param == "stand-in":
        import fakes.ipadapter_plus

        return fakes.ipadapter_plus
    path = os.environ.get("IPADAPTER_PLUS")
    if not path:
        pytest.skip("IPADAPTER_PLUS names no checkout of IPAdapter_plus's source")
    return source(path)


def is_real(plus):
    return "source" in plus.__name__


@pytest.fixture(scope="module")
def sd15():
    return with_sd15_layout()


def adapter_file(widths, seed, width=WIDTH):
    """In their layout: the base adapter, whose picture's embedding is projected to four tokens."""
    generator = torch.manual_seed(seed)
    layers = {}
    for number, inner in enumerate(widths):
        for name in ("k", "v"):
            weight = (
                torch.randn(inner, width, generator=generator) * (0.3 if name == "k" else 2.0) / (width / 64) ** 0.5
            )
            layers[f"{2 * number + 1}.to_{name}_ip.weight"] = weight
    projection = {
        "proj.weight": torch.randn(TOKENS * width, EMBEDS, generator=generator),
        "proj.bias": torch.randn(TOKENS * width, generator=generator),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    return {"image_proj": projection, "ip_adapter": layers}


def applied(plus, model, file, *, seed=0, pictures=1, **options):
    """A clone of the model with one more adapter; the real one makes tokens of embeddings, the stand-in takes them."""
    generator = torch.manual_seed(100 + seed)
    shape = (pictures, EMBEDS) if is_real(plus) else (pictures, TOKENS, WIDTH)
    embeds = {name: torch.randn(shape, generator=generator) for name in ("pos_embed", "neg_embed")}
    return plus.ipadapter_execute(model.clone(), file, None, **embeds, **options)[0]


TIMES = [999.0, 800.0, 400.0]


def sum_of_predictions(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """A sampler of which all is seen: the noise that the model predicts at each sigma, added up."""
    total = torch.zeros_like(x)
    for sigma in sigmas[:-1]:
        x_t = x / x.std() * (1 + sigma**2) ** 0.5
        total += (x_t - model(x_t, sigma * x.new_ones(len(x)), **extra_args)) / sigma
    return total


def sampled(model, *, cfg=4.0, batch=2):
    import comfy.samplers

    sampling = model.get_model_object("model_sampling")
    sigmas = torch.cat([sampling.sigma(torch.tensor(TIMES)), torch.zeros(1)])
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning(1), conditioning(2))
    guider.set_cfg(cfg)
    noise = torch.randn(4, 4, 8, 8, generator=torch.manual_seed(3))[:batch]
    with torch.inference_mode():
        sampler = comfy.samplers.KSAMPLER(sum_of_predictions)
        return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, seed=0)


def cleaned(model, blocks="all", **changes):
    from sid_pack.nodes.cleanstyle.model import clean
    from sid_pack.nodes.cleanstyle.purify import Settings

    return clean(model, Settings(**(SETTINGS | changes)), blocks)


def replacements(model):
    return model.model_options["transformer_options"]["patches_replace"]["attn2"]


class Clock:
    t = 0.0

    def __deepcopy__(self, memo):
        return self  # ComfyUI 0.3.75 copies what is in a MODEL's patches for each clone


class ByHand(nn.Module):
    """A projection to purified keys or values for the conditional tokens, and to their negatives for the others."""

    def __init__(self, layer, halves, clock, settings):
        super().__init__()
        self.layer, self.halves, self.clock, self.settings = layer, halves, clock, settings

    def forward(self, tokens):
        return torch.cat([self.one(picture[None]) for picture in tokens])

    def one(self, picture):
        for cond, uncond in self.halves:
            for row, other in zip(cond, uncond, strict=True):
                if torch.equal(picture[0], row):
                    return self.scaled(row, self.purified)
                if torch.equal(picture[0], other) and self.settings["style_negative"] != "off":
                    return self.scaled(row, self.negative)
        return self.layer(picture)

    def scaled(self, row, gains):
        u, s, vh = torch.linalg.svd(self.layer(row[None]).double(), full_matrices=False)
        return (u @ torch.diag_embed(gains(s) * s) @ vh).float()

    def purified(self, s):
        p = 1 - self.clock.t / 999
        alpha = self.settings["alpha"] / (1 + math.exp(self.settings["gamma"] * (p - self.settings["center"])))
        return torch.where(torch.arange(s.shape[1]) < self.settings["top_k"], 1.0, torch.exp(-alpha * s))

    def negative(self, s):
        if self.settings["style_negative"] == "hard":
            return (torch.arange(s.shape[1]) >= self.settings["top_k"]).to(s)
        return torch.exp(-self.settings["negative_alpha"] * s)


def purified_by_hand(model, unchanged=(), **changes):
    """The adapters of this MODEL get other projections, so it must be of no other use."""
    settings = SETTINGS | {"style_negative": "soft"} | changes
    clock, adapters = Clock(), {}
    for replacement in replacements(model).values():
        for kwargs in replacement.kwargs:
            halves = adapters.setdefault(id(kwargs["ipadapter"]), (kwargs["ipadapter"], []))[1]
            halves.append((kwargs["cond"], kwargs["uncond"]))
            for alternative in (kwargs.get("cond_alt") or {}).values():
                halves.append((alternative, kwargs["uncond"]))
    for adapter, halves in adapters.values():
        for name, layer in adapter.ip_layers.to_kvs.items():
            if int(name.split("_")[0]) // 2 not in unchanged:
                adapter.ip_layers.to_kvs[name] = ByHand(layer, halves, clock, settings)

    def keep_time(apply_model, args):
        clock.t = float(model.get_model_object("model_sampling").timestep(args["timestep"])[0])
        return apply_model(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(keep_time)
    return model


def close(one, other, tolerance=1e-4):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * other.abs().max().item())


def differ(one, other):
    assert (one - other).abs().max() > 1e-2 * other.abs().max()


HALF = torch.zeros(1, 8, 8)
HALF[:, :, 4:] = 1.0
# (what a user chooses, the numbers of the layers whose halves that kind swaps)
CASES = {
    "linear": ({}, ()),
    "style transfer": ({"weight_type": "style transfer"}, ()),
    "style transfer precise": ({"weight_type": "style transfer precise"}, (4, 5)),
    "start and end": ({"start_at": 0.1, "end_at": 0.6}, ()),
    "unfolded, fewer references than pictures": ({"unfold_batch": True, "pictures": 3}, ()),
    "unfolded, more references than pictures": ({"unfold_batch": True, "pictures": 6}, ()),
    "several references": ({"pictures": 3}, ()),
}
OF_THE_REAL_ONE = {
    "ease in, K+V": ({"weight_type": "ease in", "embeds_scaling": "K+V"}, ()),
    "reverse in-out": ({"weight_type": "reverse in-out", "embeds_scaling": "K+V w/ C penalty", "weight": 4.0}, ()),
    "weak input": ({"weight_type": "weak input", "embeds_scaling": "K+mean(V) w/ C penalty"}, ()),
    "composition": ({"weight_type": "composition"}, ()),
    "strong style transfer": ({"weight_type": "strong style transfer", "embeds_scaling": "K+V"}, ()),
    "composition precise": ({"weight_type": "composition precise"}, {*range(16)} - {4, 5}),
    "mask": ({"attn_mask": HALF}, ()),
    "unfolded, a mask and a weight for each": (
        {"unfold_batch": True, "pictures": 4, "weight": [1.0, 0.5, 0.0, 0.8], "attn_mask": HALF.repeat(4, 1, 1)},
        (),
    ),
}


@pytest.fixture(params=CASES | OF_THE_REAL_ONE)
def case(request, plus):
    """(options, layers, pictures in the batch)"""
    if request.param in OF_THE_REAL_ONE and not is_real(plus):
        pytest.skip("the stand-in has no such option")
    options, unchanged = (CASES | OF_THE_REAL_ONE)[request.param]
    return options, unchanged, 4 if options.get("unfold_batch") else 2


def test_off_leaves_the_output_unchanged(plus, sd15, case):
    options, _, batch = case
    theirs = applied(plus, sd15, adapter_file(SD15_WIDTHS, 1), **options)
    expected = sampled(theirs, batch=batch)
    differ(expected, sampled(sd15, batch=batch))
    close(sampled(cleaned(theirs, style_negative="off", top_k=TOKENS), batch=batch), expected, 1e-5)
    assert torch.equal(sampled(cleaned(theirs, style_negative="off", alpha=0.0), batch=batch), expected)
    assert torch.equal(sampled(cleaned(theirs, start=0.98, end=0.99), batch=batch), expected)


def test_it_equals_purifying_their_keys_and_values_by_hand(plus, sd15, case):
    options, unchanged, batch = case
    file = adapter_file(SD15_WIDTHS, 1)
    theirs = applied(plus, sd15, file, **options)
    expected = sampled(purified_by_hand(applied(plus, sd15, file, **options), unchanged), batch=batch)
    differ(expected, sampled(theirs, batch=batch))
    close(sampled(cleaned(theirs), batch=batch), expected)


@pytest.mark.parametrize("changes", [{"style_negative": "off"}, {"style_negative": "hard"}, {"top_k": 2}])
def test_other_settings_equal_them_by_hand(plus, sd15, changes):
    file = adapter_file(SD15_WIDTHS, 1)
    expected = sampled(purified_by_hand(applied(plus, sd15, file), **changes))
    close(sampled(cleaned(applied(plus, sd15, file), **changes)), expected)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_two_adapters_are_each_purified_by_their_own_reference(plus, sd15, cfg):
    def both():
        one = applied(plus, sd15, adapter_file(SD15_WIDTHS, 1), seed=1, end_at=0.7)
        return applied(plus, one, adapter_file(SD15_WIDTHS, 2), seed=2, weight_type="style transfer", weight=0.7)

    theirs = both()
    close(sampled(cleaned(theirs), cfg=cfg), sampled(purified_by_hand(both()), cfg=cfg))
    close(sampled(cleaned(theirs, style_negative="off", top_k=TOKENS), cfg=cfg), sampled(theirs, cfg=cfg), 1e-5)


def test_another_reference_in_some_layers(plus, sd15):
    """As "style and composition" has it: another picture's tokens by transformer index."""
    if not is_real(plus):
        pytest.skip("the stand-in has no such option")

    def with_composition():
        model = applied(plus, sd15, adapter_file(SD15_WIDTHS, 1), weight_type="style and composition")
        other = torch.randn(1, TOKENS, WIDTH, generator=torch.manual_seed(9))
        for replacement in replacements(model).values():
            replacement.kwargs[0]["cond_alt"] = {4: other, 5: other}
        return model

    # No CFG: their unconditional half belongs to two references, so the hand can't tell which is meant.
    expected = sampled(purified_by_hand(with_composition()), cfg=1.0)
    close(sampled(cleaned(with_composition()), cfg=1.0), expected)


def test_sdxl(plus):
    if not is_real(plus):
        pytest.skip("the stand-in has no SDXL")
    sdxl = with_sdxl_layout()
    file = adapter_file(SDXL_WIDTHS, 1, width=2048)
    precise = applied(plus, sdxl, file, weight_type="style transfer precise")
    by_hand = purified_by_hand(applied(plus, sdxl, file, weight_type="style transfer precise"), range(14, 24))
    close(sampled(cleaned(precise)), sampled(by_hand))
    style = applied(plus, sdxl, file, weight_type="style transfer")
    everywhere = sampled(cleaned(style))
    # Their style transfer is one block, so it is the same wherever else we purify.
    close(sampled(cleaned(style, blocks="style (InstantStyle)")), everywhere, 1e-6)
    differ(everywhere, sampled(style))


def window(model, pictures, full_length):
    clone = model.clone()
    clone.model_options["transformer_options"]["ad_params"] = {"sub_idxs": pictures, "full_length": full_length}
    return clone


@pytest.mark.parametrize("references", [2, 5])
def test_windows_of_animatediff_have_the_spectra_of_their_pictures(plus, sd15, references, monkeypatch):
    from sid_pack.sid_core.method.cleanstyle import Spectrum

    options = {"unfold_batch": True, "pictures": references}
    clean = cleaned(applied(plus, sd15, adapter_file(SD15_WIDTHS, 1), **options))
    by_hand = purified_by_hand(applied(plus, sd15, adapter_file(SD15_WIDTHS, 1), **options))
    computed = []
    monkeypatch.setattr(Spectrum, "of", lambda tokens, of=Spectrum.of: computed.append(tokens.shape) or of(tokens))
    for _ in range(2):
        for pictures in ([0, 1], [3, 4]):
            close(sampled(window(clean, pictures, 5)), sampled(window(by_hand, pictures, 5)))
    # Their patch on the middle block is for a name that ComfyUI does not have, so it is never called: 15 layers.
    assert len(computed) == 15 * 2 * 2


def identity_callback(out, q, k, v, extra_options, *, pulid, cond, number, **kwargs):
    assert pulid == "its own" and torch.equal(cond, torch.ones(1))
    return torch.full_like(out, number)


def test_another_packs_prompt_in_their_patch_stays_as_it_is(plus, sd15):
    """Such as PuLID's, which adds itself to the same patches."""
    their_kwargs = {"pulid": "its own", "cond": torch.ones(1), "number": 0.1, "sigma_start": 1e9, "sigma_end": 0.0}

    def with_identity(model):
        for replacement in replacements(model).values():
            replacement.add(identity_callback, **their_kwargs)
        return model

    file = adapter_file(SD15_WIDTHS, 1)
    theirs = with_identity(applied(plus, sd15, file))
    expected = with_identity(cleaned(applied(plus, sd15, file)))
    close(sampled(cleaned(theirs)), sampled(expected), 1e-6)
    only_identity = sd15.clone()
    only_identity.set_model_attn2_replace(replacements(theirs)["input", 1], "input", 1)
    patch = replacements(only_identity)["input", 1]
    patch.callback, patch.kwargs = patch.callback[1:], patch.kwargs[1:]
    with pytest.raises(ValueError, match="^Connect an image prompt before this node"):
        cleaned(only_identity)


def test_an_adapter_that_comes_after_is_not_purified_and_does_not_leak(plus, sd15):
    one, two = adapter_file(SD15_WIDTHS, 1), adapter_file(SD15_WIDTHS, 2)
    clean = cleaned(applied(plus, sd15, one, seed=1))
    before = sampled(clean)
    later = applied(plus, clean, two, seed=2)
    by_hand = applied(plus, purified_by_hand(applied(plus, sd15, one, seed=1)), two, seed=2)
    close(sampled(later), sampled(by_hand))
    assert torch.equal(sampled(clean), before)


def test_clones_do_not_leak(plus, sd15):
    theirs = applied(plus, sd15, adapter_file(SD15_WIDTHS, 1))
    plain = sampled(theirs)
    weak, strong = cleaned(theirs, alpha=0.02), cleaned(theirs, alpha=0.2)
    results = [sampled(model) for model in (weak, strong)]
    differ(*results)
    twice = cleaned(weak.clone(), alpha=0.2)  # the last CleanStyle counts
    assert torch.equal(sampled(twice), results[1])
    assert torch.equal(sampled(weak.clone()), results[0])
    assert torch.equal(sampled(weak), results[0])
    assert torch.equal(sampled(theirs), plain)


def test_a_second_gpu_gets_copies(plus, sd15):
    """ "meta" stands for it: tensors there have a device and no numbers."""
    if not is_real(plus):
        pytest.skip("the stand-in knows one device")
    from sid_pack.nodes.image_prompts.attention import image_prompts

    clean = cleaned(applied(plus, sd15, adapter_file(SD15_WIDTHS, 1)))
    branch = image_prompts(clean)["input", 1][1][0]
    clean.model_patches_to(torch.device("meta"))
    clean.model_patches_to(torch.device("cpu"))
    clean.model_patches_to(torch.float16)
    there = branch.branch.elsewhere[torch.device("meta")]
    assert there["cond"].device.type == "meta"
    q = torch.zeros(2, 16, 32, device="meta")
    options = {"cond_or_uncond": [0, 1], "block": ("input", 1), "transformer_index": 0, "n_heads": 2}
    options["original_shape"] = (1, 4, 4, 4)
    assert branch.branch(q, q, q, q, options).device.type == "meta"
    assert sampled(clean).isfinite().all()


def ours_instead(model, theirs):
    """The same adapter by our own branches, but for the middle block: theirs is for a name that ComfyUI has not."""
    import comfy.model_patcher

    from sid_pack.nodes.host.unet_layers import cross_attention_layers
    from sid_pack.nodes.image_prompts.attention import put_attention, with_branch
    from sid_pack.nodes.image_prompts.ip_adapter_branch import AdapterBranch, ImageTokens

    kwargs = replacements(theirs)["input", 1].kwargs[0]
    projections = kwargs["ipadapter"].ip_layers.to_kvs
    network = nn.Module()
    for name in ("to_k_ip", "to_v_ip"):
        setattr(network, name, nn.ModuleList(projections[f"{2 * number + 1}_{name}"] for number in range(16)))
    cpu = torch.device("cpu")
    weights = comfy.model_patcher.ModelPatcher(network, load_device=cpu, offload_device=cpu)
    tokens = ImageTokens(kwargs["cond"], kwargs["uncond"])
    clone = model.clone()
    put_attention(
        clone,
        {
            layer.key: with_branch(None, AdapterBranch(weights, number, tokens))
            for number, layer in enumerate(cross_attention_layers(model))
            if layer.block[0] != "middle"
        },
    )
    return clone


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_it_does_the_same_on_theirs_as_on_ours(plus, sd15, cfg):
    """On ours it is held against the method by hand, in test_cleanstyle.py, so this holds theirs against that too."""
    theirs = applied(plus, sd15, adapter_file(SD15_WIDTHS, 1), pictures=2)
    ours = ours_instead(sd15, theirs)
    close(sampled(ours, cfg=cfg), sampled(theirs, cfg=cfg))
    changes = {"attention_strength": 3.0, "style_negative": "hard"}
    moved = sampled(cleaned(theirs, **changes), cfg=cfg)
    close(moved, sampled(cleaned(ours, **changes), cfg=cfg))
    differ(moved, sampled(cleaned(theirs, style_negative="hard"), cfg=cfg))


def test_a_third_chunk_is_conditional(plus, sd15):
    """As guiders with two prompts have it, for which they have a case of their own."""
    from sid_pack.nodes.host import halves

    clean = cleaned(applied(plus, sd15, adapter_file(SD15_WIDTHS, 1)), attention_strength=2.0)
    prompt, other, text = (torch.randn(2, length, 32, generator=torch.manual_seed(length)) for length in (6, 7, 5))
    other = other[:, :6]
    options = {"block": ("input", 1), "transformer_index": 0, "n_heads": 2, "original_shape": (2, 4, 2, 3)}
    options |= {"sigmas": torch.tensor([10.0]), "activations_shape": (2, 32, 2, 3)}
    options[halves.OF_PLACES] = halves._Places((halves.PROMPT, halves.UNCONDITIONAL, halves.PROMPT))

    def attention(chunks, q):
        texts = text.repeat(len(chunks), 1, 1)
        return replacements(clean)["input", 1](q, texts, texts, options | {"cond_or_uncond": chunks})

    with torch.no_grad():
        first, second, third = attention([0, 1, 2], torch.cat([prompt, other, prompt])).chunk(3)
        expected = attention([0, 1], torch.cat([prompt, other])).chunk(2)
    close(torch.cat([first, second]), torch.cat(expected))
    close(third, first)


def test_spectra_are_listed_where_their_weight_type_has_the_image(plus, sd15):
    from sid_pack.nodes.cleanstyle.model import spectra

    theirs = applied(plus, sd15, adapter_file(SD15_WIDTHS, 1), weight_type="style transfer")
    listed = list(spectra(cleaned(theirs)))
    # Theirs are for layers 0 to 3 and 9 to 15, of which ComfyUI runs all.
    assert [entry.layer.number for entry in listed[::2]] == [*range(4), *range(9, 16)]
    for entry in listed:
        kwargs = replacements(theirs)[entry.layer.block].kwargs[0]
        name = f"{kwargs['module_key']}_to_{entry.which}_ip"
        with torch.no_grad():
            expected = torch.linalg.svdvals(kwargs["ipadapter"].ip_layers.to_kvs[name](kwargs["cond"]).double())
        torch.testing.assert_close(entry.spectrum.singular_values, expected.float(), rtol=1e-4, atol=1e-4)
