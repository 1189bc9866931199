"""diffusers' own networks, tiny and with random weights, and the same network as ComfyUI's class, which is its base."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tiny_models
import torch
from torch import Tensor, nn

CONTEXT, POOLED = 16, tiny_models.POOLED
# As SD1.5 and SD2.1 are, of two levels in place of four, and one block in place of two in each.
UNET = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": CONTEXT,
    "attention_head_dim": 2,
}
LAYOUT = {"transformer_depth": [1, 0], "transformer_depth_output": [1, 1, 0, 0]}


@dataclass(frozen=True)
class Pair:
    """network: diffusers'. base: a MODEL of ComfyUI with other weights. ours, theirs: what each predicts for one input.

    ours: of a diffusion model.
    """

    network: nn.Module
    base: Any
    ours: Callable[[nn.Module], Tensor]
    theirs: Callable[[], Tensor]


def sd15() -> Pair:
    from diffusers import UNet2DConditionModel

    return _unet(UNet2DConditionModel(**UNET), tiny_models.sd15(**LAYOUT))


def sd21() -> Pair:
    """Linear projections, heads of one size."""
    from comfy.supported_models import SD20
    from diffusers import UNet2DConditionModel

    class Tiny(SD20):
        unet_extra_config = {"num_heads": -1, "num_head_channels": 16}

    config = tiny_models.UNET | LAYOUT | {"use_linear_in_transformer": True}
    network = UNet2DConditionModel(**UNET | {"attention_head_dim": (2, 4)}, use_linear_projection=True)
    return _unet(network, tiny_models.patcher(Tiny(config)))


def sdxl() -> Pair:
    """Of two levels, without attention in the first, and with sizes as further conditions."""
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=CONTEXT,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=POOLED + 6 * 256,
    )
    depths = {"transformer_depth": [0, 2], "transformer_depth_output": [0, 0, 2, 2], "transformer_depth_middle": 2}
    pooled, sizes = _draw(1, POOLED), torch.tensor([[64.0, 48, 0, 8, 64, 64]])
    y = torch.cat([pooled, network.add_time_proj(sizes.flatten()).reshape(1, -1)], dim=1)
    given = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
    return _unet(network, tiny_models.sdxl(**depths), given, {"y": y})


def sd3(**more: Any) -> Pair:
    """more: of diffusers' settings; with dual_attention_layers it is as SD3.5-medium."""
    from comfy.supported_models import SD3
    from diffusers import SD3Transformer2DModel

    network = SD3Transformer2DModel(
        **{
            **{"sample_size": 8, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 2},
            **{"attention_head_dim": 64, "num_attention_heads": 2, "caption_projection_dim": 128},
            **{"joint_attention_dim": CONTEXT, "pooled_projection_dim": POOLED, "pos_embed_max_size": 8},
            **{"qk_norm": "rms_norm"},
            **more,
        }
    )
    base = tiny_models.sd3()
    if dual := list(more.get("dual_attention_layers", ())):
        base = tiny_models.patcher(SD3(base.model.model_config.unet_config | {"x_block_self_attn_layers": dual}))
    # The table of places, which is a buffer and never trained: ComfyUI's patches leave it as it is in the base.
    base.model.diffusion_model.pos_embed.copy_(network.pos_embed.pos_embed)
    _fill(network)
    x, context, pooled = _draw(1, 16, 8, 8), _draw(1, 5, CONTEXT), _draw(1, POOLED)
    time = torch.tensor([400.0])
    return Pair(
        network,
        base,
        lambda dm: dm(x, time, context=context, y=pooled),
        lambda: network(x, encoder_hidden_states=context, pooled_projections=pooled, timestep=time).sample,
    )


def flux() -> Pair:
    from comfy.supported_models import Flux
    from diffusers import FluxTransformer2DModel

    config = tiny_models.flux().model.model_config.unet_config | {"mlp_ratio": 4.0}
    base = tiny_models.patcher(Flux(config))
    network = FluxTransformer2DModel(
        **{"patch_size": 1, "in_channels": 64, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16},
        **{"num_attention_heads": 2, "joint_attention_dim": CONTEXT, "pooled_projection_dim": POOLED},
        **{"guidance_embeds": True, "axes_dims_rope": (4, 6, 6)},
    )
    _fill(network)
    x, context, pooled = _draw(1, 16, 8, 8), _draw(1, 5, CONTEXT), _draw(1, POOLED)
    time, guidance = torch.tensor([0.4]), torch.tensor([3.5])
    places = torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0))

    def theirs() -> Tensor:
        packed = x.reshape(1, 16, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 16, 64)
        out = network(
            packed,
            encoder_hidden_states=context,
            pooled_projections=pooled,
            timestep=time,
            guidance=guidance,
            img_ids=places,
            txt_ids=torch.zeros(5, 3),
        ).sample
        return out.reshape(1, 4, 4, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)

    return Pair(network, base, lambda dm: dm(x, time, context, y=pooled, guidance=guidance), theirs)


def pixart() -> Pair:
    """Sigma's: of its two outputs ComfyUI's class leaves out the second."""
    from comfy.supported_models import PixArtSigma
    from diffusers import PixArtTransformer2DModel

    network = PixArtTransformer2DModel(
        **{"num_attention_heads": 2, "attention_head_dim": 24, "num_layers": 2, "cross_attention_dim": 48},
        **{"sample_size": 64, "caption_channels": CONTEXT, "use_additional_conditions": False},
        interpolation_scale=1,
    )
    config = {"image_model": "pixart_sigma", "input_size": 64, "hidden_size": 48, "depth": 2, "num_heads": 2}
    config |= {"caption_channels": CONTEXT, "model_max_length": 5, "pe_interpolation": 1.0, "micro_condition": False}
    _fill(network)
    x, context, time = _draw(1, 4, 64, 64), _draw(1, 5, CONTEXT), torch.tensor([400.0])
    return Pair(
        network,
        tiny_models.patcher(PixArtSigma(config)),
        lambda dm: dm(x, time, context=context),
        lambda: network(x, encoder_hidden_states=context, timestep=time).sample[:, :4],
    )


def aura_flow() -> Pair:
    from comfy.supported_models import AuraFlow
    from diffusers import AuraFlowTransformer2DModel

    network = AuraFlowTransformer2DModel(
        **{"sample_size": 8, "num_mmdit_layers": 1, "num_single_dit_layers": 1, "attention_head_dim": 16},
        **{"num_attention_heads": 2, "joint_attention_dim": CONTEXT, "caption_projection_dim": 32},
        pos_embed_max_size=64,
    )
    config = {"in_channels": 4, "cond_seq_dim": CONTEXT, "dim": 32, "global_conddim": 32, "max_seq": 64}
    config |= {"n_layers": 2, "n_double_layers": 1, "n_heads": 2}
    _fill(network)
    x, context, time = _draw(1, 4, 16, 16), _draw(1, 5, CONTEXT), torch.tensor([0.4])
    return Pair(
        network,
        tiny_models.patcher(AuraFlow(config)),
        lambda dm: dm(x, time, context),
        lambda: network(x, encoder_hidden_states=context, timestep=time).sample,
    )


def z_image() -> Pair:
    """diffusers tells it 1 - t, and has the velocity the other way round."""
    from comfy.supported_models import ZImage
    from diffusers import ZImageTransformer2DModel
    from diffusers.models.transformers.transformer_z_image import TimestepEmbedder

    network = ZImageTransformer2DModel(
        **{"dim": 256, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 16, "n_kv_heads": 16},
        **{"cap_feat_dim": CONTEXT, "axes_dims": [4, 6, 6], "axes_lens": [64, 32, 32]},
    )
    network.t_embedder = TimestepEmbedder(256, mid_size=256)  # as narrow as its tokens are, as ComfyUI has it
    config = {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 256, "cap_feat_dim": CONTEXT}
    config |= {"n_layers": 1, "n_refiner_layers": 1, "qk_norm": True, "n_heads": 16, "n_kv_heads": 16}
    config |= {"axes_dims": [4, 6, 6], "axes_lens": [64, 32, 32], "ffn_dim_multiplier": 8 / 3, "rope_theta": 256.0}
    config |= {"multiple_of": 1, "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32}
    _fill(network)
    x, context, time = _draw(1, 16, 8, 8), _draw(1, 5, CONTEXT), torch.tensor([0.4])
    return Pair(
        network,
        tiny_models.patcher(ZImage(config)),
        lambda dm: dm(x, time, context, num_tokens=5),
        lambda: -network([x[0][:, None]], 1 - time, [context[0]]).sample[0].transpose(0, 1),
    )


def _unet(network: nn.Module, base: Any, given: dict | None = None, ours: dict | None = None) -> Pair:
    _fill(network)
    x, context, time = _draw(1, 4, 16, 16), _draw(1, 5, CONTEXT), torch.tensor([400.0])
    return Pair(
        network,
        base,
        lambda dm: dm(x, time, context=context, **(ours or {})),
        lambda: network(x, time, encoder_hidden_states=context, **(given or {})).sample,
    )


def _fill(network: nn.Module) -> None:
    """Weights that all matter: diffusers begins with zeros and ones in many."""
    generator = torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1 + ("norm" in name and tensor.ndim == 1))
    network.eval()


def _draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.manual_seed(sum(shape)))


FAMILIES = {
    "sd15": sd15,
    "sd21": sd21,
    "sdxl": sdxl,
    "sd3": sd3,
    "sd35-medium": lambda: sd3(dual_attention_layers=(0,)),
    "flux": flux,
    "pixart": pixart,
    "auraflow": aura_flow,
    "z-image": z_image,
}
