"""ComfyUI's own SD1.5, SDXL, SD3 and Flux classes, small and with random weights: a test can't have real ones."""

import torch

UNET = {
    "use_checkpoint": False,
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "adm_in_channels": None,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": False,
    "context_dim": 16,
    "use_temporal_resblock": False,
    "use_temporal_attention": False,
}
POOLED = 8


def patcher(description):
    """A MODEL of the given model description, its weights drawn small enough for finite outputs."""
    import comfy.model_management
    import comfy.model_patcher

    description.set_inference_dtype(torch.float32, None)
    model = description.get_model({}, "", device=torch.device("cpu"))
    generator = torch.manual_seed(0)
    for tensor in model.diffusion_model.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.05)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def sd15(**shape):
    """shape: what of UNET is otherwise."""
    from comfy.supported_models import SD15

    class Tiny(SD15):
        unet_extra_config = {"num_heads": 2, "num_head_channels": -1}

    return patcher(Tiny(UNET | shape))


def sdxl(**shape):
    """shape: what of UNET is otherwise."""
    from comfy.supported_models import SDXL

    class Tiny(SDXL):
        unet_extra_config = {"num_heads": -1, "num_head_channels": 16}

    config = UNET | {"num_classes": "sequential", "adm_in_channels": POOLED + 6 * 256}
    return patcher(Tiny(config | {"use_linear_in_transformer": True} | shape))


def sd3_config() -> dict:
    embedder = {"target": "torch.nn.Linear", "params": {"in_features": 16, "out_features": 128}}
    config = {"in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 2, "num_blocks": 2, "input_size": None}
    config |= {"adm_in_channels": POOLED, "context_embedder_config": embedder, "num_patches": 64}
    config |= {"pos_embed_max_size": 8, "pos_embed_scaling_factor": None, "qk_norm": "rms"}
    return config | {"x_block_self_attn_layers": []}


def sd3():
    from comfy.supported_models import SD3

    return patcher(SD3(sd3_config()))


def flux():
    import inspect

    from comfy.ldm.flux.model import FluxParams
    from comfy.supported_models import Flux

    config = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": POOLED}
    config |= {"context_in_dim": 16, "hidden_size": 32, "num_heads": 2, "depth": 1, "depth_single_blocks": 1}
    config |= {"mlp_ratio": 2.0, "axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True, "guidance_embed": True}
    if "txt_ids_dims" in inspect.signature(FluxParams).parameters:  # newer versions want it, 0.3.75 refuses it
        config["txt_ids_dims"] = []
    return patcher(Flux(config))


def conditioning(seed: int) -> list:
    """A CONDITIONING of 5 tokens that all four take."""
    generator = torch.manual_seed(seed)
    pooled = torch.randn(1, POOLED, generator=generator)
    return [[torch.randn(1, 5, 16, generator=generator), {"pooled_output": pooled}]]


def with_sd15_layout():
    """SD1.5 with all of its 16 cross-attention blocks, a tenth as wide."""
    layout = {"num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "transformer_depth": [1] * 6 + [0, 0]}
    return sd15(**layout, transformer_depth_output=[1] * 9 + [0] * 3)


def with_sdxl_layout():
    """SDXL with all of its 11 cross-attention blocks and their 70 layers, a tenth as wide."""
    layout = {"num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10]}
    return sdxl(**layout, transformer_depth_middle=10, transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10])
