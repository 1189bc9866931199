"""CleanStyle on every family's true class: what docs/families.md has a tick for works, and the rest is refused by name.

How its numbers come about is held against the method by hand in test_model.py and test_joined_tokens.py.
"""

import pytest
import torch
from tiny_families import FAMILIES
from torch import Tensor, nn

# Nothing of the picture is left, at all times: e^(-α σ) of every singular value.
ALL_OF_IT = {"alpha": 1e6, "gamma": 0.0, "top_k": 0, "style_negative": "off"}
PICTURE, WIDTH = 4, 24  # tokens of a picture, and numbers of each


def with_ip_adapter(model, tokens: Tensor):
    """An image prompt in every cross-attention, as CleanStyle IP-Adapter puts it there."""
    import comfy.model_patcher
    import comfy.ops

    from sid_pack.nodes.host.unet_layers import cross_attention_layers
    from sid_pack.nodes.image_prompts.attention import put_attention, with_branch
    from sid_pack.nodes.image_prompts.ip_adapter_branch import AdapterBranch, ImageTokens

    layers, network = cross_attention_layers(model), nn.Module()
    network.to_k_ip, network.to_v_ip = nn.ModuleList(), nn.ModuleList()
    for number, layer in enumerate(layers):
        for projections, seed in ((network.to_k_ip, number), (network.to_v_ip, number + 100)):
            projection = comfy.ops.manual_cast.Linear(WIDTH, layer.width, bias=False, dtype=torch.float32)
            projection.weight.data = torch.randn(layer.width, WIDTH, generator=torch.manual_seed(seed))
            projections.append(projection)
    cpu = torch.device("cpu")
    weights = comfy.model_patcher.ModelPatcher(network, load_device=cpu, offload_device=cpu)
    image = ImageTokens(tokens[..., :WIDTH], torch.zeros_like(tokens[..., :WIDTH]), False)
    branches = {layer.key: with_branch(None, AdapterBranch(weights, i, image)) for i, layer in enumerate(layers)}
    clone = model.clone()
    put_attention(clone, branches)
    return clone


def with_uso(model, tokens: Tensor):
    """A style reference by ComfyUI's own node."""
    import comfy.model_patcher
    from comfy_extras.nodes_model_patch import USOStyleReference

    class Projector(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)

        def forward(self, encoded):
            return tokens + self.weight

    class Encoded:
        all_hidden_states = torch.ones(1, 24, 4, 4)
        penultimate_hidden_states = torch.ones(1, 4, 4)

    device = model.load_device
    projector = comfy.model_patcher.ModelPatcher(Projector(), load_device=device, offload_device=device)
    return USOStyleReference().apply_patch(model, projector, Encoded())[0]


CLEANED = {"SD1.5": with_ip_adapter, "SDXL": with_ip_adapter, "FLUX.1": with_uso, "FLUX.1 schnell": with_uso}


def clean(model, **settings):
    from sid_pack.nodes.cleanstyle.model import clean
    from sid_pack.nodes.cleanstyle.purify import Settings

    return clean(model, Settings(**settings))


def drawn(model, tiny) -> Tensor:
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(tiny.conditioning(0), tiny.conditioning(1))
    guider.set_cfg(1.0)
    noise = torch.randn(1, *tiny.latent, generator=torch.Generator().manual_seed(2))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 2)
    return guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas, seed=0)


def test_ticks_are_what_is_tried_here(comfyui):
    from sid_pack.nodes.host.families import CLEANSTYLE
    from sid_pack.nodes.host.families import FAMILIES as REGISTRY

    assert {family.name for family in REGISTRY if CLEANSTYLE not in family.cannot} == CLEANED.keys()


@pytest.mark.parametrize("name", CLEANED)
def test_what_is_taken_out_is_as_tokens_of_zero(comfyui, name):
    """With every singular value put to zero, the picture is as one of zeros; and with a little less it is neither."""
    tiny, put = FAMILIES[name], CLEANED[name]
    with torch.inference_mode():
        model = tiny.model()
        tokens = torch.randn(1, PICTURE, 32, generator=torch.Generator().manual_seed(3))
        prompted = put(model, tokens)
        nothing, before = drawn(put(model, torch.zeros_like(tokens)), tiny), drawn(prompted, tiny)
        after, some = drawn(clean(prompted, **ALL_OF_IT), tiny), drawn(clean(prompted, alpha=0.2), tiny)
    size = float(before.abs().max())
    torch.testing.assert_close(after, nothing, rtol=1e-4, atol=1e-4 * size)
    for one, other in ((before, nothing), (some, before), (some, nothing)):
        assert float((one - other).abs().max()) > 1e-3 * size


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - CLEANED.keys()))
def test_what_no_image_prompt_fits_is_refused_by_name(comfyui, name):
    tiny = FAMILIES[name]
    if not tiny.known():
        pytest.skip(f"this ComfyUI has no {tiny.kind}")
    with torch.inference_mode():
        model = tiny.model()
    with pytest.raises(ValueError, match=rf"^Choose a model of another family: {name} can't be used so \(CleanStyle\)"):
        clean(model)


@pytest.mark.parametrize("name", CLEANED)
def test_where_there_is_no_image_prompt_yet_the_one_that_fits_is_named(comfyui, name):
    with torch.inference_mode():
        model = FAMILIES[name].model()
    node = "CleanStyle IP-Adapter" if CLEANED[name] is with_ip_adapter else f"on {name}, use USOStyleReference"
    with pytest.raises(ValueError, match=f"^Connect an image prompt before this node: .*{node}"):
        clean(model)
