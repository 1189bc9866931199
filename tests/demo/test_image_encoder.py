"""How the demo's image encoder is trained: on what ComfyUI sees, with the right answers, region by region."""

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def learner(comfyui):
    from train_image_encoder import Learner

    from sid_pack.nodes.demo.image_encoder import build_image_encoder

    torch.manual_seed(0)
    return Learner(build_image_encoder().model, ["red apple", "apple", "blue book"])


@torch.no_grad()
def test_training_sees_what_comfyui_sees(learner):
    """token by token, where ComfyUI's own forward can't be trained through"""
    from train_image_encoder import seen

    pixels = torch.randn(3, 3, 64, 64)
    hidden, embeds = seen(learner.encoder, pixels)
    _, theirs, their_embeds, _ = learner.encoder(pixel_values=pixels, intermediate_output=-2)
    assert hidden.std() > 0.1
    torch.testing.assert_close(hidden, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(embeds, their_embeds, rtol=1e-4, atol=1e-4)


def test_all_of_it_learns(learner):
    from train_image_encoder import seen

    hidden, embeds = seen(learner.encoder, torch.randn(2, 3, 64, 64))
    (hidden.square().sum() + embeds.square().sum()).backward()
    assert [name for name, weight in learner.encoder.named_parameters() if weight.grad is None] == []
    learner.zero_grad(set_to_none=True)


def test_captions_are_their_words_mean_and_their_style(learner):
    from train_image_encoder import UNTOLD

    captions = learner.captions
    apple, red = (
        captions.words.weight[sorted(["red", "apple", "blue", "book"]).index(word)] for word in ("apple", "red")
    )
    styles = torch.tensor([2, UNTOLD])
    found = captions(torch.tensor([0, 1]), styles)
    expected = captions.project(torch.stack([(apple + red) / 2, apple]) + captions.styles(styles))
    torch.testing.assert_close(found, expected)


def test_the_loss_is_clip_s_where_no_caption_is_true_of_two_pictures():
    """by the formula of arXiv 2103.00020, figure 3, in numpy"""
    from train_image_encoder import caption_loss

    similar = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()
    table = np.exp(similar.numpy())
    own = np.diagonal(table)
    expected = -(np.log(own / table.sum(0)).mean() + np.log(own / table.sum(1)).mean()) / 2
    subjects = styles = torch.arange(4)
    assert caption_loss(similar, subjects, styles, styles).item() == pytest.approx(expected, rel=1e-6)


def test_a_caption_that_is_true_of_a_picture_is_no_wrong_answer_for_it():
    """picture 0: subject 5, style 1. Captions beside its own, right or wrong for it"""
    from train_image_encoder import UNTOLD, caption_loss

    others = [
        ("the same subject, no style", 5, 2, UNTOLD, False),
        ("the same subject in its style", 5, 1, 1, False),
        ("the same subject in another style", 5, 2, 2, True),
        ("another subject, no style", 6, 1, UNTOLD, True),
        ("another subject in its style", 6, 1, 1, True),
    ]
    for name, subject, style, told, is_wrong in others:
        # A first picture with its caption, and one more caption that seems to fit it very well.
        similar = torch.tensor([[1.0, 9.0]])
        loss = caption_loss(
            similar, torch.tensor([5, subject]), torch.tensor([1, style]), torch.tensor([1, told])
        ).item()
        expected = (torch.logsumexp(similar[0], 0) - 1).item() / 2 if is_wrong else 0.0
        assert loss == pytest.approx(expected, abs=1e-6), name


def test_regions_are_where_the_picture_s_are():
    """a patch's token is in the region of its pixels, and its pixels are told in its own place"""
    from train_image_encoder import pooled, shrunk

    picture = torch.zeros(1, 3, 64, 64)
    picture[:, :, 40:48, 16:24] = 1  # the patch in row 5, column 2
    in_patches = shrunk(picture)
    assert in_patches.shape == (1, 64, 48)
    assert in_patches.amax(-1)[0].argmax() == 5 * 8 + 2 and (in_patches.amax(-1) > 0).sum() == 1
    regions = pooled((in_patches + 3) / 4)
    assert regions.shape == (1, 16, 48)
    assert regions.mean(-1)[0].argmax() == 2 * 4 + 1
    torch.testing.assert_close(regions[0, 9], torch.full((48,), 0.25))


def test_components_keep_what_differs_most_and_are_of_variance_one(monkeypatch):
    import regions

    monkeypatch.setattr(regions, "KEPT", 2)
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(6, 6))[0]
    strength = torch.tensor([9.0, 4.0, 0.01, 0.01, 0.01, 0.01])
    hidden = torch.randn(500, 16, 6)
    kept = regions.compressed((hidden * strength) @ basis.T + 3).float()
    assert kept.shape == (500, 16, 2)
    assert kept.std().item() == pytest.approx(1, abs=0.01)
    for number in range(2):
        together = torch.corrcoef(torch.stack([kept[..., number].flatten(), hidden[..., number].flatten()]))
        assert together[0, 1].abs() > 0.999
    # Half-way whitened: of the ratio of the deviations its root is left.
    ratio = kept[..., 0].std() / kept[..., 1].std()
    assert ratio.item() == pytest.approx((9 / 4) ** 0.5, rel=0.03)
