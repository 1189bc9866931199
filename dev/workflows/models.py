"""The files that users have to get, from the pages of those who made them or of ComfyUI's makers."""

from .sheet import Model

HUB = "https://huggingface.co"


def _checkpoint(repository: str, file: str) -> Model:
    return Model(file, "checkpoints", f"{HUB}/{repository}/resolve/main/{file}")


SDXL = _checkpoint("stabilityai/stable-diffusion-xl-base-1.0", "sd_xl_base_1.0.safetensors")
SD15 = _checkpoint("Comfy-Org/stable-diffusion-v1-5-archive", "v1-5-pruned-emaonly-fp16.safetensors")
FLUX = _checkpoint("Comfy-Org/flux1-dev", "flux1-dev-fp8.safetensors")
_ADAPTERS = f"{HUB}/h94/IP-Adapter/resolve/main/sdxl_models"
SDXL_ADAPTER = Model("ip-adapter_sdxl.safetensors", "ipadapter", f"{_ADAPTERS}/ip-adapter_sdxl.safetensors")
SDXL_VISION = Model(
    "CLIP-ViT-bigG-14-laion2B-39B-b160k.safetensors", "clip_vision", f"{_ADAPTERS}/image_encoder/model.safetensors"
)
_STYLESHOT = f"{HUB}/Gaojunyao/StyleShot/resolve/main/pretrained_weight"
STYLESHOT = Model("ip.bin", "ipadapter", f"{_STYLESHOT}/ip.bin")
STYLESHOT_ENCODER = Model("style_aware_encoder.bin", "ipadapter", f"{_STYLESHOT}/style_aware_encoder.bin")
REDUX = Model(
    "flux1-redux-dev.safetensors",
    "style_models",
    f"{HUB}/Comfy-Org/Flux1-Redux-Dev/resolve/main/flux1-redux-dev.safetensors",
)
REDUX_VISION = Model(
    "sigclip_vision_patch14_384.safetensors",
    "clip_vision",
    f"{HUB}/Comfy-Org/sigclip_vision_384/resolve/main/sigclip_vision_patch14_384.safetensors",
)


def listed(*models: Model) -> str:
    """Where to get them and where to put them, a line each."""
    return "".join(f"- {_link(model)} in **models/{model.directory}**\n" for model in models)


def _link(model: Model) -> str:
    same = model.url.endswith(f"/{model.name}")
    return f"[{model.name}]({model.url})" if same else f"[this file]({model.url}), called **{model.name}**,"
