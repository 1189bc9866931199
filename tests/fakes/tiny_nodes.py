"""Loaders of what no file is at hand for: tiny models of ComfyUI's own classes, spoilt ones, and other VAEs."""

import tiny_models
import torch
from fakes.text_encoder import FakeCLIP


def with_changes_in_place():
    """A model with a layer like Flux's: autograd has kept its output for the backward pass, and then it is changed."""
    model = tiny_models.sd15()
    network = model.model.diffusion_model
    plain = network.forward

    def forward(*args, **kwargs):
        out = torch.tanh(plain(*args, **kwargs))
        out += 1
        return out

    network.forward = forward
    return model


def without_gradients():
    """A model that computes where autograd can't see it, as fused kernels do."""
    model = tiny_models.sd15()
    network = model.model.diffusion_model
    network.forward = torch.no_grad()(network.forward)
    return model


MODELS = {
    "sd15": tiny_models.sd15,
    "sdxl": tiny_models.sdxl,
    "sd3": tiny_models.sd3,
    "flux": tiny_models.flux,
    "changes in place": with_changes_in_place,
    "no gradients": without_gradients,
}


class FakeTinyModel:
    """A tiny MODEL, and a CLIP of its width."""

    CATEGORY = "tests"
    RETURN_TYPES = ("MODEL", "CLIP")
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802  (ComfyUI's name)
        return {"required": {"kind": (list(MODELS),)}}

    def run(self, kind: str) -> tuple:
        return MODELS[kind](), FakeCLIP(16, tiny_models.POOLED)


class FakeVAE:
    """The smallest VAE of four channels, as one of SD1.5; it is made one of videos on request."""

    CATEGORY = "tests"
    RETURN_TYPES = ("VAE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802  (ComfyUI's name)
        return {"required": {"kind": (["pictures", "videos"],)}}

    def run(self, kind: str) -> tuple:
        import comfy.sd

        shape = {"z_channels": 4, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1]}
        shape |= {"double_z": True, "num_res_blocks": 0, "attn_resolutions": [], "dropout": 0.0}
        config = {"params": {"ddconfig": shape, "embed_dim": 4}}
        weights = comfy.sd.AutoencoderKL(**config["params"]).state_dict()
        vae = comfy.sd.VAE(sd=weights, config=config, dtype=torch.float32)
        if kind == "videos":
            vae.latent_dim = 3
        return (vae,)


NODE_CLASS_MAPPINGS = {"FakeTinyModel": FakeTinyModel, "FakeVAE": FakeVAE}
