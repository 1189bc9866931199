from functools import partial

import pytest
import torch
from adapter_files import LAYOUTS, Draw, adapter_tensors, clip_vision, style_encoder_tensors, write_adapter
from decoupled_attention import TOKENS, attention, style_embeddings
from tiny_models import conditioning, sd15, sdxl

pytestmark = pytest.mark.usefixtures("comfyui")
DEEP = {"transformer_depth": [1, 2], "transformer_depth_output": [1, 1, 2, 2], "transformer_depth_middle": 2}
ORDER = ("input_blocks", "output_blocks", "middle_block")  # of diffusers, which files follow
PICTURES = 3
DEFAULTS = {"weight": 1.0, "blocks": "all", "combine": "average", "start_percent": 0.0, "end_percent": 1.0}


@pytest.fixture(params=["sd15", "sdxl"])
def model(request):
    """SDXL with two layers in its lower blocks, as the real one has more than one."""
    return sd15() if request.param == "sd15" else sdxl(**DEEP)


@pytest.fixture
def vision(tmp_path):
    return clip_vision(tmp_path)


def attentions_of(model) -> list:
    """The cross-attention modules in the order of files, by their names alone."""
    return [model.model.diffusion_model.get_submodule(name) for name in names_of(model)]


def names_of(model) -> list[str]:
    names = [name for name, _ in model.model.diffusion_model.named_modules() if name.endswith(".attn2")]
    return sorted(names, key=lambda name: ORDER.index(name.partition(".")[0]))


def images(count: int, seed: int = 1, side: int = 40) -> torch.Tensor:
    return torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(seed))


class File:
    """A random file of one layout that fits a model, loaded by the node, and what its tensors say by hand."""

    def __init__(self, folder, model, layout, suffix=".safetensors", seed=0, **sizes):
        from sid_pack.nodes.image_prompts.ip_adapter_files import load_adapter

        modules = attentions_of(model)
        widths = [module.to_q.weight.shape[0] for module in modules]
        self.layout = layout
        self.parts = adapter_tensors(layout, widths, modules[0].to_k.weight.shape[1], seed, **sizes)
        path, encoder = folder / f"{layout}-{seed}{suffix}", None
        self.encoder = style_encoder_tensors()
        if layout == "styleshot":
            path, encoder = folder / "ip.bin", folder / "style_aware_encoder.bin"
            torch.save(self.encoder, encoder)
        write_adapter(path, layout, self.parts)
        with torch.inference_mode():  # as nodes run
            self.adapter = load_adapter(path, encoder)

    def embeds(self, vision, picture):
        """What the projection takes of one IMAGE (1, H, W, 3)."""
        if self.layout == "styleshot":
            from torch.nn.functional import interpolate

            fitted = interpolate(picture.movedim(-1, 1), (512, 512), mode="bilinear", antialias=True)[0]
            return style_embeddings(self.encoder, fitted * 2 - 1)
        seen = vision.encode_image(picture)
        return seen.image_embeds[0] if self.layout == "base" else seen.penultimate_hidden_states[0]

    def nothing(self, vision):
        """What it was trained with for no image, by the authors' programs: zero embeds, or a zero picture's."""
        if self.layout == "styleshot":
            return torch.zeros(3, 20)
        if self.layout == "base":
            return torch.zeros(24)
        return vision.model(pixel_values=torch.zeros(1, 3, 28, 28), intermediate_output=-2)[1][0]

    def tokens(self, embeds):
        return TOKENS[self.layout](self.parts["image_proj"], embeds)

    def node(self, model, vision, picture, **inputs):
        from sid_pack.nodes.image_prompts.ip_adapter import CleanStyleIPAdapter

        with torch.inference_mode():
            encoder = {} if self.layout == "styleshot" else {"clip_vision": vision}
            inputs = DEFAULTS | encoder | inputs
            return CleanStyleIPAdapter.execute(model=model, ip_adapter=self.adapter, image=picture, **inputs).args[0]


def sampled(model, *, cfg=3.0, pictures=PICTURES, steps=(8.0, 3.0, 0.0), size=(8, 8)):
    """Latents of Euler's method from fixed noise, with two different prompts."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning(1), conditioning(2))
    guider.set_cfg(cfg)
    noise = torch.randn(pictures, 4, *size, generator=torch.Generator().manual_seed(0))
    sampler = comfy.samplers.sampler_object("euler")
    with torch.inference_mode():
        return guider.sample(noise, torch.zeros_like(noise), sampler, torch.tensor(steps), disable_pbar=True).clone()


class DecoupledByHand:
    """A clone of `model` whose attn2 modules are hooked to add a file's attention, computed from its tensors.

    cond, uncond: of picture i, the tokens (N, C). active: of a layer's number and sigma. mask: of a picture and the
    number of its places in the layer, how much it acts at each.
    """

    def __init__(self, model, file, cond, uncond, *, weight=1.0, active=lambda number, sigma: True, mask=None):
        self.model, self.file, self.cond, self.uncond = model, file, cond, uncond
        self.weight, self.active, self.mask = weight, active, mask
        self.queries, self.chunks, self.sigma = {}, [], 0.0

    def __enter__(self):
        clone = self.model.clone()

        def plain(apply, args):
            return apply(args["input"], args["timestep"], **args["c"])

        below = clone.model_options.get("model_function_wrapper", plain)

        def watched(apply, args):
            self.chunks, self.sigma = args["cond_or_uncond"], float(args["timestep"][0])
            return below(apply, args)

        clone.set_model_unet_function_wrapper(watched)
        self.handles = []
        for number, module in enumerate(attentions_of(self.model)):
            keep, add = partial(self._keep, number), partial(self._add, number, module.heads)
            self.handles += [module.to_q.register_forward_hook(keep), module.to_out.register_forward_pre_hook(add)]
        return clone

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()

    def _keep(self, number, module, inputs, output):
        self.queries[number] = output

    def _add(self, number, heads, module, inputs):
        q, (out,) = self.queries[number], inputs
        if not self.active(number, self.sigma):
            return None
        keys, values = (self.file.parts["ip_adapter"][f"{2 * number + 1}.to_{x}_ip.weight"] for x in "kv")
        batch, rows = len(q) // len(self.chunks), []
        for row in range(len(q)):
            tokens = (self.uncond if self.chunks[row // batch] == 1 else self.cond)(row % batch)
            added = self.weight * attention(q[row], tokens @ keys.T, tokens @ values.T, heads)
            if self.mask is not None:
                added = added * self.mask(row % batch, len(added)).unsqueeze(-1)
            rows.append(out[row] + added)
        return torch.stack(rows)


def assert_same(ours, theirs, plain):
    """Within a hundredth of what the image does to a picture, in its worst place."""
    effect = (theirs - plain).abs().mean()
    assert effect > 1e-3
    assert (ours - theirs).abs().max() < 1e-2 * effect


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_decoupled_attention_of_every_layout(tmp_path, model, vision, layout, suffix):
    file = File(tmp_path, model, layout, suffix)
    picture = images(1)
    cond, uncond = file.tokens(file.embeds(vision, picture)), file.tokens(file.nothing(vision))
    with DecoupledByHand(model, file, lambda i: cond, lambda i: uncond, weight=0.7) as by_hand:
        expected = sampled(by_hand)
    assert_same(sampled(file.node(model, vision, picture, weight=0.7)), expected, sampled(model))


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("separately", [False, True])
def test_guidance_in_one_batch_in_two_or_none(tmp_path, monkeypatch, vision, cfg, separately):
    model = sd15()
    if separately:
        monkeypatch.setattr(type(model.model), "memory_required", lambda *args, **kwargs: 1e30)
    file = File(tmp_path, model, "plus")
    picture, negative = images(1), images(1, seed=9)
    cond, uncond = (file.tokens(file.embeds(vision, x)) for x in (picture, negative))
    with DecoupledByHand(model, file, lambda i: cond, lambda i: uncond) as by_hand:
        expected = sampled(by_hand, cfg=cfg)
    patched = file.node(model, vision, picture, negative_image=negative)
    assert_same(sampled(patched, cfg=cfg), expected, sampled(model, cfg=cfg))


@pytest.mark.parametrize("pictures", [1, 2, 5])
@pytest.mark.parametrize("combine", ["average", "concat", "one image for each picture"])
def test_several_images(tmp_path, vision, combine, pictures):
    model = sd15()
    file = File(tmp_path, model, "plus")
    three, negatives = images(3), images(3, seed=9)
    embeds, against = ([file.embeds(vision, x[i : i + 1]) for i in range(3)] for x in (three, negatives))

    def combined(rows):
        if combine == "average":
            return lambda picture: file.tokens(sum(rows) / 3)
        if combine == "concat":
            return lambda picture: torch.cat([file.tokens(row) for row in rows])
        return lambda picture: file.tokens(rows[min(picture, 2)])

    with DecoupledByHand(model, file, combined(embeds), combined(against)) as by_hand:
        expected = sampled(by_hand, pictures=pictures)
    patched = file.node(model, vision, three, combine=combine, negative_image=negatives)
    assert_same(sampled(patched, pictures=pictures), expected, sampled(model, pictures=pictures))


def test_one_negative_image_serves_all(tmp_path, vision):
    model = sd15()
    file = File(tmp_path, model, "base")
    two, negative = images(2), images(1, seed=9)
    cond = [file.tokens(file.embeds(vision, two[i : i + 1])) for i in range(2)]
    uncond = file.tokens(file.embeds(vision, negative))
    with DecoupledByHand(model, file, lambda i: torch.cat(cond), lambda i: uncond) as by_hand:
        expected = sampled(by_hand)
    assert_same(
        sampled(file.node(model, vision, two, combine="concat", negative_image=negative)), expected, sampled(model)
    )
    with pytest.raises(ValueError, match="^Connect one negative_image.*3 negative images for 2 images"):
        file.node(model, vision, two, combine="concat", negative_image=images(3))


def test_a_batch_is_as_its_pictures_one_by_one(tmp_path, vision):
    model = sd15()
    file = File(tmp_path, model, "plus")
    four = images(4)
    together = sampled(file.node(model, vision, four, combine="one image for each picture"), pictures=4)
    plain = sampled(model, pictures=4)
    for i in range(4):
        alone = sampled(file.node(model, vision, four[i : i + 1]), pictures=4)
        assert_same(alone[i], together[i], plain[i])


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (16, 6)])
def test_a_mask_says_where(tmp_path, vision, size):
    """Also of sizes that the levels of the UNet round up."""
    from torch.nn.functional import interpolate

    model = sd15()
    file = File(tmp_path, model, "base")
    picture, masks = images(1), torch.zeros(2, 64, 64)
    masks[0, :, :20], masks[1, 30:] = 1.0, 0.6
    cond, uncond = file.tokens(file.embeds(vision, picture)), file.tokens(file.nothing(vision))
    grids = {}
    for height, width in (size, tuple((side + 1) // 2 for side in size)):
        grids[height * width] = interpolate(masks[:, None], (height, width), mode="bilinear", antialias=True).flatten(1)
    shown = {"mask": lambda i, count: grids[count][min(i, 1)]}
    with DecoupledByHand(model, file, lambda i: cond, lambda i: uncond, **shown) as by_hand:
        expected = sampled(by_hand, size=size)
    patched = file.node(model, vision, picture, mask=masks)
    assert_same(sampled(patched, size=size), expected, sampled(model, size=size))


def test_blocks_and_times(tmp_path, model, vision):
    """Names of modules for the blocks; sigmas of the tenth and fifth part of the sampling for the times."""
    file = File(tmp_path, model, "base")
    picture = images(1)
    cond, uncond = file.tokens(file.embeds(vision, picture)), file.tokens(file.nothing(vision))
    names = names_of(model)
    sampling = model.get_model_object("model_sampling")
    low, high = float(sampling.sigma(torch.tensor(500.0))), float(sampling.sigma(torch.tensor(800.0)))
    steps = (12.0, 6.0, 4.0, 2.0, 1.0, 0.5, 0.0)
    assert len([sigma for sigma in steps if low <= sigma <= high]) in range(1, 5)

    def active(number, sigma):
        return names[number].startswith(("output_blocks.1.", "middle_block.")) and low <= sigma <= high

    with DecoupledByHand(model, file, lambda i: cond, lambda i: uncond, active=active) as by_hand:
        expected = sampled(by_hand, steps=steps)
    settings = {"blocks": "list", "block_list": "up_blocks.0.attentions.1, middle"}
    times = {"start_percent": 1 - 800 / 999, "end_percent": 1 - 500 / 999}
    patched = file.node(model, vision, picture, **settings, **times)
    assert_same(sampled(patched, steps=steps), expected, sampled(model, steps=steps))


def test_the_style_block_is_one_block(tmp_path, vision):
    from sid_pack.nodes.image_prompts.attention import image_prompts

    model = sdxl(**DEEP)
    patched = File(tmp_path, model, "base").node(model, vision, images(1), blocks="style (InstantStyle)")
    assert set(image_prompts(patched)) == {("output", 1, 0), ("output", 1, 1)}


@pytest.mark.parametrize("upright", [False, True])
def test_styleshot_sees_the_middle_square(comfyui, upright):
    from sid_pack.nodes.image_prompts.styleshot import prepared

    bands = torch.zeros(1, 300, 600, 3)
    for band, columns in enumerate((slice(0, 140), slice(140, 460), slice(460, 600))):
        bands[:, :, columns, band] = 0.8
    seen = prepared(bands.transpose(1, 2) if upright else bands)
    assert seen.shape == (1, 3, 512, 512)
    torch.testing.assert_close(seen, torch.tensor([-1.0, 0.6, -1.0]).view(1, 3, 1, 1).expand_as(seen))


def test_two_adapters_add_up_and_do_not_touch_the_model_below(tmp_path, model, vision):
    first, second = File(tmp_path, model, "base"), File(tmp_path, model, "plus", seed=3)
    picture, other = images(1), images(1, seed=4)
    tokens = [
        (file.tokens(file.embeds(vision, x)), file.tokens(file.nothing(vision)))
        for file, x in ((first, picture), (second, other))
    ]
    (cond1, uncond1), (cond2, uncond2) = tokens
    plain = sampled(model)
    with DecoupledByHand(model, first, lambda i: cond1, lambda i: uncond1, weight=0.5) as once:
        expected_one = sampled(once)
        with DecoupledByHand(once, second, lambda i: cond2, lambda i: uncond2, weight=0.8) as twice:
            expected_two = sampled(twice)
    one = first.node(model, vision, picture, weight=0.5)
    two = second.node(one, vision, other, weight=0.8)
    assert_same(sampled(two), expected_two, plain)
    assert_same(sampled(one), expected_one, plain)
    torch.testing.assert_close(sampled(model), plain, rtol=0, atol=0)


@pytest.mark.parametrize("key", [("output", 1), ("output", 1, 0)])
def test_another_packs_replacement_stays_below(tmp_path, vision, key):
    """Also one that is for a whole block while ours are for layers, and one for a layer where ours are for blocks."""
    base = (sdxl(**DEEP) if len(key) == 2 else sd15()).clone()
    file = File(tmp_path, base, "base")
    base.set_model_attn2_replace(lambda q, k, v, options: 3 * q, *key)
    cond, uncond = file.tokens(file.embeds(vision, images(1))), file.tokens(file.nothing(vision))
    with DecoupledByHand(base, file, lambda i: cond, lambda i: uncond) as by_hand:
        expected = sampled(by_hand)
    assert_same(sampled(file.node(base, vision, images(1))), expected, sampled(base))


def test_weight_zero_is_off(tmp_path, vision):
    model = sd15()
    patched = File(tmp_path, model, "base").node(model, vision, images(1), weight=0.0)
    torch.testing.assert_close(sampled(patched), sampled(model), rtol=0, atol=0)


def test_chunks_in_either_order(tmp_path, vision):
    from sid_pack.nodes.image_prompts.attention import image_prompts

    model = sd15()
    patched = File(tmp_path, model, "base").node(model, vision, images(1))
    ((branch,),) = (branches for key, (_, branches) in image_prompts(patched).items() if key == ("input", 1))
    q = Draw(3)(4, 6, 32)
    options = {"n_heads": 2, "attn_precision": None}

    def run(q, chunks):
        return branch(q, q, None, None, options | {"cond_or_uncond": chunks})

    both = run(q, [0, 1])
    turned = run(torch.cat([q[2:], q[:2]]), [1, 0])
    torch.testing.assert_close(turned, torch.cat([both[2:], both[:2]]))
    torch.testing.assert_close(torch.cat([run(q[:2], [0]), run(q[2:], [1])]), both)
    assert (run(q, [0, 0]) - both)[2:].abs().mean() > 0.01


def test_a_window_of_a_longer_batch_has_its_own_images(tmp_path, vision):
    """AnimateDiff's packs say in ad_params which pictures of the whole batch they sample."""
    from sid_pack.nodes.image_prompts.attention import image_prompts

    model = sd15()
    masks = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(2))
    settings = {"combine": "one image for each picture", "mask": masks}
    patched = File(tmp_path, model, "base").node(model, vision, images(4), **settings)
    ((branch,),) = (branches for key, (_, branches) in image_prompts(patched).items() if key == ("input", 1))
    q = Draw(3)(1, 64, 32).expand(8, -1, -1)
    options = {"n_heads": 2, "attn_precision": None, "cond_or_uncond": [0, 1], "activations_shape": [8, 32, 8, 8]}
    whole = branch(q, q, None, None, options).unflatten(0, (2, 4))
    window = branch(q[:6], q[:6], None, None, options | {"ad_params": {"sub_idxs": [1, 3, 2], "full_length": 4}})
    torch.testing.assert_close(window.unflatten(0, (2, 3)), whole[:, [1, 3, 2]])


def test_keys_and_values_are_projected_once(tmp_path, vision):
    model = sd15()
    file = File(tmp_path, model, "base")
    patched = file.node(model, vision, images(1))
    calls = []
    layers = [*file.adapter.network.to_k_ip, *file.adapter.network.to_v_ip]
    handles = [layer.register_forward_hook(lambda *args: calls.append(1)) for layer in layers]
    first = sampled(patched)
    assert len(calls) == 2 * len(layers)  # of the two halves
    torch.testing.assert_close(sampled(patched.clone()), first, rtol=0, atol=0)
    assert len(calls) == 2 * len(layers)
    patched.model_patches_to(torch.device("meta"))  # moved away: what was kept is let go
    torch.testing.assert_close(sampled(patched), first, rtol=0, atol=0)
    assert len(calls) == 4 * len(layers)
    for handle in handles:
        handle.remove()


def test_it_works_in_other_precisions(tmp_path, vision):
    """A float16 file on a float32 model, and a bfloat16 model: queries say in which precision keys are made."""
    model = sd15()
    file = File(tmp_path, model, "plus")
    half = File(tmp_path, model, "plus", seed=1)
    half.adapter.weights.model.half()
    for parts in half.parts.values():
        parts |= {name: tensor.half().float() for name, tensor in parts.items()}
    cond, uncond = half.tokens(half.embeds(vision, images(1))), half.tokens(half.nothing(vision))
    with DecoupledByHand(model, half, lambda i: cond, lambda i: uncond) as by_hand:
        expected = sampled(by_hand)
    assert_same(sampled(half.node(model, vision, images(1))), expected, sampled(model))
    from sid_pack.nodes.image_prompts.attention import image_prompts

    patched = file.node(model, vision, images(1))
    attention_of = patched.model_options["transformer_options"]["patches_replace"]["attn2"][("input", 1)]
    (branch,) = image_prompts(patched)[("input", 1)][1]
    q, text = Draw(3)(2, 6, 32), Draw(4)(2, 5, 32)
    options = {"n_heads": 2, "attn_precision": None, "cond_or_uncond": [0, 1], "sigmas": torch.ones(1)}
    exact = attention_of(q, text, text, options)
    low = attention_of(q.bfloat16(), text.bfloat16(), text.bfloat16(), options)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), exact, rtol=0, atol=0.05)
    torch.testing.assert_close(attention_of(q, text, text, options), exact, rtol=0, atol=0)


def test_gradients_pass_through_it(tmp_path, vision):
    """What is kept was made while nodes ran, in inference mode; distilling a styled model needs it in training."""
    model = sd15()
    patched = File(tmp_path, model, "base").node(model, vision, images(1))
    sampled(patched)
    attention_of = patched.model_options["transformer_options"]["patches_replace"]["attn2"][("input", 1)]
    q, text = Draw(3)(2, 6, 32).requires_grad_(True), Draw(4)(2, 5, 32)
    options = {"n_heads": 2, "attn_precision": None, "cond_or_uncond": [0, 1], "sigmas": torch.ones(1)}
    attention_of(q, text, text, options).square().sum().backward()
    slope = q.grad.flatten()[7].item()
    step = torch.zeros_like(q).flatten()
    step[7] = 1e-2
    with torch.no_grad():
        up, down = (attention_of(q + s * step.view_as(q), text, text, options).square().sum() for s in (1, -1))
    assert slope == pytest.approx((up - down).item() / 2e-2, rel=0.02)


def test_the_host_loads_the_weights_with_the_model(tmp_path, vision):
    """And in low VRAM, where it leaves them where they are and casts them when they are used."""
    import comfy.model_management

    model = sd15()
    file = File(tmp_path, model, "plus")
    patched = file.node(model, vision, images(1))
    assert set(patched.model_patches_models()) == {file.adapter.weights}
    expected = sampled(patched)
    comfy.model_management.unload_all_models()
    again = file.node(model, vision, images(1))
    weights = file.adapter.weights
    weights.partially_unload(weights.offload_device, 1e30)
    weights.load(weights.load_device, lowvram_model_memory=1)
    torch.testing.assert_close(sampled(again), expected, rtol=0, atol=0)
    loaded = [entry.model for entry in comfy.model_management.current_loaded_models]
    assert weights in loaded


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, vision):
    import comfy.model_management

    model = sd15()
    patched = File(tmp_path, model, "base").node(model, vision, images(1))
    expected = sampled(patched)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sampled(patched)
    torch.testing.assert_close(sampled(patched), expected, rtol=0, atol=0)
