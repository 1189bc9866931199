"""Latents of models whose cells stand for other than eight pixels, have other channels, or are of an unusual size."""

import pytest
import tiny_models
import torch


@pytest.fixture
def sdxl(comfyui):
    with torch.inference_mode():
        return tiny_models.sdxl()


@pytest.fixture
def coarse(sdxl):
    """As a MODEL of 16 pixels a cell, on hosts of both kinds: those that say so and those that don't."""
    import comfy.latent_formats

    class Coarse(comfy.latent_formats.SDXL):
        spacial_downscale_ratio = 16

    sdxl.add_object_patch("latent_format", Coarse())
    return sdxl


def conditioning_of(model, side: int) -> torch.Tensor:
    """The sizes that SDXL is told of, as the host embeds them."""
    from sid_pack.nodes.host.conditioning import conditioning_tensors

    latent = torch.zeros(1, 4, side, side)
    return conditioning_tensors(model, tiny_models.conditioning(0), latent)["y"]


def test_a_picture_of_coarse_cells_has_the_size_that_was_asked_for(coarse):
    from sid_pack.nodes.sampling.few_step import SiDGenerate

    inputs = {"seed": 1, "batch_size": 1, "steps": 1, "t_init": 0.0, "noise_mode": "fresh"}
    with torch.inference_mode():
        latent = SiDGenerate.execute(coarse, tiny_models.conditioning(0), width=128, height=256, **inputs).result[0]
    assert latent["samples"].shape == (1, 4, 16, 8)


def test_a_side_that_is_no_multiple_of_a_cell_is_refused(coarse):
    from sid_pack.nodes.host.latents import cells

    assert cells(coarse, 64, 32) == (2, 4)
    with pytest.raises(ValueError, match="^Set height to a multiple of 16, which this model works in; it is 40"):
        cells(coarse, 64, 40)


def test_the_conditioning_tells_the_size_in_pixels(coarse):
    """1024x1024 pixels either way; the host's embedding of them is the independent truth."""
    with torch.inference_mode():
        plain = tiny_models.sdxl()
        assert torch.equal(conditioning_of(coarse, 64), conditioning_of(plain, 128))
        assert not torch.equal(conditioning_of(coarse, 64), conditioning_of(plain, 64))


def test_further_sizes_are_in_the_models_own_pixels(coarse):
    from sid_pack.nodes.host.latents import latent_shapes

    assert latent_shapes(coarse, "1024x512") == [(4, 32, 64)]
    with pytest.raises(ValueError, match="multiples of 16 up to 16384; it has '24x32'"):
        latent_shapes(coarse, "24x32")


def test_an_empty_latent_is_made_to_fit_as_the_hosts_samplers_do(coarse):
    """Newer hosts' empty latents say what they were made for; older ones' are taken as they are."""
    import comfy.sample
    from nodes import EmptyLatentImage

    from sid_pack.nodes.host.latents import model_latent

    latent = EmptyLatentImage().generate(512, 512)[0]
    told = {name: latent[name] for name in latent if name.startswith("downscale_ratio")}
    expected = comfy.sample.fix_empty_latent_channels(coarse, latent["samples"], *told.values())
    assert model_latent(coarse, latent).shape == expected.shape
    assert expected.shape[-1] == (32 if told else 64)


def test_a_latent_with_something_in_it_and_other_channels_is_refused(sdxl):
    from sid_pack.nodes.host.latents import model_latent

    with pytest.raises(ValueError, match="^Connect an empty latent.*this one has 16 channels, and this MODEL's have 4"):
        model_latent(sdxl, {"samples": torch.ones(1, 16, 8, 8)})
    assert model_latent(sdxl, {"samples": torch.zeros(1, 16, 8, 8)}).shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("side", "said"), [(128, None), (96, None), (176, None), (64, "512x512"), (192, "1536x1536"), (8, "64x64")]
)
def test_a_size_far_from_what_a_model_was_trained_on_is_remarked(sdxl, side, said):
    from sid_pack.nodes.host.latents import unusual_size

    remark = unusual_size(sdxl, (4, side, side))
    assert (remark is None) == (said is None)
    assert said is None or f"about 1024x1024 pixels, unless this is meant: it is of {said}" in remark
