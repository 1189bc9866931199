"""Our image prompt against IPAdapter_plus's own program, where IPADAPTER_PLUS names a checkout of its public source."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch
from adapter_files import adapter_tensors, clip_vision, write_adapter
from tiny_models import sd15, sdxl

pytestmark = [
    pytest.mark.usefixtures("comfyui"),
    pytest.mark.skipif("not os.environ.get('IPADAPTER_PLUS')", reason="IPADAPTER_PLUS names no checkout of its source"),
]
# All blocks of the real models, a tenth as wide: IPAdapter_plus knows them by number.
SD15 = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1] * 6 + [0, 0],
    "transformer_depth_output": [1] * 9 + [0] * 3,
}
SDXL = {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,  # by which it knows SDXL
}
# Its patch for the middle block is under the number 1, where ComfyUI looks under 0: it never acts.
WITHOUT_MIDDLE = {"blocks": "list", "block_list": "input, output"}


@pytest.fixture(scope="module")
def plus(comfyui):
    path = Path(os.environ["IPADAPTER_PLUS"])
    spec = importlib.util.spec_from_file_location(
        "ip_adapter_parity_source", path / "__init__.py", submodule_search_locations=[str(path)]
    )
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return importlib.import_module("ip_adapter_parity_source.IPAdapterPlus")


@pytest.fixture(scope="module", params=["SD1.5", "SDXL"])
def model(request, comfyui):
    return sd15(**SD15) if request.param == "SD1.5" else sdxl(**SDXL)


def sampled(model, pictures=2):
    import comfy.samplers

    width = model.model.diffusion_model.input_blocks[4][1].transformer_blocks[0].attn2.to_k.in_features
    generator = torch.Generator().manual_seed(1)
    prompts = [[[torch.randn(1, 5, width, generator=generator), {"pooled_output": torch.zeros(1, 8)}]] for _ in "pn"]
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(*prompts)
    guider.set_cfg(3.0)
    noise = torch.randn(pictures, 4, 8, 8, generator=generator)
    with torch.inference_mode():
        sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([8.0, 2.0, 0.0])
        return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True).clone()


class Pair:
    """One file, its images and a negative image, for either program."""

    def __init__(self, folder, plus, model, layout, pictures=1, **sizes):
        from sid_pack.nodes.host.unet_layers import cross_attention_layers

        layers = cross_attention_layers(model)
        parts = adapter_tensors(layout, [layer.width for layer in layers], layers[0].context, **sizes)
        folder.mkdir(exist_ok=True)
        self.path, self.plus, self.vision = folder / "adapter.bin", plus, clip_vision(folder, size=224)
        write_adapter(self.path, layout, parts)
        generator = torch.Generator().manual_seed(4)
        self.images, self.negative = torch.rand(pictures + 1, 40, 40, 3, generator=generator).split([pictures, 1])

    def theirs(self, model, **settings):
        with torch.inference_mode():
            file = torch.load(self.path, weights_only=True)
            settings |= {"image": self.images, "image_negative": self.negative}
            return self.plus.ipadapter_execute(model.clone(), file, self.vision, **settings)[0]

    def ours(self, model, **settings):
        from sid_pack.nodes.image_prompts.ip_adapter import CleanStyleIPAdapter
        from sid_pack.nodes.image_prompts.ip_adapter_files import load_adapter

        settings = {"weight": 1.0, "combine": "average", "start_percent": 0.0, "end_percent": 1.0} | settings
        settings = WITHOUT_MIDDLE | {"clip_vision": self.vision, "negative_image": self.negative} | settings
        with torch.inference_mode():
            return CleanStyleIPAdapter.execute(model, load_adapter(self.path), self.images, **settings).args[0]


def assert_same(ours, theirs, plain):
    effect = (theirs - plain).abs().mean()
    assert effect > 1e-3
    assert (ours - theirs).abs().max() < 1e-2 * effect


TIMES = {"start_at": 0.4, "end_at": 0.9}, {"start_percent": 0.4, "end_percent": 0.9}


@pytest.mark.parametrize(
    ("theirs", "ours", "pictures"),
    [
        ({"weight": 0.7}, {"weight": 0.7}, 1),
        ({"weight": 5.0} | TIMES[0], {"weight": 5.0} | TIMES[1], 1),
        ({"combine_embeds": "concat"}, {"combine": "concat"}, 3),
        ({"combine_embeds": "average"}, {}, 3),
        ({"unfold_batch": True}, {"combine": "one image for each picture"}, 2),
    ],
)
def test_the_same_pictures(tmp_path, plus, model, theirs, ours, pictures):
    pair = Pair(tmp_path, plus, model, "base", pictures, tokens=4)
    assert_same(sampled(pair.ours(model, **ours)), sampled(pair.theirs(model, **theirs)), sampled(model))


@pytest.mark.parametrize("layout", ["plus", "full-face"])
def test_other_adapters_of_sd15(tmp_path, plus, comfyui, layout):
    """With the depth, heads and tokens that it takes all of them to have."""
    model = sd15(**SD15)
    sizes = {"tokens": 16, "heads": 12, "depth": 4} if layout == "plus" else {}
    pair = Pair(tmp_path, plus, model, layout, **sizes)
    assert_same(sampled(pair.ours(model)), sampled(pair.theirs(model)), sampled(model))


def test_the_style_block_of_sdxl(tmp_path, plus, comfyui):
    model = sdxl(**SDXL)
    pair = Pair(tmp_path, plus, model, "base", tokens=4)
    ours, theirs = pair.ours(model, blocks="style (InstantStyle)"), pair.theirs(model, weight_type="style transfer")
    assert_same(sampled(ours), sampled(theirs), sampled(model))


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_one_on_the_other(tmp_path, plus, model, first):
    """They add up, and the MODEL below stays as it was."""
    one, two = (Pair(tmp_path / name, plus, model, "base", tokens=4, seed=ord(name)) for name in "ab")
    expected = sampled(two.ours(one.ours(model), weight=0.4))
    below = getattr(one, first)(model)
    before = sampled(below)
    above = two.theirs(below, weight=0.4) if first == "ours" else two.ours(below, weight=0.4)
    assert_same(sampled(above), expected, before)
    torch.testing.assert_close(sampled(below), before, rtol=0, atol=0)


def test_its_middle_block_never_acts(tmp_path, plus, model):
    theirs = Pair(tmp_path, plus, model, "base", tokens=4).theirs(model)
    replaced = theirs.model_options["transformer_options"]["patches_replace"]["attn2"]
    for key in [key for key in replaced if key[0] == "middle"]:
        replaced[key] = lambda *args: pytest.fail("it acts")
    sampled(theirs)
