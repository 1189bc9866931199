"""The demo's image encoder as a CLIP_VISION, against transformers' CLIP with the same random weights."""

import json

import numpy as np
import pytest
import torch
from graphs import node
from PIL import Image

WIDTH, EMBEDDED, TOKENS = 160, 128, 65


@pytest.fixture
def encoder(comfyui):
    """The architecture with weights of a size that lets every part of it show in what comes out."""
    from sid_pack.nodes.demo.image_encoder import build_image_encoder

    made = build_image_encoder()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in made.model.state_dict().items():
            drawn = torch.randn(tensor.shape, generator=generator)
            is_scale = "norm" in name and name.endswith("weight")
            tensor.copy_(1 + 0.2 * drawn if is_scale else 0.1 * drawn)
    return made


def transformers_clip(weights: dict[str, torch.Tensor]):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from sid_pack.nodes.demo.image_encoder import CONFIG

    config = CLIPVisionConfig(**json.loads(CONFIG.read_text()))
    network = CLIPVisionModelWithProjection(config).eval()
    network.load_state_dict({name: weight.float() for name, weight in weights.items()}, strict=False)
    return network


def prepared(pictures: torch.Tensor) -> torch.Tensor:
    """As transformers' own program prepares pictures for CLIP: scaled, cropped, normalized."""
    from transformers import CLIPImageProcessor

    scaled = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64)
    images = [Image.fromarray((picture * 255).round().byte().numpy()) for picture in pictures]
    return torch.from_numpy(np.stack([np.asarray(x) for x in scaled(images)["pixel_values"]]))


@torch.no_grad()
def test_it_sees_as_transformers_clip_with_the_same_weights(encoder, run_graph, monkeypatch):
    """by ComfyUI's own node: the embedding, and the layer that image prompts take"""
    import nodes

    pictures = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    (seen,) = nodes.CLIPVisionEncode().encode(encoder, pictures, "center")
    theirs = transformers_clip(encoder.get_sd())(prepared(pictures), output_hidden_states=True)
    assert seen["image_embeds"].shape == (3, EMBEDDED)
    assert seen["penultimate_hidden_states"].shape == (3, TOKENS, WIDTH)
    assert theirs.image_embeds.std(0).mean() > 0.05  # the pictures differ in it
    torch.testing.assert_close(seen["image_embeds"], theirs.image_embeds, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(seen["penultimate_hidden_states"], theirs.hidden_states[-2], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_of_a_wide_picture_the_middle_square_is_seen(encoder):
    pictures = torch.rand(1, 64, 100, 3, generator=torch.Generator().manual_seed(0))
    seen, square = encoder.encode_image(pictures), encoder.encode_image(pictures[:, :, 18:82])
    torch.testing.assert_close(seen["image_embeds"], square["image_embeds"])


@torch.no_grad()
def test_half_precision_in_the_file_is_what_is_loaded(encoder, tmp_path):
    from safetensors.torch import save_file

    from sid_pack.nodes.demo.image_encoder import load_image_encoder

    file = tmp_path / "encoder.safetensors"
    save_file({name: weight.half().contiguous() for name, weight in encoder.get_sd().items()}, file)
    assert file.stat().st_size < 2.25e6
    again = load_image_encoder(file)
    for name, weight in encoder.get_sd().items():
        assert torch.equal(again.get_sd()[name].half(), weight.half()), name


def test_a_file_that_lacks_a_tensor_or_has_another_is_refused(encoder, tmp_path):
    from safetensors.torch import save_file

    from sid_pack.nodes.demo.image_encoder import load_image_encoder
    from sid_pack.sid_core.files.tensors import NotACheckpointError

    whole = {name: weight.contiguous() for name, weight in encoder.get_sd().items()}
    lacking = {name: weight for name, weight in whole.items() if name != "visual_projection.weight"}
    for number, weights in enumerate((lacking, whole | {"another": torch.zeros(2)})):
        file = tmp_path / f"{number}.safetensors"
        save_file(weights, file)
        with pytest.raises(NotACheckpointError, match="^Copy or download"):
            load_image_encoder(file)


def test_the_demo_model_s_clip_vision_goes_into_stock_nodes(run_graph):
    graph = {
        "demo": node("SiDDemoModel", weights="teacher"),
        "picture": node("EmptyImage", width=80, height=120, batch_size=2, color=0xFF8800),
        "seen": node("CLIPVisionEncode", clip_vision=["demo", 3], image=["picture", 0], crop="center"),
        "shown": node("PreviewAny", source=["seen", 0]),
    }
    result = run_graph(graph)
    assert result.success, result.error
    seen = result.value("seen")
    assert seen["image_embeds"].shape == (2, EMBEDDED)
    assert seen["penultimate_hidden_states"].shape == (2, TOKENS, WIDTH)
    assert seen["image_embeds"].isfinite().all()
