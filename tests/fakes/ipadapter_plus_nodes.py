"""Stands in for the two nodes of IPAdapter_plus (cubiq/ComfyUI_IPAdapter_plus) that a workflow of ours uses.

Of the real ones they have the names, inputs and outputs, so that the workflow can be written and opened without the
pack. They do not run. The weight types are only those that the guide names.
"""

import folder_paths

PERCENT = {"min": 0.0, "max": 1.0, "step": 0.001}


class IPAdapterModelLoader:
    CATEGORY = "tests"
    RETURN_TYPES = ("IPADAPTER",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802  (ComfyUI's name)
        return {"required": {"ipadapter_file": (folder_paths.get_filename_list("ipadapter"),)}}


class IPAdapterAdvanced:
    CATEGORY = "tests"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802  (ComfyUI's name)
        return {
            "required": {
                "model": ("MODEL",),
                "ipadapter": ("IPADAPTER",),
                "image": ("IMAGE",),
                "weight": ("FLOAT", {"default": 1.0, "min": -1, "max": 5, "step": 0.05}),
                "weight_type": (["linear", "style transfer", "strong style transfer", "style transfer precise"],),
                "combine_embeds": (["concat", "add", "subtract", "average", "norm average"],),
                "start_at": ("FLOAT", PERCENT | {"default": 0.0}),
                "end_at": ("FLOAT", PERCENT | {"default": 1.0}),
                "embeds_scaling": (["V only", "K+V", "K+V w/ C penalty", "K+mean(V) w/ C penalty"],),
            },
            "optional": {"image_negative": ("IMAGE",), "attn_mask": ("MASK",), "clip_vision": ("CLIP_VISION",)},
        }


NODE_CLASS_MAPPINGS = {"IPAdapterModelLoader": IPAdapterModelLoader, "IPAdapterAdvanced": IPAdapterAdvanced}
