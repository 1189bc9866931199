"""The demo's image prompt: trained as it is drawn with, in a file that the pack's own loader reads."""

import math

import pytest
import torch

FEATURES, TOKENS_SEEN = 160, 65


@pytest.fixture(scope="module")
def demo(comfyui):
    """(MODEL, CLIP, VAE, CLIP_VISION), whose image encoder has random weights: what it has learnt does not matter."""
    from training import initialize

    from sid_pack.nodes.demo.image_encoder import build_image_encoder
    from sid_pack.nodes.demo.model import load_demo

    torch.manual_seed(0)
    eye = build_image_encoder()
    initialize(eye.model)
    embeddings = eye.model.vision_model.embeddings
    torch.nn.init.normal_(embeddings.class_embedding, std=0.5)
    torch.nn.init.normal_(embeddings.position_embedding.weight, std=0.5)
    return *load_demo(), eye


@pytest.fixture(scope="module")
def adapter(demo):
    from image_prompt import new_adapter

    torch.manual_seed(0)
    network = new_adapter(demo[0], FEATURES)
    for layer in [*network.to_k_ip, *network.to_v_ip]:
        torch.nn.init.normal_(layer.weight, std=0.1)  # they begin as copies of the text's, so that order would not show
    return network


@pytest.fixture
def file(adapter, tmp_path):
    from image_prompt import file_weights
    from safetensors.torch import save_file

    weights = {name: weight.half().contiguous() for name, weight in file_weights(adapter).items()}
    save_file(weights, tmp_path / "adapter.safetensors")
    return tmp_path / "adapter.safetensors"


@pytest.fixture(scope="module")
def few_pictures():
    """Six pictures: one colour each, in two styles of three subjects, of which the last is held out."""
    from pictures import HELD_OUT_SUBJECT, TRAINING, Pictures

    images = torch.randint(256, (6, 1, 1, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Pictures(
        images.expand(6, 64, 64, 3).contiguous(),
        torch.arange(3).repeat(2),
        torch.tensor([0, 0, 0, 2, 2, 2]),
        torch.tensor([TRAINING, TRAINING, HELD_OUT_SUBJECT] * 2),
        ["red apple", "blue book", "dog"],
    )


@pytest.fixture
def lessons(demo, few_pictures):
    from train_image_prompt import Lessons

    return Lessons(few_pictures, *demo, torch.device("cpu"))


def test_training_draws_with_the_very_attention_that_the_packs_nodes_apply(demo, adapter, file):
    from comfy.ldm.modules.attention import optimized_attention
    from image_prompt import attentions_to, image_tokens, prompted

    from sid_pack.nodes.image_prompts.ip_adapter import matching_layers
    from sid_pack.nodes.image_prompts.ip_adapter_files import load_adapter

    teacher, _, _, eye = demo
    loaded = load_adapter(file)
    images = torch.rand(2, 64, 64, 3)
    with torch.no_grad():
        tokens = adapter.projection(eye.encode_image(images)["penultimate_hidden_states"])
    drawn_tokens = image_tokens(loaded, eye, images)
    torch.testing.assert_close(drawn_tokens.cond, tokens, rtol=0, atol=0.02)

    layers = matching_layers(teacher, loaded)
    model = prompted(teacher, loaded, drawn_tokens, 1.0)
    unet = teacher.model.diffusion_model
    channels = unet.in_channels
    x, t, context = torch.randn(2, channels, 8, 8), torch.tensor([100.0, 700.0]), torch.randn(2, 12, layers[0].context)
    options = model.model_options["transformer_options"] | {"cond_or_uncond": [0], "sigmas": torch.tensor([1.0])}
    trained_with = {"patches_replace": {"attn2": attentions_to(adapter, layers, tokens, optimized_attention)}}
    with torch.no_grad():
        drawn = unet(x, t, context=context, transformer_options=options)
        trained = unet(x, t, context=context, transformer_options=trained_with)
        without = unet(x, t, context=context, transformer_options={})
    assert (drawn - without).abs().max() > 0.1
    torch.testing.assert_close(drawn, trained, rtol=0, atol=0.02)


def test_the_file_is_laid_out_as_published_ones_and_small(adapter, file):
    """names and shapes as in ip-adapter-plus_sd15.safetensors, with this model's sizes"""
    from safetensors.torch import load_file

    tensors = load_file(file)
    layers = len(adapter.widths)
    names = [f"ip_adapter.{2 * layer + 1}.to_{which}_ip.weight" for layer in range(layers) for which in "kv"]
    assert {name for name in tensors if name.startswith("ip_adapter.")} == set(names)
    assert tensors["image_proj.latents"].shape[:2] == (1, 16)
    assert tensors["image_proj.proj_in.weight"].shape[1] == FEATURES
    for layer in range(2):
        parts = ("0.norm1.bias", "0.norm2.bias", "0.to_q.weight", "0.to_kv.weight", "0.to_out.weight", "1.1.weight")
        assert all(f"image_proj.layers.{layer}.{part}" in tensors for part in parts)
    assert "image_proj.layers.2.1.1.weight" not in tensors
    assert file.stat().st_size <= 1.6e6


def test_new_layers_begin_as_the_texts_own_in_the_files_order(demo):
    from image_prompt import cross_attention, new_adapter

    from sid_pack.nodes.host.unet_layers import cross_attention_layers

    network = new_adapter(demo[0], FEATURES)
    layers = cross_attention_layers(demo[0])
    assert len(layers) == len(network.to_k_ip) > 1
    for layer, keys, values in zip(layers, network.to_k_ip, network.to_v_ip, strict=True):
        text = cross_attention(demo[0], layer)
        assert torch.equal(keys.weight, text.to_k.weight) and torch.equal(values.weight, text.to_v.weight)


def test_a_tenth_of_images_is_dropped_and_all_captions_but_half_of_theirs():
    from train_image_prompt import dropped

    torch.manual_seed(0)
    image, caption = dropped(torch.rand(100_000))
    shares = [(image & ~caption), (image & caption), (~image & caption), (~image & ~caption)]
    found = torch.stack([share.float().mean() for share in shares])
    torch.testing.assert_close(found, torch.tensor([0.05, 0.05, 0.9, 0.0]), rtol=0, atol=0.004)


@pytest.mark.parametrize("which", ["image", "caption"])
def test_what_is_dropped_is_the_packs_own_nothing(demo, lessons, monkeypatch, which):
    """no image: as CleanStyle IP-Adapter has it where there is none. No caption: the empty prompt."""
    import train_image_prompt

    from sid_pack.nodes.image_prompts.ip_adapter import _nothing_seen

    nothing, everything = (torch.full((train_image_prompt.BATCH,), value) for value in (False, True))
    picks = {"image": (everything, nothing), "caption": (nothing, everything)}
    monkeypatch.setattr(train_image_prompt, "dropped", lambda lot: picks[which])
    torch.manual_seed(0)
    _, contexts, whole, seen = lessons.batch()
    _, clip, _, eye = demo
    empty = clip.encode_from_tokens(clip.tokenize(""))
    as_empty = (contexts - empty).abs().amax((1, 2)) == 0
    with torch.no_grad():
        as_nothing = (seen - _nothing_seen(eye)).abs().mean((1, 2)) < 0.02
    assert bool(as_nothing.all()) == (which == "image") and bool(as_nothing.any()) == (which == "image")
    assert bool(as_empty.all()) == (which == "caption") and bool(as_empty.any()) == (which == "caption")
    # Without an image no more is to be learnt than the text says.
    assert torch.equal(contexts, whole) == (which == "image")


def test_a_picture_is_its_own_image_prompt_under_its_own_caption(demo, lessons, monkeypatch, few_pictures):
    """known by its colour in the latent and in what is seen, and by its words; the style is told one time of three"""
    import train_image_prompt

    model, clip, vae, eye = demo
    monkeypatch.setattr(train_image_prompt, "dropped", lambda lot: (lot < 0, lot < 0))
    torch.manual_seed(0)
    latents, contexts, whole, seen = lessons.batch()
    colours = few_pictures.image(torch.arange(6))
    known_latents = model.model.process_latent_in(vae.encode(colours))[:, :, 4, 4]
    with torch.no_grad():
        known_seen = eye.encode_image(colours)["penultimate_hidden_states"][:, 28]
    in_latents = torch.cdist(latents[:, :, 4, 4], known_latents).argmin(1)
    in_seen = torch.cdist(seen[:, 28], known_seen).argmin(1)
    assert torch.equal(in_latents, in_seen)
    assert set(in_latents.tolist()) == {0, 1, 3, 4}  # never those held out
    captions = {
        (index, styled): clip.encode_from_tokens(clip.tokenize(few_pictures.caption(index, styled)))[0]
        for index in range(6)
        for styled in (True, False)
    }
    for index, row in zip(in_latents.tolist(), whole, strict=True):
        assert torch.equal(row, captions[index, True])
    told = [torch.equal(row, captions[index, True]) for index, row in zip(in_latents.tolist(), contexts, strict=True)]
    for index, styled, row in zip(in_latents.tolist(), told, contexts, strict=True):
        assert torch.equal(row, captions[index, styled])
    assert 0.1 < sum(told) / len(told) < 0.6


def test_learning_lowers_the_loss_and_only_the_adapter_changes(demo, lessons, adapter, tmp_path):
    import copy

    from comfy.ldm.modules.attention import optimized_attention
    from train_image_prompt import prediction_loss
    from training import TimedTraining, attention_in_float32

    from sid_pack.nodes.host.unet_layers import cross_attention_layers
    from sid_pack.sid_core.method.process import VP

    trained, model, eye = copy.deepcopy(adapter), demo[0], demo[3]
    frozen = [copy.deepcopy(x.state_dict()) for x in (model.model.diffusion_model, eye.model)]
    layers, process = cross_attention_layers(model), VP.stable_diffusion(prediction="v")

    def attend(q, k, v, heads):
        return attention_in_float32(optimized_attention, q, k, v, heads)

    losses = []

    def loss():
        torch.manual_seed(0)
        losses.append(prediction_loss(trained, lessons, layers, process, attend))
        return losses[-1]

    training = TimedTraining(
        trained, [{"params": list(trained.parameters()), "lr": 1e-2}], minutes=1, checkpoint=tmp_path / "x.pt"
    )
    for _ in range(8):
        training._step(loss)
        training.iteration += 1
    assert losses[-1] < losses[0]
    assert all(not torch.equal(a, b) for a, b in zip(trained.parameters(), adapter.parameters(), strict=True))
    for before, network in zip(frozen, (model.model.diffusion_model, eye.model), strict=True):
        assert all(torch.equal(before[name], weight) for name, weight in network.state_dict().items())
    assert not math.isnan(losses[-1].item())
