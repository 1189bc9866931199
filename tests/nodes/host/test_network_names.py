"""ComfyUI's names for published networks of diffusers, at full size: by their shapes alone, which take no memory."""

import pytest
import torch

SD = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD3 = {"sample_size": 128, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
NETWORKS = {
    "SD15": ("UNet2DConditionModel", SD, 686),
    "SD20": ("UNet2DConditionModel", SD | {"cross_attention_dim": 1024, "use_linear_projection": True}, 686),
    "SDXL": ("UNet2DConditionModel", SDXL, 1680),
    "SD3": ("SD3Transformer2DModel", SD3 | {"pos_embed_max_size": 192, "out_channels": 16}, 491),
    "Flux": ("FluxTransformer2DModel", {"guidance_embeds": True}, 780),
}


@pytest.fixture(scope="module", params=NETWORKS)
def known(request, comfyui):
    """The class that ComfyUI is to find, the shapes of diffusers' weights, and what is found."""
    import diffusers

    from sid_pack.nodes.host.network_names import of_weights
    from sid_pack.sid_core.convert.architecture import Architecture

    kind, config, _ = NETWORKS[request.param]
    with torch.device("meta"):
        network = getattr(diffusers, kind)(**config)
    shapes = {name: list(weight.shape) for name, weight in network.state_dict().items()}
    return request.param, shapes, Architecture.of(of_weights(shapes))


def test_each_weight_of_diffusers_has_its_place_and_each_of_comfyui_is_filled(known):
    from sid_pack.sid_core.convert.architecture import turned_round

    kind, shapes, found = known
    assert found.kind == kind and found.flow == (kind in ("SD3", "Flux"))
    assert len(found.shapes) == NETWORKS[kind][2]
    assert shapes.keys() <= found.diffusers.keys()
    for name, shape in shapes.items():
        assert sum(stop - start for _, start, stop in found.diffusers[name]) == shape[0]
    for weight, pieces in turned_round(found.diffusers, shapes).items():
        assert sum(stop - start for _, start, stop in pieces) == found.shapes[weight][0]
    assert turned_round(found.diffusers, shapes).keys() == found.shapes.keys()


def test_on_the_way_out_they_are_diffusers_own_names_and_no_others(known):
    _, shapes, found = known
    assert found.diffusers_names().keys() == shapes.keys()


def test_its_own_names_are_known_as_well(known):
    from sid_pack.nodes.host.network_names import of_weights

    kind, _, found = known
    again = of_weights({name: list(shape) for name, shape in found.shapes.items()})
    assert again["kind"] == kind and {n: tuple(s) for n, s in again["shapes"].items()} == dict(found.shapes)


def test_what_no_class_of_comfyui_is_of_is_none(comfyui):
    from sid_pack.nodes.host.network_names import of_weights

    assert of_weights({"transformer_blocks.0.attn1.to_q.weight": [8, 8], "x": [1]}) is None
