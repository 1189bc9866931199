"""ComfyUI's own model classes at their full size, with random weights: speed and memory do not depend on the values.

Also SD1.5 at middle size, the same blocks with fewer channels, for what takes too much memory at full size.
"""

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
SD15_PARAMETERS = 860_000_000
# 128 channels in place of 320, and a text as narrow; 0.14 in place of 0.86 billion weights.
MIDDLE_UNET = SD15_UNET | {"model_channels": 128, "context_dim": 256}
SDXL_UNET = SD15_UNET | {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
SDXL_POOLED = 1280
SDXL_PARAMETERS = 2_570_000_000
# As above; 0.41 in place of 2.57 billion weights.
MIDDLE_SDXL_UNET = SDXL_UNET | {"model_channels": 128, "context_dim": 768}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
# At 512 px, encoding a prompt is 2 % of the arithmetic of SD1.5's forward. So it is here, at 128 px.
MIDDLE_CLIP = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "num_hidden_layers": 2}


def sd15(unet: dict = SD15_UNET):
    """A MODEL of Stable Diffusion 1.5, in the precision that the host picks for this device."""
    from comfy.supported_models import SD15

    return _with_random_weights(SD15(unet), SD15_PARAMETERS)


def sdxl(unet: dict = SDXL_UNET):
    """A MODEL of Stable Diffusion XL, likewise."""
    from comfy.supported_models import SDXL

    return _with_random_weights(SDXL(unet), SDXL_PARAMETERS)


def _with_random_weights(description, parameters: int):
    import comfy.model_management as host
    import comfy.model_patcher

    device = host.get_torch_device()
    description.set_inference_dtype(host.unet_dtype(model_params=parameters), None)
    model = description.get_model({}, "", device=device)
    for weight in model.diffusion_model.state_dict().values():
        weight.normal_(std=0.02)
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=host.unet_offload_device())


def sd15_conditioning() -> list:
    """A CONDITIONING as SD1.5's text encoder gives it: 77 tokens of 768 numbers."""
    return conditioning_for(SD15_UNET)


def conditioning_for(unet: dict) -> list:
    """A CONDITIONING of 77 tokens as a UNet takes it, with SDXL's pooled output for those that do."""
    pooled = {"pooled_output": torch.randn(1, SDXL_POOLED)} if unet["adm_in_channels"] else {}
    return [[torch.randn(1, SD15_TOKENS, unet["context_dim"]), pooled]]


def sd15_clip(size: dict = CLIP_L):
    """A CLIP of Stable Diffusion 1.5, with the host's own tokenizer."""
    from comfy.sd import CLIP
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
    from comfy.supported_models_base import ClipTarget

    config = size | {"projection_dim": size["hidden_size"]}
    clip = CLIP(ClipTarget(SD1Tokenizer, SD1ClipModel), model_options={"clip_l_model_config": config})
    for weight in clip.cond_stage_model.state_dict().values():
        weight.normal_(std=0.02)
    return clip
