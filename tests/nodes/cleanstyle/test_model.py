"""The CleanStyle node on our own image prompts, in ComfyUI's own UNets. On IPAdapter_plus's: test_ipadapter_plus.py."""

import math

import pytest
import torch
from tiny_models import conditioning, sd3, sd15, sdxl
from torch import nn

pytestmark = pytest.mark.usefixtures("comfyui")
TOKENS, WIDTH = 4, 24
TIMES = [999.0, 800.0, 400.0]
SETTINGS = {"alpha": 0.05, "gamma": 5.0, "center": 0.5, "negative_alpha": 0.1}
TINY = {"sd15": sd15, "sdxl": sdxl}


@pytest.fixture(scope="module", params=TINY)
def model(request):
    return TINY[request.param]()


def references(pictures, seed=0):
    """Image tokens of a batch whose first rows are those of a smaller batch."""
    generators = [torch.manual_seed(1000 * seed + picture) for picture in range(pictures)]
    return torch.cat([torch.randn(1, TOKENS, WIDTH, generator=generator) for generator in generators])


def adapter_weights(layers, seed=5):
    import comfy.model_patcher
    import comfy.ops

    generator = torch.manual_seed(seed)
    network = nn.Module()
    network.to_k_ip, network.to_v_ip = nn.ModuleList(), nn.ModuleList()
    for layer in layers:
        for projections, scale in ((network.to_k_ip, 0.5), (network.to_v_ip, 10.0)):
            projection = comfy.ops.manual_cast.Linear(WIDTH, layer.width, bias=False, dtype=torch.float32)
            projection.weight.data = torch.randn(layer.width, WIDTH, generator=generator) * scale
            projections.append(projection)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(network, load_device=cpu, offload_device=cpu)


def with_image_prompt(model, cond, uncond=None, each_its_own=False, **options):
    from sid_pack.nodes.host.unet_layers import cross_attention_layers
    from sid_pack.nodes.image_prompts.attention import attn2_replacements, put_attention, with_branch
    from sid_pack.nodes.image_prompts.ip_adapter_branch import AdapterBranch, ImageTokens

    layers = cross_attention_layers(model)
    weights = adapter_weights(layers)
    uncond = torch.full_like(cond, 0.1) if uncond is None else uncond
    tokens = ImageTokens(cond, uncond, each_its_own)
    clone = model.clone()
    there = attn2_replacements(clone)
    put_attention(
        clone,
        {
            layer.key: with_branch(there.get(layer.key), AdapterBranch(weights, number, tokens, **options))
            for number, layer in enumerate(layers)
        },
    )
    return clone


def settings(**changes):
    from sid_pack.nodes.cleanstyle.purify import Settings

    return Settings(**(SETTINGS | changes))


def cleaned(model, blocks="all", listed="", **changes):
    from sid_pack.nodes.cleanstyle.model import clean

    return clean(model, settings(**changes), blocks, listed)


def sum_of_predictions(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """A sampler of which all is seen: the noise that the model predicts at each sigma, added up."""
    total = torch.zeros_like(x)
    for sigma in sigmas[:-1]:
        x_t = x / sigmas[0] * sigma
        total += (x_t - model(x_t, sigma * x.new_ones(len(x)), **extra_args)) / sigma
    return total


def noises(batch):
    return torch.randn(4, 4, 8, 8, generator=torch.manual_seed(3))[:batch]


def sampled(model, *, cfg=4.0, batch=2, noise=None, times=TIMES, options=None):
    import comfy.samplers

    sigmas = torch.cat([model.get_model_object("model_sampling").sigma(torch.tensor(times)), torch.zeros(1)])
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning(1), conditioning(2))
    guider.set_cfg(cfg)
    noise = noises(batch) if noise is None else noise
    with torch.inference_mode():
        sampler = comfy.samplers.KSAMPLER(sum_of_predictions)
        return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, seed=0)


def close(one, other, tolerance=1e-5):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * other.abs().max().item())


def differ(one, other):
    assert (one - other).abs().max() > 1e-2 * other.abs().max()


def svd_scaled(x, gains):
    u, s, vh = torch.linalg.svd(x.double(), full_matrices=False)
    return (u @ torch.diag_embed(gains(s) * s) @ vh).float()


def softmax_attention(q, k, v, heads):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class ByHand:
    """The whole method in one layer as the authors' code has it, with nothing of ours but the settings."""

    def __init__(self, model, projections, cond, uncond, chosen):
        self.sampling = model.get_model_object("model_sampling")
        self.projections, self.cond, self.uncond, self.chosen = projections, cond, uncond, chosen

    def __deepcopy__(self, memo):
        return self

    def gains(self, s, negative, alpha):
        tail = torch.arange(TOKENS) >= self.chosen.top_k
        over = s / s[:, :1] if self.chosen.relative else s
        if not negative:
            return torch.where(tail, self.chosen.beta * torch.exp(-alpha * over), 1.0)
        if self.chosen.style_negative == "hard":
            return self.chosen.beta * tail.to(s)
        return self.chosen.beta * torch.exp(-self.chosen.negative_alpha * over)

    def added(self, queries, heads, unconditional, negative, alpha):
        rows = []
        for projection in self.projections:
            if unconditional and self.chosen.style_negative == "off":
                rows.append(projection(self.uncond))
            else:
                rows.append(
                    svd_scaled(projection(self.cond), lambda s: self.gains(s, negative or unconditional, alpha))
                )
        return softmax_attention(queries, *(row.expand(len(queries), -1, -1) for row in rows), heads)

    def __call__(self, q, k, v, options):
        p = 1 - float(self.sampling.timestep(options["sigmas"])[0]) / 999
        alpha = self.chosen.alpha * (1 - 1 / (1 + math.exp(-self.chosen.gamma * (p - self.chosen.center))))
        heads, chunks, results = options["n_heads"], options["cond_or_uncond"], []
        for index, queries in zip(chunks, q.chunk(len(chunks)), strict=True):
            result = self.added(queries, heads, index == 1, False, alpha)
            if self.chosen.attention_strength and index == 0:
                against = self.added(queries, heads, False, True, alpha)
                moved = result + self.chosen.attention_strength * (result - against)
                ratio = moved.abs().sum(-1, keepdim=True) / result.abs().sum(-1, keepdim=True)
                moved = moved * (self.chosen.attention_limit / ratio.clamp(min=self.chosen.attention_limit))
                result = self.chosen.attention_blend * moved + (1 - self.chosen.attention_blend) * result
            results.append(result)
        return softmax_attention(q, k, v, heads) + torch.cat(results)


def by_hand(model, cond, uncond, chosen):
    from sid_pack.nodes.host.unet_layers import cross_attention_layers

    layers = cross_attention_layers(model)
    weights = adapter_weights(layers).model
    clone = model.clone()
    for number, layer in enumerate(layers):
        projections = (weights.to_k_ip[number], weights.to_v_ip[number])
        clone.set_model_attn2_replace(ByHand(model, projections, cond, uncond, chosen), *layer.key)
    return clone


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"style_negative": "off"},
        {"style_negative": "hard", "top_k": 2},
        {"beta": 0.5, "top_k": 0},
        {"relative": True, "alpha": 2.0, "negative_alpha": 5.0},
        {"attention_strength": 2.0},
        {"attention_strength": 20.0, "style_negative": "hard", "attention_limit": 1.5, "attention_blend": 0.25},
    ],
    ids=str,
)
def test_it_equals_the_method_by_hand(model, cfg, changes):
    cond, uncond = references(1), references(1, seed=1)
    prompted = with_image_prompt(model, cond, uncond)
    expected = sampled(by_hand(model, cond, uncond, settings(**changes)), cfg=cfg)
    differ(expected, sampled(prompted, cfg=cfg))
    close(sampled(cleaned(prompted, **changes), cfg=cfg), expected, 1e-4)


@pytest.mark.parametrize("strength", [0.0, 2.0])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_batch_of_four_equals_four_batches_of_one(model, cfg, strength):
    images, others = references(4), references(4, seed=1)
    clean = cleaned(with_image_prompt(model, images, others, each_its_own=True), attention_strength=strength)
    batch = sampled(clean, cfg=cfg, batch=4)
    for picture in range(4):
        own = slice(picture, picture + 1)
        alone = cleaned(with_image_prompt(model, images[own], others[own]), attention_strength=strength)
        close(batch[own], sampled(alone, cfg=cfg, noise=noises(4)[own]), 1e-4)
    last = cleaned(with_image_prompt(model, images[:1], others[:1]), attention_strength=strength)
    differ(batch[3:], sampled(last, cfg=cfg, noise=noises(4)[3:]))


def attentions(model):
    return model.model_options["transformer_options"]["patches_replace"]["attn2"]


def call(model, chunks, rows, *, time=999.0, dtype=torch.float32, pictures=2):
    """One layer's attention for these chunks, of which each has its own queries."""
    from sid_pack.nodes.host.unet_layers import cross_attention_layers

    layer = cross_attention_layers(model)[0]
    generator = torch.manual_seed(11)
    q, k, v = (torch.randn(2 * pictures, length, layer.width, generator=generator) for length in (6, 5, 5))
    q, k, v = (torch.cat([x[pictures * row : pictures * (row + 1)] for row in rows]).to(dtype) for x in (q, k, v))
    sigma = model.get_model_object("model_sampling").sigma(torch.tensor([time]))
    options = {"cond_or_uncond": chunks, "sigmas": sigma, "n_heads": 2, "original_shape": (pictures, 4, 2, 3)}
    return attentions(model)[layer.key](q, k, v, options).split(pictures)


@pytest.mark.parametrize("changes", [{}, {"attention_strength": 2.0}, {"style_negative": "off"}], ids=str)
def test_the_halves_may_come_in_any_order_and_number(model, changes):
    clean = cleaned(with_image_prompt(model, references(1)), **changes)
    cond, uncond = call(clean, [0, 1], [0, 1])
    for chunks in ([1, 0], [1], [0], [0, 0, 1]):
        rows = [0 if index != 1 else 1 for index in chunks]
        for index, result in zip(chunks, call(clean, chunks, rows), strict=True):
            close(result, uncond if index == 1 else cond)
    differ(cond, call(clean, [1], [0])[0])


def test_strength_zero_is_bitwise_off(model):
    prompted = with_image_prompt(model, references(1))
    without, off = cleaned(prompted), cleaned(prompted, attention_strength=0.0, attention_limit=1.0)
    assert torch.equal(sampled(off, cfg=1.0), sampled(without, cfg=1.0))
    on = cleaned(prompted, attention_strength=3.0)
    differ(sampled(on, cfg=1.0), sampled(without, cfg=1.0))
    assert torch.equal(call(on, [1], [0])[0], call(without, [1], [0])[0])  # the unconditional half is not moved


def test_at_cfg_1_only_attention_takes_note_of_the_style_negative(model):
    prompted = with_image_prompt(model, references(1))
    soft, off = cleaned(prompted), cleaned(prompted, style_negative="off")
    assert torch.equal(sampled(soft, cfg=1.0), sampled(off, cfg=1.0))
    differ(sampled(soft), sampled(off))


def test_it_acts_between_start_and_end(model):
    """p is 0, 0.2 and 0.6 at these times."""
    prompted = with_image_prompt(model, references(1))
    partly = cleaned(prompted, start=0.1, end=0.3, attention_strength=1.0)
    wholly = cleaned(prompted, attention_strength=1.0)
    for time, acts in zip(TIMES, (False, True, False), strict=True):
        expected = sampled(wholly if acts else prompted, times=[time])
        assert torch.equal(sampled(partly, times=[time]), expected)
    differ(sampled(wholly), sampled(prompted))


def test_the_first_singular_values_alone_are_of_no_effect_late(model):
    """α_t goes to 0: at the end of a run, the authors' settings leave the image prompt as it is."""
    prompted = with_image_prompt(model, references(1))
    clean = cleaned(prompted, style_negative="off", alpha=0.01, gamma=20.0, center=0.3)
    differ(sampled(clean, times=[999.0]), sampled(prompted, times=[999.0]))
    close(sampled(clean, times=[5.0]), sampled(prompted, times=[5.0]), 1e-4)


@pytest.fixture
def computed(monkeypatch):
    """The shapes of what has been decomposed."""
    from sid_pack.sid_core.method.cleanstyle import Spectrum

    shapes = []
    monkeypatch.setattr(Spectrum, "of", lambda tokens, of=Spectrum.of: shapes.append(tuple(tokens.shape)) or of(tokens))
    return shapes


def test_spectra_are_computed_once(model, computed):
    clean = cleaned(with_image_prompt(model, references(3), each_its_own=True), attention_strength=1.0)
    first = sampled(clean, batch=3)
    layers = len(attentions(clean))
    assert len(computed) == 2 * layers
    assert {shape[:2] for shape in computed} == {(3, TOKENS)}
    sampled(clean, batch=2, times=[700.0])
    sampled(clean.clone(), batch=4, cfg=1.0)
    assert torch.equal(sampled(clean, batch=3), first)
    assert len(computed) == 2 * layers


def test_large_batches_are_rescaled_in_parts(model, monkeypatch):
    from sid_pack.nodes.cleanstyle import purify

    prompted = with_image_prompt(model, references(3), each_its_own=True)
    expected = sampled(cleaned(prompted), batch=3)
    monkeypatch.setattr(purify, "AT_ONCE", 1)
    close(sampled(cleaned(prompted), batch=3), expected)


def test_layers_that_are_no_longer_there_are_not_rescaled(model):
    clean = cleaned(with_image_prompt(model, references(1)))
    expected = sampled(clean)
    first, *others = attentions(clean).values()
    together = first.branches[0].references.together
    assert sum(len(members) for _, members in together.groups) == 1 + len(others)
    for attention in others:
        attention.branches[0].references.keep(torch.device("meta"))
    assert torch.equal(sampled(clean), expected)
    for attention in others:
        attention.branches = ()
    sampled(clean)
    assert sum(len(members) for _, members in together.groups) == 1


def test_clones_do_not_leak(model):
    prompted = with_image_prompt(model, references(1))
    plain = sampled(prompted)
    weak, strong = cleaned(prompted, alpha=0.01), cleaned(prompted, alpha=0.2)
    results = [sampled(clean) for clean in (weak, strong)]
    differ(*results)
    again = cleaned(weak.clone(), alpha=0.2)  # the last CleanStyle counts
    more = with_image_prompt(weak, references(1, seed=2))
    differ(sampled(more), results[0])
    for clean, expected in ((weak, results[0]), (weak.clone(), results[0]), (again, results[1]), (prompted, plain)):
        assert torch.equal(sampled(clean), expected)


def test_an_interrupted_run_leaves_nothing_behind(model):
    """The authors' code counts calls, so that a run that was cancelled shifts the next one's schedule."""
    clean = cleaned(with_image_prompt(model, references(1)))
    expected = sampled(cleaned(with_image_prompt(model, references(1))))
    calls = []

    def stop_in_the_second_step(apply_model, args):
        calls.append(args)
        if len(calls) == 2:
            raise InterruptedError
        return apply_model(args["input"], args["timestep"], **args["c"])

    interrupted = clean.clone()
    interrupted.set_model_unet_function_wrapper(stop_in_the_second_step)
    with pytest.raises(InterruptedError):
        sampled(interrupted)
    assert torch.equal(sampled(clean), expected)


def test_what_is_kept_moves_with_the_model(model, computed):
    clean = cleaned(with_image_prompt(model, references(1)))
    expected = sampled(clean)
    count = len(computed)
    clean.model_patches_to(torch.device("cpu"))
    clean.model_patches_to(torch.float16)
    assert torch.equal(sampled(clean), expected)
    assert len(computed) == count
    clean.model_patches_to(torch.device("meta"))  # stands for a GPU that the MODEL has been moved to
    branches = [
        b for a in clean.model_options["transformer_options"]["patches_replace"]["attn2"].values() for b in a.branches
    ]
    assert all(branch.references.latest == () for branch in branches)
    assert torch.equal(sampled(clean), expected)
    assert clean.model_patches_models()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precisions(model, dtype):
    clean = cleaned(with_image_prompt(model, references(1) / 4), attention_strength=1.0)
    expected = call(clean, [0, 1], [0, 1])
    for result, wanted in zip(call(clean, [0, 1], [0, 1], dtype=dtype), expected, strict=True):
        assert result.dtype == dtype
        close(result.float(), wanted, 0.03)


@pytest.mark.parametrize("sampled_first", [True, False])
def test_a_student_can_be_trained_on_what_was_sampled_with(sampled_first):
    """Nodes sample in inference mode, whose tensors autograd refuses to save."""
    from sid_pack.nodes.cleanstyle.purify import Purify, References, Together

    with torch.inference_mode():
        tokens = references(1)
    project, known, place = nn.Linear(WIDTH, 16), References(Together()), (torch.device("cpu"), torch.float32)

    def made():
        purify = Purify(settings(), lambda image: known(image, place), alpha=0.05)
        halves = [
            (purify.cond(which, project, tokens), purify.uncond(which, project, tokens, tokens)) for which in "kv"
        ]
        return [result for pair in halves for result in pair]

    if sampled_first:
        with torch.inference_mode():
            made()
            made()
    queries = torch.randn(1, 6, 16, requires_grad=True)
    for keys in made():
        (queries @ keys.mT).square().sum().backward()
    assert queries.grad.abs().max() > 0


def test_gradients_go_through(model):
    clean = cleaned(with_image_prompt(model, references(1)), attention_strength=1.0)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    options = dict(clean.model_options["transformer_options"]) | {"cond_or_uncond": [0]}
    options["sigmas"] = sigma = torch.tensor([3.0])
    (tokens, extra), *_ = conditioning(1)
    config = clean.model.model_config.unet_config
    y = torch.zeros(1, config["adm_in_channels"]) if config.get("adm_in_channels") else None
    clean.model.apply_model(x, sigma, c_crossattn=tokens, y=y, transformer_options=options).square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


def test_spectra_are_listed_as_they_are(model):
    from sid_pack.nodes.cleanstyle.model import spectra
    from sid_pack.nodes.host.unet_layers import cross_attention_layers

    images = references(2)
    clean = cleaned(with_image_prompt(with_image_prompt(model, images), images * 2))
    listed = list(spectra(clean, pictures=2))
    layers = cross_attention_layers(model)
    numbers = [(entry.layer.number, entry.layer.depth, entry.image_prompt, entry.which) for entry in listed]
    assert numbers == sorted(numbers)
    assert len(numbers) == len(set(numbers)) == len(layers) * 2 * 2
    weights = adapter_weights(layers).model
    for entry in listed:
        projection = (weights.to_k_ip if entry.which == "k" else weights.to_v_ip)[layers.index(entry.layer)]
        expected = torch.linalg.svdvals(projection(images * (1 + entry.image_prompt)).double()).float()
        torch.testing.assert_close(entry.spectrum.singular_values, expected, rtol=1e-4, atol=1e-4)
        assert entry.settings == settings()
    assert list(spectra(model)) == list(spectra(with_image_prompt(model, images))) == []


def test_blocks(model):
    from sid_pack.nodes.cleanstyle.purify import PurifiedBranch
    from sid_pack.nodes.host.unet_layers import cross_attention_layers

    prompted = with_image_prompt(model, references(1))
    layers = cross_attention_layers(model)

    def purified(*chosen):
        clean = cleaned(prompted, *chosen)
        there = attentions(clean)
        return [layer for layer in layers if isinstance(there[layer.key].branches[0], PurifiedBranch)]

    assert purified("all") == layers
    assert purified("list", f"{layers[-1].number}, input {layers[0].block[1]}") == [layers[0], layers[-1]]
    assert 0 < len(purified("style (InstantStyle)")) < len(layers)
    with pytest.raises(ValueError, match="no block of this MODEL is called 'nowhere'"):
        purified("list", "nowhere")


def test_an_image_prompt_in_other_blocks_is_told(model):
    from sid_pack.nodes.host.unet_layers import cross_attention_layers

    first, *_, last = cross_attention_layers(model)
    prompted = with_image_prompt(model, references(1))
    there = attentions(prompted)
    for key in [key for key in there if key != first.key]:
        del there[key]
    with pytest.raises(ValueError, match=f"image prompts are in {first.name}, and none"):
        cleaned(prompted, "list", last.name)


class AnotherPack:
    def __call__(self, q, k, v, extra_options):
        return q


@pytest.mark.parametrize(
    ("patch", "message"), [(None, "load a MODEL again"), (AnotherPack(), "replaced by AnotherPack")]
)
def test_without_an_image_prompt_it_says_what_to_connect(model, patch, message):
    clone = model.clone()
    if patch is not None:
        clone.set_model_attn2_replace(patch, "input", 1)
    with pytest.raises(
        ValueError, match=f"^Connect an image prompt before this node: CleanStyle IP-Adapter or .*{message}"
    ):
        cleaned(clone)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": TOKENS + 1}, "^Lower top_k to 4 or less: it is 5, and the image prompt on this MODEL has 4 tokens"),
        ({"start": 0.6, "end": 0.4}, "^Set start_percent below end_percent.*they are 0.6 and 0.4"),
        ({"start": 0.4, "end": 0.4}, "^Set start_percent below end_percent"),
        ({"style_negative": "medium"}, "^Set style_negative to off, soft or hard"),
    ],
)
def test_settings_that_cannot_be_meant(model, changes, message):
    with pytest.raises(ValueError, match=message):
        cleaned(with_image_prompt(model, references(1)), **changes)


def test_broken_tokens(model):
    broken = references(2)
    broken[1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        cleaned(with_image_prompt(model, broken))


def test_the_nodes_defaults_are_the_authors(model):
    from sid_pack.nodes.cleanstyle.model import CleanStyle
    from sid_pack.nodes.cleanstyle.purify import Settings

    inputs = {entry.id: entry.default for entry in CleanStyle.define_schema().inputs if entry.id != "model"}
    (clean,) = CleanStyle.execute(with_image_prompt(model, references(1)), **inputs).result
    found = next(iter(attentions(clean).values())).branches[0].settings
    assert found == Settings()
    authors = {"top_k": 1, "alpha": 0.01, "gamma": 20.0, "center": 0.3, "beta": 1.0, "negative_alpha": 0.2}
    assert {name: getattr(found, name) for name in authors} == authors
    assert (found.relative, found.style_negative, found.start, found.end) == (False, "soft", 0.0, 1.0)


def test_the_node_sends_the_browser_its_own_singular_values(model):
    from sid_pack.nodes.cleanstyle.model import CleanStyle, spectra

    inputs = {entry.id: entry.default for entry in CleanStyle.define_schema().inputs if entry.id != "model"}
    output = CleanStyle.execute(with_image_prompt(model, references(1)), **inputs)
    (view,) = output.ui["cleanstyle"]
    listed = list(spectra(output.result[0]))
    assert view["steps"] is None
    assert [layer["name"] for layer in view["layers"]] == [found.name for found in listed]
    for layer, found in zip(view["layers"], listed, strict=True):
        assert layer["values"] == pytest.approx(found.spectrum.singular_values[0].tolist(), rel=1e-3)


def test_of_many_layers_some_are_looked_at(model):
    from sid_pack.nodes.cleanstyle.model import spectra

    clean = cleaned(with_image_prompt(model, references(1)))
    every, some = list(spectra(clean)), list(spectra(clean, most=2))
    assert len({found.layer for found in every}) > 2 == len({found.layer for found in some})
    assert {(found.layer, found.which) for found in some} < {(found.layer, found.which) for found in every}


@pytest.mark.parametrize("kind", ["eps", "edm", "flow"])
def test_progress_undoes_the_hosts_percents(kind):
    import comfy.model_sampling

    from sid_pack.nodes.host.model import progress_by_sigma

    model = {"eps": sd15, "edm": sd15, "flow": sd3}[kind]()
    if kind == "edm":

        class Sampling(comfy.model_sampling.ModelSamplingContinuousEDM, comfy.model_sampling.EDM):
            pass

        model.add_object_patch("model_sampling", Sampling(model.model.model_config))
    sampling, progress_at = model.get_model_object("model_sampling"), progress_by_sigma(model)
    for percent in (0.0, 0.0004, 0.1234, 0.5, 0.875, 0.9985, 1.0):
        assert progress_at(float(sampling.percent_to_sigma(percent))) == pytest.approx(percent, abs=2e-4)
    assert progress_at(float("inf")) == 0.0
    assert progress_at(float(sampling.sigma_max)) == pytest.approx(0.0, abs=1e-6)
