import pytest
import torch

pytestmark = pytest.mark.usefixtures("comfyui")
# By diffusers' own configurations: (levels with attention, attentions on the way down and up, depth of each).
SD15 = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
}
SDXL = {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
}


@pytest.fixture(scope="module")
def of_real_shape():
    """A function: the layers of a UNet that has all blocks of SD1.5 or SDXL, with 32 channels and no values."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from tiny_models import UNET

    from sid_pack.nodes.host.unet_layers import cross_attention_layers

    class Model:
        pass

    def layers(shape):
        model = Model()
        model.model = Model()
        config = {key: value for key, value in UNET.items() if key not in ("use_checkpoint",)} | shape
        model.model.diffusion_model = UNetModel(
            **config,
            num_heads=2,
            num_head_channels=-1,
            device="meta",
            dtype=torch.float32,
            operations=comfy.ops.manual_cast,
        )
        return cross_attention_layers(model)

    return layers


def test_sd15_has_the_layers_that_files_count(of_real_shape):
    """Sixteen; the blocks are those that InstantStyle and diffusers name, and ComfyUI's documents number."""
    layers = of_real_shape(SD15)
    assert [layer.key for layer in layers] == [
        *[("input", number) for number in (1, 2, 4, 5, 7, 8)],
        *[("output", number) for number in range(3, 12)],
        ("middle", 0),
    ]
    assert [layer.name for layer in layers] == [
        *[f"down_blocks.{level}.attentions.{n}" for level in range(3) for n in range(2)],
        *[f"up_blocks.{level}.attentions.{n}" for level in range(1, 4) for n in range(3)],
        "mid_block.attentions.0",
    ]
    assert [layer.width for layer in layers] == [32, 32, 64, 64, 128, 128, *[128] * 3, *[64] * 3, *[32] * 3, 128]
    assert {layer.context for layer in layers} == {16}


def test_sdxl_has_the_layers_that_files_count(of_real_shape):
    layers = of_real_shape(SDXL)
    assert len(layers) == 70
    counted = [(layer.block, layer.name, layer.number) for layer in layers if layer.depth == 0]
    assert counted == [
        (("input", 4), "down_blocks.1.attentions.0", 0),
        (("input", 5), "down_blocks.1.attentions.1", 1),
        (("input", 7), "down_blocks.2.attentions.0", 2),
        (("input", 8), "down_blocks.2.attentions.1", 3),
        (("output", 0), "up_blocks.0.attentions.0", 5),
        (("output", 1), "up_blocks.0.attentions.1", 6),
        (("output", 2), "up_blocks.0.attentions.2", 7),
        (("output", 3), "up_blocks.1.attentions.0", 8),
        (("output", 4), "up_blocks.1.attentions.1", 9),
        (("output", 5), "up_blocks.1.attentions.2", 10),
        (("middle", 0), "mid_block.attentions.0", 4),
    ]
    assert [layer.key for layer in layers[:5]] == [
        ("input", 4, 0),
        ("input", 4, 1),
        ("input", 5, 0),
        ("input", 5, 1),
        ("input", 7, 0),
    ]


@pytest.mark.parametrize(
    ("shape", "blocks", "listed", "expected"),
    [
        (SDXL, "style (InstantStyle)", "", ["output 1"]),
        (SDXL, "style and composition", "", ["input 8", "output 1"]),
        (SD15, "style (InstantStyle)", "", ["output 3", "output 4", "output 5"]),
        (SD15, "style and composition", "", ["input 7", "input 8", "output 3", "output 4", "output 5"]),
        (SDXL, "list", "output  1, middle", ["output 1", "middle 0"]),
        (SDXL, "list", "up_blocks.0.attentions.1\n6, 3,", ["input 8", "output 1"]),
        (SDXL, "list", "down_blocks.2", ["input 7", "input 8"]),
        (SDXL, "list", "up_blocks.0.attentions", ["output 0", "output 1", "output 2"]),
        (SD15, "list", "input", [f"input {n}" for n in (1, 2, 4, 5, 7, 8)]),
        (SD15, "list", "1", ["input 2"]),
    ],
)
def test_choosing(of_real_shape, shape, blocks, listed, expected):
    from sid_pack.nodes.host.unet_layers import chosen_layers

    chosen = chosen_layers(of_real_shape(shape), blocks, listed)
    assert list(dict.fromkeys(f"{layer.block[0]} {layer.block[1]}" for layer in chosen)) == expected
    assert len(chosen) == sum(layer.depths for layer in chosen if layer.depth == 0)


@pytest.mark.parametrize("listed", ["output 99", "up_blocks.0.att", "output 1, 77", " ,\n"])
def test_a_block_that_is_not_there_is_named(of_real_shape, listed):
    from sid_pack.nodes.host.unet_layers import chosen_layers

    with pytest.raises(ValueError, match=r"output 1 = up_blocks\.0\.attentions\.1"):
        chosen_layers(of_real_shape(SDXL), "list", listed)


def test_the_names_are_those_at_run_time():
    """Each layer, replaced by its key, is called once, in the block and with the number and widths that it says."""
    import comfy.samplers
    from tiny_models import conditioning, sd15, sdxl

    from sid_pack.nodes.host.unet_layers import cross_attention_layers

    for model in (sd15(), sdxl()):
        calls = {}

        def record(layer, calls=calls):
            def replacement(q, k, v, options):
                calls[layer.key] = calls.get(layer.key, 0) + 1
                assert (options["block"], options["block_index"]) == (layer.block, layer.depth)
                assert (options["transformer_index"], q.shape[-1]) == (layer.number, layer.width)
                return q

            return replacement

        layers = cross_attention_layers(model)
        for layer in layers:
            model.set_model_attn2_replace(record(layer), *layer.key)
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(conditioning(1), conditioning(2))
        noise = torch.zeros(1, 4, 8, 8)
        sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([2.0, 0.0])
        guider.sample(noise, noise, sampler, sigmas, disable_pbar=True)
        assert calls == {layer.key: 1 for layer in layers}
        assert len(calls) == len(layers) > 5


def test_a_model_of_another_kind_has_none():
    from tiny_models import sd3

    from sid_pack.nodes.host.unet_layers import cross_attention_layers

    assert cross_attention_layers(sd3()) == []
