"""The demo's image prompt: trained as it is drawn with, in a file that the pack's own loader reads."""

import pytest
import torch


@pytest.fixture(scope="module")
def teacher(comfyui):
    from sid_pack.nodes.demo.model import load_demo

    return load_demo()[0]


def test_the_first_channels_seen_are_the_features_of_the_metric(protocol):
    from features import FEATURES, image_features
    from image_prompt import SEEN, look

    images = protocol.emoji.images[:5]
    seen = look(protocol.network, images)
    assert seen.shape == (5, 16, SEEN)
    torch.testing.assert_close(
        seen[..., :FEATURES].mean(1), image_features(protocol.network, images), rtol=1e-4, atol=1e-5
    )


def test_regions_and_spread_of_colours_are_seen_where_they_are(protocol):
    """after the features come mean and deviation of each region: none of a plain one, and nothing but its own"""
    from features import FEATURES
    from image_prompt import look

    pictures = torch.ones(2, 64, 64, 3)
    pictures[1, 48:, :16] = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(0))
    seen = look(protocol.network, pictures).unflatten(1, (4, 4))[..., FEATURES : FEATURES + 48]
    change = (seen[1] - seen[0]).abs().amax(-1)
    assert change[3, 0] == change.max()
    assert change[:2, 2:].max() < 0.05 * change.max()


def test_training_draws_with_the_very_attention_that_the_packs_nodes_apply(teacher, tmp_path):
    from comfy.ldm.modules.attention import optimized_attention
    from image_prompt import SEEN, attentions_to, image_tokens, new_adapter, prompted
    from safetensors.torch import save_file
    from train_image_prompt import weights_of

    from sid_pack.nodes.image_prompts.ip_adapter import matching_layers
    from sid_pack.nodes.image_prompts.ip_adapter_files import load_adapter

    torch.manual_seed(0)
    network = new_adapter(teacher)
    for layer in [*network.to_k_ip, *network.to_v_ip]:
        torch.nn.init.normal_(layer.weight, std=0.1)  # they begin as copies of the text's, so that order would not show
    mean, scale = torch.randn(SEEN), torch.rand(SEEN) + 0.5
    save_file(weights_of(network, mean, scale), tmp_path / "adapter.safetensors")
    adapter = load_adapter(tmp_path / "adapter.safetensors")
    seen = torch.randn(2, 16, SEEN) * scale + mean
    with torch.no_grad():
        tokens = network.projection((seen - mean) / scale)
    drawn_tokens = image_tokens(adapter, seen)
    torch.testing.assert_close(drawn_tokens.cond, tokens, rtol=0, atol=0.02)

    layers = matching_layers(teacher, adapter)
    model = prompted(teacher, adapter, drawn_tokens, 1.0)
    x, t, context = torch.randn(2, 16, 8, 8), torch.tensor([100.0, 700.0]), torch.randn(2, 12, 128)
    unet = teacher.model.diffusion_model
    options = model.model_options["transformer_options"] | {"cond_or_uncond": [0], "sigmas": torch.tensor([1.0])}
    trained_with = {"patches_replace": {"attn2": attentions_to(network, layers, tokens, optimized_attention)}}
    with torch.no_grad():
        drawn = unet(x, t, context=context, transformer_options=options)
        trained = unet(x, t, context=context, transformer_options=trained_with)
        without = unet(x, t, context=context, transformer_options={})
    assert (drawn - without).abs().max() > 0.1
    torch.testing.assert_close(drawn, trained, rtol=0, atol=0.02)


def test_new_layers_begin_as_the_texts_own_in_the_files_order(teacher):
    from image_prompt import new_adapter

    network = new_adapter(teacher)
    unet = teacher.model.diffusion_model
    blocks = [unet.input_blocks[3], unet.output_blocks[0], unet.output_blocks[2], unet.middle_block]
    for number, block in enumerate(blocks):
        text = block[1].transformer_blocks[0].attn2
        assert torch.equal(network.to_k_ip[number].weight, text.to_k.weight)
        assert torch.equal(network.to_v_ip[number].weight, text.to_v.weight)


def test_pictures_move_by_a_few_pixels_and_keep_their_edges():
    from train_image_prompt import SHIFT, shifted

    torch.manual_seed(0)
    ramp = torch.arange(64.0).expand(8, 3, 64, 64)
    moved = shifted(ramp)
    steps = (moved - ramp)[:, 0, 0, SHIFT:-SHIFT]
    assert steps.abs().max() <= SHIFT
    assert torch.equal(steps, steps[:, :1].expand_as(steps))
    assert len(steps[:, 0].unique()) > 1
    assert moved.min() == 0 and moved.max() == 63


def test_the_shipped_image_prompt_colours_pictures_like_its_own(comfyui, protocol):
    """darkened and tinted pictures as image prompts: the white that the model draws on without them is gone"""
    from drawing import Artist
    from image_prompt import ADAPTER, image_tokens, look, prompted
    from leakage import TEACHER

    from sid_pack.nodes.image_prompts.ip_adapter_files import load_adapter

    emoji = protocol.emoji
    subjects = emoji.training[::100]
    shown = emoji.images[subjects.roll(1)] * torch.tensor([0.5, 0.35, 0.3])
    adapter = load_adapter(ADAPTER)
    tokens = image_tokens(adapter, look(protocol.network, shown))
    artist = Artist([emoji.captions[index] for index in subjects], len(subjects))

    def distance(weight: float) -> float:
        """Mean absolute difference between the mean colours of picture and image prompt."""
        images = artist.draw(
            TEACHER, torch.arange(len(subjects)), 0, lambda model, rows: prompted(model, adapter, tokens, weight)
        ).images
        return (images.mean((1, 2)) - shown.mean((1, 2))).abs().mean().item()

    assert distance(1.0) < 0.4 * distance(0.0)
