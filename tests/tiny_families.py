"""Every family that ComfyUI has a class of its own for, at tiny size and with random weights, by the names of families.

A width that a class has hard-coded is left as it is; what a host doesn't have is left out by `known`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial

import tiny_models
import torch
from tiny_models import UNET

WIDTH = 16  # of a token of the text
TOKENS = 5
POOLED = tiny_models.POOLED
ROPE = [4, 6, 6]  # adds up to a head's width


@dataclass(frozen=True)
class Tiny:
    """kind: the host's class. config: its network's. latent: (C, …) of what it draws. extra: what its text encoder
    gives besides tokens, by shape. hidden: how many of the last tokens each of its masks hides."""

    kind: str
    config: Callable[[], dict]
    latent: tuple[int, ...]
    extra: dict[str, tuple[int, ...]] = field(default_factory=dict)
    changes: dict = field(default_factory=dict)
    hidden: dict[str, int] = field(default_factory=dict)

    def known(self) -> bool:
        import comfy.supported_models

        return hasattr(comfy.supported_models, self.kind)

    def model(self):
        """A MODEL with gradients of a size that can be measured, unlike those of `tiny_models`."""
        import comfy.supported_models

        kind = getattr(comfy.supported_models, self.kind)
        model = tiny_models.patcher(type(self.kind, (kind,), dict(self.changes))(self.config()))
        draw_weights(model.model.diffusion_model)
        return model

    def conditioning(self, seed: int, tokens: int = TOKENS) -> list:
        generator = torch.Generator().manual_seed(seed)
        extra = {name: torch.randn(shape, generator=generator) for name, shape in self.extra.items()}
        for name, hidden in self.hidden.items():
            extra[name] = (torch.arange(tokens) < tokens - hidden).long()[None]
        return [[torch.randn(1, tokens, WIDTH, generator=generator), {"pooled_output": None} | extra]]


def draw_weights(network: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            tensor.copy_(noise * tensor[0].numel() ** -0.5)
        else:
            tensor.copy_(0.1 * noise + (not name.endswith("bias")))


def unet(**shape) -> Callable[[], dict]:
    return lambda: UNET | shape


def xl(**shape) -> Callable[[], dict]:
    embedding = {"num_classes": "sequential", "adm_in_channels": POOLED + 6 * 256}
    return unet(**embedding, use_linear_in_transformer=True, **shape)


def velocity(self, state_dict: dict, prefix: str = ""):
    """As SD2's class tells it from the weights of a real one."""
    from comfy.model_base import ModelType

    return ModelType.V_PREDICTION


def flux(params: str = "comfy.ldm.flux.model.FluxParams", **shape) -> dict:
    config = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": POOLED}
    config |= {"context_in_dim": WIDTH, "hidden_size": 32, "num_heads": 2, "depth": 1, "depth_single_blocks": 1}
    config |= {"mlp_ratio": 2.0, "axes_dim": ROPE, "theta": 10000, "qkv_bias": True, "guidance_embed": True}
    return only_known(params, config | {"txt_ids_dims": []} | shape)


def only_known(params: str, config: dict) -> dict:
    """Without what another version of the host has a parameter for."""
    import importlib

    module, _, name = params.rpartition(".")
    known = {each.name for each in fields(getattr(importlib.import_module(module), name))}
    return {key: value for key, value in config.items() if key in known or key == "image_model"}


def flux2() -> dict:
    shape = {"image_model": "flux2", "in_channels": 128, "out_channels": 128, "patch_size": 1, "vec_in_dim": None}
    shape |= {"axes_dim": [4, 4, 4, 4], "theta": 2000, "qkv_bias": False, "global_modulation": True}
    shape |= {"mlp_silu_act": True, "ops_bias": False, "default_ref_method": "index", "ref_index_scale": 10.0}
    return flux(**shape, txt_ids_dims=[3])


def chroma() -> dict:
    shape = {"image_model": "chroma", "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 32}
    return flux("comfy.ldm.chroma.model.ChromaParams", **shape, hidden_dim=16, n_layers=1)


def lumina(**shape) -> dict:
    config = {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 32, "cap_feat_dim": WIDTH}
    config |= {"n_layers": 1, "n_refiner_layers": 1, "qk_norm": True, "n_heads": 2, "n_kv_heads": 1, "multiple_of": 16}
    return config | {"axes_dims": ROPE, "axes_lens": [64, 32, 32], "ffn_dim_multiplier": 1.0} | shape


def z_image() -> dict:
    shape = {"n_kv_heads": 16, "rope_theta": 256.0, "z_image_modulation": True, "time_scale": 1000.0}
    return lumina(**shape, dim=256, n_heads=16, pad_tokens_multiple=8)  # its modulation has 256 hard-coded


def qwen_image() -> dict:
    config = {"image_model": "qwen_image", "in_channels": 64, "num_layers": 1, "attention_head_dim": 16}
    return config | {"num_attention_heads": 2, "joint_attention_dim": WIDTH, "axes_dims_rope": tuple(ROPE)}


def aura_flow() -> dict:
    config = {"in_channels": 4, "cond_seq_dim": WIDTH, "dim": 32, "global_conddim": 32, "max_seq": 64}
    return config | {"n_layers": 2, "n_double_layers": 1, "n_heads": 2}


def pixart(image_model: str) -> dict:
    config = {"image_model": image_model, "input_size": 8, "hidden_size": 48, "depth": 1, "num_heads": 2}
    config |= {"caption_channels": WIDTH, "model_max_length": TOKENS, "pe_interpolation": 1.0}
    return config | {"micro_condition": image_model == "pixart_alpha"}


def hidream() -> dict:
    config = {"image_model": "hidream", "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 1}
    config |= {"num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "text_emb_dim": POOLED}
    config |= {"caption_channels": [WIDTH, WIDTH], "num_routed_experts": 2, "num_activated_experts": 2}
    return config | {"axes_dims_rope": [8, 4, 4], "max_resolution": [16, 16], "llama_layers": [0, 1]}


def wan(**shape) -> dict:
    config = {"image_model": "wan2.1", "model_type": "t2v", "in_dim": 16, "out_dim": 16, "dim": 32, "ffn_dim": 32}
    return config | {"freq_dim": 16, "text_dim": WIDTH, "num_heads": 2, "num_layers": 1} | shape


def hunyuan(**shape) -> dict:
    config = {"image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16, "vec_in_dim": POOLED}
    config |= {"context_in_dim": WIDTH, "hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1}
    config |= {"depth_single_blocks": 1, "axes_dim": ROPE, "theta": 256, "patch_size": [1, 2, 2], "qkv_bias": True}
    config |= {"guidance_embed": True, "byt5": False, "meanflow": False, "meanflow_sum": False}
    config |= {"use_cond_type_embedding": False, "vision_in_dim": None}
    return only_known("comfy.ldm.hunyuan_video.model.HunyuanVideoParams", config | shape)


def hunyuan_image() -> dict:
    shape = {"in_channels": 64, "out_channels": 64, "vec_in_dim": None, "patch_size": [1, 1], "axes_dim": [8, 8]}
    return hunyuan(**shape, guidance_embed=False)


def hunyuan_video_15() -> dict:
    """In: the noise, a first picture's place and a mask, of which those of a video from text are empty."""
    shape = {"in_channels": 65, "out_channels": 32, "vec_in_dim": None, "patch_size": [1, 1, 1]}
    return hunyuan(**shape, guidance_embed=False, use_cond_type_embedding=True, vision_in_dim=8)


def hunyuan_dit() -> dict:
    config = {"image_model": "hydit", "input_size": 8, "hidden_size": 32, "depth": 4, "num_heads": 2}
    config |= {"text_states_dim": WIDTH, "text_states_dim_t5": WIDTH, "text_len": TOKENS, "text_len_t5": TOKENS}
    return config


def ltx_video() -> dict:
    config = {"image_model": "ltxv", "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    return config | {"cross_attention_dim": 32, "caption_channels": WIDTH}


def mochi() -> dict:
    config = {"image_model": "mochi_preview", "in_channels": 12, "hidden_size_x": 32, "hidden_size_y": 16, "depth": 2}
    config |= {"num_heads": 2, "mlp_ratio_x": 1536 * 8 / 32, "mlp_ratio_y": 2.0, "learn_sigma": False}
    config |= {"qk_norm": True, "qkv_bias": False, "out_bias": True, "attn_drop": 0.0, "posenc_preserve_area": True}
    config |= {"timestep_scale": 1000.0, "use_t5": True, "t5_feat_dim": WIDTH, "t5_token_length": TOKENS}
    return config


def omnigen2() -> dict:
    config = {"image_model": "omnigen2", "hidden_size": 32, "num_layers": 1, "num_refiner_layers": 1}
    config |= {"num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 16, "axes_dim_rope": ROPE}
    return config | {"axes_lens": [64, 32, 32], "text_feat_dim": WIDTH, "timestep_scale": 1000.0}


def kandinsky(**shape) -> dict:
    config = {"image_model": "kandinsky5", "in_text_dim": WIDTH, "in_text_dim2": POOLED, "time_dim": 16}
    config |= {"model_dim": 32, "ff_dim": 32, "num_text_blocks": 1, "num_visual_blocks": 1, "axes_dims": ROPE}
    return config | shape


POOLED_TEXT = {"pooled_output": (1, POOLED)}
TWO_HEADS = {"unet_extra_config": {"num_heads": 2, "num_head_channels": -1}}
HEADS_OF_16 = {"unet_extra_config": {"num_heads": -1, "num_head_channels": 16}}
OF_VELOCITY = HEADS_OF_16 | {"model_type": velocity}
XL = {"latent": (4, 8, 8), "extra": POOLED_TEXT, "changes": HEADS_OF_16}
SSD_1B = {"transformer_depth": [0, 1], "transformer_depth_output": [0, 0, 1, 2], "transformer_depth_middle": -1}
VEGA = {"transformer_depth": [0, 1], "transformer_depth_output": [0, 0, 1, 1], "transformer_depth_middle": -1}
KOALA = {"transformer_depth": [0, 2], "transformer_depth_output": [0, 0, 2, 2]}

FAMILIES = {
    "SD1.5": Tiny("SD15", unet(), (4, 8, 8), changes=TWO_HEADS),
    "SD2": Tiny(
        "SD20", unet(use_linear_in_transformer=True), (4, 8, 8), changes=HEADS_OF_16 | {"model_type": velocity}
    ),
    "SDXL": Tiny("SDXL", xl(), **XL),
    "SSD-1B": Tiny("SSD1B", xl(**SSD_1B), **XL),
    "Segmind Vega": Tiny("Segmind_Vega", xl(**VEGA), **XL),
    "KOALA 700M": Tiny("KOALA_700M", xl(**KOALA, transformer_depth_middle=-2), **XL),
    "KOALA 1B": Tiny("KOALA_1B", xl(**KOALA, transformer_depth_middle=2), **XL),
    "SD3": Tiny("SD3", tiny_models.sd3_config, (16, 8, 8), POOLED_TEXT),
    "FLUX.1": Tiny("Flux", flux, (16, 8, 8), POOLED_TEXT),
    "FLUX.1 schnell": Tiny("FluxSchnell", partial(flux, guidance_embed=False), (16, 8, 8), POOLED_TEXT),
    "FLUX.2": Tiny("Flux2", flux2, (128, 4, 4)),
    "Chroma": Tiny("Chroma", chroma, (16, 8, 8)),
    "Lumina 2": Tiny("Lumina2", lumina, (16, 8, 8)),
    "Z-Image": Tiny("ZImage", z_image, (16, 8, 8)),
    "Qwen-Image": Tiny("QwenImage", qwen_image, (16, 1, 8, 8)),
    "AuraFlow": Tiny("AuraFlow", aura_flow, (4, 8, 8)),
    "PixArt alpha": Tiny("PixArtAlpha", partial(pixart, "pixart_alpha"), (4, 4, 64)),
    "PixArt sigma": Tiny("PixArtSigma", partial(pixart, "pixart_sigma"), (4, 4, 64)),
    "HiDream": Tiny("HiDream", hidream, (16, 8, 8), POOLED_TEXT | {"conditioning_llama3": (1, 2, TOKENS, WIDTH)}),
    "Kandinsky 5": Tiny("Kandinsky5", partial(kandinsky, visual_embed_dim=132), (16, 2, 4, 4), POOLED_TEXT),
    "Kandinsky 5 Image": Tiny("Kandinsky5Image", partial(kandinsky, visual_embed_dim=64), (16, 4, 4), POOLED_TEXT),
    "HunyuanVideo": Tiny("HunyuanVideo", hunyuan, (16, 2, 4, 4), POOLED_TEXT),
    "HunyuanVideo 1.5": Tiny("HunyuanVideo15", hunyuan_video_15, (32, 2, 4, 4)),
    "HunyuanImage 2.1": Tiny("HunyuanImage21", hunyuan_image, (64, 4, 4)),
    "Hunyuan-DiT": Tiny(
        "HunyuanDiT",
        hunyuan_dit,
        (4, 8, 8),
        {"conditioning_mt5xl": (1, TOKENS, WIDTH)},
        hidden={"attention_mask": 1, "attention_mask_mt5xl": 2},
    ),
    "LTX-Video": Tiny("LTXV", ltx_video, (128, 2, 4, 4), hidden={"attention_mask": 1}),
    "Mochi": Tiny("GenmoMochi", mochi, (12, 2, 4, 4), hidden={"attention_mask": 2}),
    "OmniGen2": Tiny("Omnigen2", omnigen2, (16, 8, 8), hidden={"attention_mask": 0}),
    "Wan 2.1": Tiny("WAN21_T2V", wan, (16, 2, 4, 4)),
    "Wan 2.2 5B": Tiny("WAN22_T2V", partial(wan, in_dim=48, out_dim=48), (48, 2, 4, 4)),
}
