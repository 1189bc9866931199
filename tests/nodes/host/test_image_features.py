"""Features by whatever a CLIP_VISION gives, and texts in their space only where they are of one CLIP."""

from types import SimpleNamespace

import pytest
import torch


class Seen(SimpleNamespace):
    """A CLIP_VISION's output."""


class Encoder:
    """A CLIP_VISION that gives what it is told to."""

    image_size = 32

    def __init__(self, **gives):
        self.gives = gives
        self.patcher = SimpleNamespace(model=torch.nn.Linear(1, 1))

    def encode_image(self, pictures, crop=True):
        assert not crop  # all of a picture is to be seen
        return Seen(**{name: value.expand(len(pictures), *value.shape) for name, value in self.gives.items()})


class Text(torch.nn.Module):
    """A text encoder with CLIP's projection."""

    def __init__(self, weight):
        super().__init__()
        self.text_projection = torch.nn.Linear(*weight.shape, bias=False)
        self.text_projection.weight.data = weight


class Clip:
    def __init__(self, weight, pooled=True):
        self.patcher, self.pooled = SimpleNamespace(model=Text(weight)), pooled

    def tokenize(self, text):
        return text

    def encode_from_tokens(self, tokens, return_pooled):
        return None, torch.ones(1, 4) if self.pooled else None


def test_image_embeds_else_the_mean_of_the_tokens_and_the_name_says_which(comfyui):
    from sid_pack.nodes.host.image_features import ImageFeatures

    embeds, hidden = torch.arange(4.0), torch.arange(12.0).view(3, 4)
    pictures = torch.zeros(2, 8, 8, 3)
    first = ImageFeatures(Encoder(image_embeds=embeds, last_hidden_state=hidden))
    assert torch.equal(first.of(pictures), embeds.expand(2, 4)) and first.width == 4
    assert first.name == "Linear, 32x32 pixels, image_embeds, 4 numbers"
    other = ImageFeatures(Encoder(last_hidden_state=hidden))
    assert torch.equal(other.of(pictures), torch.tensor([4.0, 5, 6, 7]).expand(2, 4))
    assert "mean of last_hidden_state" in other.name and not other.is_projected
    with pytest.raises(ValueError, match="Connect another CLIP_VISION"):
        ImageFeatures(Encoder()).of(pictures)
    with pytest.raises(ValueError, match="Connect Load CLIP Vision"):
        ImageFeatures("none")


def test_a_text_encoder_that_is_not_of_the_same_clip_is_named_as_such(comfyui):
    from sid_pack.nodes.host.image_features import ImageFeatures, TextFeatures

    images = ImageFeatures(Encoder(image_embeds=torch.arange(4.0)))
    own = torch.arange(16.0).view(4, 4)
    assert TextFeatures(Clip(own), images).why_not is None
    assert "without its projection" in TextFeatures(Clip(torch.eye(4)), images).why_not
    assert "no pooled" in TextFeatures(Clip(own, pooled=False), images).why_not
    wide = ImageFeatures(Encoder(image_embeds=torch.arange(5.0)))
    assert "has 4 numbers, and clip_vision's has 5" in TextFeatures(Clip(own), wide).why_not
    hidden = ImageFeatures(Encoder(last_hidden_state=torch.zeros(3, 4)))
    assert TextFeatures(Clip(own), hidden).why_not == "clip_vision gives no image_embeds"
