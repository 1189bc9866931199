"""Drawing many captions in one batch, through the real ComfyUI, and what it says it cost."""

import pytest
import torch

CAPTIONS = ["rocket", "green heart", "smiling face with open mouth and smiling eyes"]
SEED = 3


@pytest.fixture(scope="module")
def artist(comfyui):
    from drawing import Artist

    return Artist(CAPTIONS, batch=2)


def test_each_picture_of_a_batch_is_the_one_its_caption_gets_alone(artist):
    from drawing import Artist, Setting

    setting = Setting(3, "euler", "normal", 3.0)
    together = artist.draw(setting, torch.arange(3), SEED).images
    assert together.shape == (3, 64, 64, 3)
    for caption in range(3):
        alone = Artist([CAPTIONS[caption]] * 3, batch=1).draw(setting, torch.arange(3), SEED).images
        torch.testing.assert_close(alone[caption], together[caption], rtol=0, atol=1e-4)
        assert not torch.allclose(alone[caption - 1], together[caption - 1], atol=0.05)  # the caption did matter


def test_captions_are_drawn_in_the_order_asked_for(artist):
    from drawing import Setting

    setting = Setting(2, "euler", "normal")
    backwards = artist.draw(setting, torch.tensor([2, 1, 0]), SEED).images
    torch.testing.assert_close(backwards[1], artist.draw(setting, torch.arange(3), SEED).images[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("sampler", "cfg", "each"),
    [("euler", 1.0, 4), ("euler", 3.0, 8), ("heun", 1.0, 7), ("heun", 3.0, 14)],  # heun looks once at its last step
)
def test_forwards_are_the_latents_that_the_network_saw(artist, sampler, cfg, each):
    from drawing import Setting

    assert artist.draw(Setting(4, sampler, "normal", cfg), torch.arange(3), SEED).forwards == 3 * each


def test_a_student_is_drawn_over_the_times_it_was_trained_on(comfyui):
    """sigma at t = 625, 468, 312, 156 of Stable Diffusion's betas"""
    from drawing import Setting, sigmas_of

    from sid_pack.nodes.demo.model import load_demo

    sigmas = sigmas_of(load_demo()[0], Setting(4))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = (1 - betas).cumprod(0)[[625, 468, 312, 156]]
    torch.testing.assert_close(sigmas[:-1].double(), (1 / alpha_bar - 1).sqrt(), rtol=1e-5, atol=0)
    assert sigmas[-1] == 0
