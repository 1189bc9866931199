"""ComfyUI's own model classes at their full size, with random weights: speed and memory do not depend on the values."""

import torch

SD15_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_checkpoint": False,
    "use_temporal_resblock": False,
    "use_temporal_attention": False,
    "adm_in_channels": None,
    "legacy": False,
}
SD15_TOKENS = 77


def sd15():
    """A MODEL of Stable Diffusion 1.5, in the precision that the host picks for this device."""
    import comfy.model_management as host
    import comfy.model_patcher
    from comfy.supported_models import SD15

    description = SD15(SD15_UNET)
    device = host.get_torch_device()
    description.set_inference_dtype(host.unet_dtype(model_params=860_000_000), None)
    model = description.get_model({}, "", device=device)
    for weight in model.diffusion_model.state_dict().values():
        weight.normal_(std=0.02)
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=host.unet_offload_device())


def sd15_conditioning() -> list:
    """A CONDITIONING as SD1.5's text encoder gives it: 77 tokens of 768 numbers."""
    return [[torch.randn(1, SD15_TOKENS, SD15_UNET["context_dim"]), {}]]
