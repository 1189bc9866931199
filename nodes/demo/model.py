"""The demo model as ComfyUI sees one: its own UNet behind a MODEL, a CLIP and a VAE that stock nodes run.

It is small enough for a CPU and comes with the pack, so a new install, the tests and the tutorials need no download.
`demo/train_teacher.py` makes it.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import torch
from torch import Tensor, nn

from ...sid_core.files.tensors import read_tensors
from ..sampling.students import load_own

ASSETS = Path(__file__).parents[2] / "demo" / "assets"
CODEC = ASSETS / "codec.safetensors"
TEACHER = ASSETS / "teacher.safetensors"
LATENT_CHANNELS = 32
PATCH = 8
DECODER_WIDTHS = (128, 96, 48)  # at the latent's resolution, at twice and at four times that
CONTEXT_WORDS = 12
CONTEXT_WIDTH = 128
PADDING, UNKNOWN = 0, 1
BASE_ID = "sid-demo-styles"
STYLES = ("shaded", "retro", "flat", "modern", "inked", "glossy", "woodcut", "simple", "cartoon")

UNET = {
    "image_size": 32,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "model_channels": 128,
    "channel_mult": [1, 1],
    "num_res_blocks": [1, 1],
    "transformer_depth": [0, 1],
    "transformer_depth_output": [0, 1, 0, 1],
    "transformer_depth_middle": 1,
    "context_dim": CONTEXT_WIDTH,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "use_checkpoint": False,
    "use_temporal_resblock": False,
    "use_temporal_attention": False,
    "adm_in_channels": None,
    "legacy": False,
}


class DemoLatents(comfy.latent_formats.LatentFormat):
    """Thirty-two channels, used as the codec gives them."""

    latent_channels = LATENT_CHANNELS


class DemoModel(comfy.supported_models_base.BASE):
    """ComfyUI's description of the architecture: an SD-style UNet, v-prediction, latents used as they come."""

    latent_format = DemoLatents
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    memory_usage_factor = 0.5

    def model_type(self, state_dict: dict, prefix: str = "") -> comfy.model_base.ModelType:
        return comfy.model_base.ModelType.V_PREDICTION

    def inpaint_model(self) -> bool:
        # The host takes any UNet of more than four input channels for an inpainting one.
        return False


class WordTokenizer:
    """Splits a prompt into the words of the model's own vocabulary, with the host's (word:1.2) weights."""

    def __init__(self, vocabulary: list[str]):
        self.vocabulary = vocabulary
        self.index = {word: i for i, word in enumerate(vocabulary)}

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_options) -> dict[str, list]:
        """→ {"words": [[(token, weight), …]]}, always CONTEXT_WORDS long; words past that are dropped."""
        tokens = [
            (self.index.get(word, UNKNOWN), weight)
            for part, weight in comfy.sd1_clip.token_weights(text.lower(), 1.0)
            for word in re.findall(r"[a-z0-9]+", part)
        ][:CONTEXT_WORDS]
        tokens += [(PADDING, 1.0)] * (CONTEXT_WORDS - len(tokens))
        if return_word_ids:
            tokens = [(token, weight, i + 1 if token != PADDING else 0) for i, (token, weight) in enumerate(tokens)]
        return {"words": [tokens]}

    def untokenize(self, token_weight_pairs: list) -> list:
        return [(pair, self.vocabulary[pair[0]]) for pair in token_weight_pairs]

    def state_dict(self) -> dict:
        return {}


class WordEncoder(nn.Module):
    """Word embeddings with positions and one transformer layer: tokens (B, L) → context (B, L, CONTEXT_WIDTH)."""

    def __init__(self, words: int):
        super().__init__()
        self.words = nn.Embedding(words, CONTEXT_WIDTH)
        self.positions = nn.Parameter(torch.zeros(CONTEXT_WORDS, CONTEXT_WIDTH))
        self.layer = nn.TransformerEncoderLayer(
            CONTEXT_WIDTH, 4, 2 * CONTEXT_WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(CONTEXT_WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.layer(self.words(tokens) + self.positions))


class HostedWordEncoder(WordEncoder, comfy.sd1_clip.ClipTokenWeightEncoder):
    """The encoder with the methods that `comfy.sd.CLIP` calls on its model."""

    special_tokens: ClassVar = {"pad": PADDING}  # what a weight moves a word's context away from

    def __init__(self, words: int, device: torch.device, dtype: torch.dtype, model_options: dict):
        super().__init__(words)
        self.to(device=device, dtype=torch.float32)
        self.dtypes = {torch.float32}

    def encode_token_weights(self, token_weight_pairs: dict[str, list]) -> tuple[Tensor, None]:
        """→ (context (1, L, D), no pooled output), weighted as in the host's own encoders."""
        return super().encode_token_weights(token_weight_pairs["words"])

    def encode(self, tokens: list[list[int]]) -> tuple[Tensor, None]:
        return self(torch.tensor(tokens, device=self.positions.device)), None

    def set_clip_options(self, options: dict) -> None:
        """The host offers options of CLIP (layer to stop at, projection) that this encoder has no use for."""

    def reset_clip_options(self) -> None:
        """See `set_clip_options`."""

    def load_sd(self, state_dict: dict) -> object:
        return self.load_state_dict(state_dict, strict=False)


class PatchCodec(nn.Module):
    """Each 8x8 patch of the picture on its first 32 principal components, and back by a small convolutional decoder.

    picture (B, 3, H, W) in [-1, 1] ↔ latent (B, 32, H/8, W/8) of unit variance over the pictures, its channels half-way
    whitened: at full contrast the first has hundreds of times the variance of the last, and details would be learnt
    only where there is next to no noise. The linear decoder alone leaves seams between patches and loses edges:
    `refine` sees a patch's neighbours and puts them back.
    """

    def __init__(self):
        super().__init__()
        pixels = 3 * PATCH * PATCH
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("basis", torch.zeros(LATENT_CHANNELS, 3, PATCH, PATCH))
        self.register_buffer("scale", torch.ones(LATENT_CHANNELS, 1, 1))
        wide, middle, narrow = DECODER_WIDTHS
        self.refine = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, wide, 3, padding=1),
            ResidualBlock(wide),
            ResidualBlock(wide),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(wide, middle, 3, padding=1),
            ResidualBlock(middle),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(middle, narrow, 3, padding=1),
            ResidualBlock(narrow),
            ResidualBlock(narrow),
            nn.Conv2d(narrow, 3 * 2 * 2, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def encode(self, picture: Tensor) -> Tensor:
        latent = nn.functional.conv2d(picture, self.basis, stride=PATCH)
        offset = self.basis.flatten(1) @ self.mean
        return (latent - offset[:, None, None]) / self.scale

    def decode(self, latent: Tensor) -> Tensor:
        picture = nn.functional.conv_transpose2d(latent * self.scale, self.basis, stride=PATCH)
        patch_mean = self.mean.view(3, PATCH, PATCH)
        return picture + patch_mean.tile(1, latent.shape[-2], latent.shape[-1]) + self.refine(latent)


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))), all of one width."""

    def __init__(self, width: int):
        super().__init__()
        self.change = nn.Sequential(
            nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(x)


def build_model() -> comfy.model_patcher.ModelPatcher:
    """A MODEL of the demo architecture; its weights are still to be loaded."""
    config = DemoModel(UNET)
    config.set_inference_dtype(torch.float32, None)
    offload_device = comfy.model_management.unet_offload_device()
    model = config.get_model({}, "", device=offload_device)
    return comfy.model_patcher.ModelPatcher(
        model, load_device=comfy.model_management.get_torch_device(), offload_device=offload_device
    )


def build_clip(vocabulary: list[str], weights: dict[str, Tensor]) -> comfy.sd.CLIP:
    """A CLIP whose tokenizer and text encoder are the demo's own."""
    target = comfy.supported_models_base.ClipTarget(lambda **_: WordTokenizer(vocabulary), HostedWordEncoder)
    target.params = {"words": len(vocabulary)}
    clip = comfy.sd.CLIP(target, parameters=sum(w.numel() for w in weights.values()))
    clip.cond_stage_model.load_state_dict(weights)
    return clip


def build_vae(weights: dict[str, Tensor]) -> comfy.sd.VAE:
    """A VAE whose network is the patch codec.

    The host recognizes codecs by their files and has no other door, so the smallest KL autoencoder opens it, for all
    the settings that a host of this version wants on a VAE, and then gives its place to the codec.
    """
    shape = {"z_channels": 4, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1]}
    shape |= {"double_z": True, "num_res_blocks": 0, "attn_resolutions": [], "dropout": 0.0}
    config = {"params": {"ddconfig": shape, "embed_dim": 4}}
    stand_in = comfy.sd.AutoencoderKL(**config["params"]).state_dict()
    vae = comfy.sd.VAE(sd=stand_in, config=config, dtype=torch.float32)
    codec = PatchCodec()
    codec.load_state_dict(weights)
    vae.first_stage_model = codec.eval()
    vae.latent_channels = LATENT_CHANNELS
    vae.patcher = comfy.model_patcher.ModelPatcher(
        codec, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )
    vae.size = comfy.model_management.module_size(codec)
    return vae


@cache
def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A safetensors file as float32 tensors and its metadata."""
    weights, metadata = read_tensors(path)
    return {key: weight.float() for key, weight in weights.items()}, metadata


def part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix`, without it."""
    return {key[len(prefix) :]: weight for key, weight in weights.items() if key.startswith(prefix)}


def load_demo(student: str | None = None) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """The demo model as (MODEL, CLIP, VAE): the teacher, or the student of that file name in `ASSETS`."""
    weights, metadata = read_weights(TEACHER)
    model = build_model()
    model.model.diffusion_model.load_state_dict(part(weights, "model.diffusion_model."))
    clip = build_clip(json.loads(metadata["vocabulary"]), part(weights, "text_encoder."))
    vae = build_vae(read_weights(CODEC)[0])
    codec = vae.first_stage_model
    # What the host's live previews show of a latent: each patch's mean colour.
    model.model.latent_format.latent_rgb_factors = (codec.basis.mean((2, 3)) * codec.scale[:, 0]).tolist()
    model.model.latent_format.latent_rgb_factors_bias = codec.mean.view(3, -1).mean(1).tolist()
    if student is not None:
        model = load_own(model, ASSETS / student)
    return model, clip, vae
