import numpy as np
import torch
from graphs import demo, node, shown


def ksampler(prompt: str, seed: int = 1) -> dict:
    sampled = node(
        "KSampler",
        model=["demo", 0],
        positive=["positive", 0],
        negative=["negative", 0],
        latent_image=["latent", 0],
        seed=seed,
        steps=12,
        cfg=5.0,
        sampler_name="dpmpp_2m",
        scheduler="karras",
        denoise=1.0,
    )
    return demo(prompt=prompt) | {"sampled": sampled} | shown(["sampled", 0])


def picture(result) -> torch.Tensor:
    assert result.success, result.error
    return result.value("decoded")


def middle(pictures: torch.Tensor) -> torch.Tensor:
    """Mean colour (R, G, B) of the middle of the pictures."""
    return pictures[:, 24:40, 24:40].mean((0, 1, 2))


def test_stock_nodes_draw_what_the_prompt_says(run_graph):
    apple = picture(run_graph(ksampler("red apple")))
    assert apple.shape == (2, 64, 64, 3)
    red, green, blue = middle(apple)
    assert red > green + 0.25 and red > blue + 0.25
    red, green, blue = middle(picture(run_graph(ksampler("blue book, flat"))))
    assert blue > red + 0.15
    corners = apple[:, :6, :6]
    assert corners.mean() > 0.9  # emoji lie on white


def test_the_codec_gives_back_real_pictures(comfyui):
    """32 of 192 components of a patch keep 97.0 % of the variance of the pictures."""
    from PIL import Image

    from sid_pack.nodes.demo import model as demo_model

    with Image.open(demo_model.ASSETS / "reference.png") as sheet:
        pixels = torch.from_numpy(np.asarray(sheet.convert("RGB")).copy()).float() / 255
    pictures = pixels.unflatten(1, (-1, 64)).unflatten(0, (-1, 64)).transpose(1, 2).flatten(0, 1)
    _, _, vae = demo_model.load_demo()
    with torch.inference_mode():
        again = vae.decode(vae.encode(pictures))
    lost = (again - pictures).square().mean() / (pictures - pictures.mean(0)).square().mean()
    assert lost < 0.04


def test_prompt_weights_and_unknown_words(run_graph):
    def context(prompt):
        return run_graph(ksampler(prompt)).value("positive")[0][0]

    plain, empty = context("red apple"), context("")
    torch.testing.assert_close(context("(red apple:1.0)"), plain)
    heavy = context("(red apple:2.0)")
    torch.testing.assert_close(heavy[:, :2], (2 * plain - empty)[:, :2], rtol=1e-4, atol=1e-4)
    assert torch.equal(context("xyzzy"), context("qwerty"))
    assert not torch.equal(context("xyzzy"), empty)


def test_a_prompt_of_many_words_is_cut(run_graph):
    assert run_graph(ksampler("red apple " * 20)).value("positive")[0][0].shape == (1, 12, 128)


def test_loads_of_the_model_do_not_share_weights(comfyui):
    from sid_pack.nodes.demo import model as demo_model

    one, _, _ = demo_model.load_demo()
    other, _, _ = demo_model.load_demo()
    with torch.inference_mode():
        one.model.diffusion_model.out[2].bias.add_(1.0)
    assert not torch.equal(one.model.diffusion_model.out[2].bias, other.model.diffusion_model.out[2].bias)
