"""IP-Adapter and StyleShot on a MODEL: a small loader, and an image prompt that CleanStyle can purify."""

from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..host.families import family_of
from ..host.node import Node
from ..host.search import found_by
from ..host.unet_layers import ALL, BLOCKS, LISTED, Layer, chosen_layers, cross_attention_layers
from .attention import attn2_replacements, put_attention, with_branch
from .inputs import masks, pictures
from .ip_adapter_branch import AdapterBranch, ImageTokens, Mask
from .ip_adapter_files import DEMO, FOLDER, Adapter, load_adapter, offered, path_of, register_folder
from .ip_adapter_networks import HIDDEN, POOLED, STYLE
from .styleshot import prepared

IPAdapterType = io.Custom("CLEANSTYLE_IPADAPTER")
NO_ENCODER = "none"
AVERAGE, CONCAT, EACH = "average", "concat", "one image for each picture"
# Which CLIP vision has which width: (what is said of it, of its pooled output, of its hidden layers).
ENCODERS = [
    ("ViT-L", 768, 1024),
    ("ViT-H", 1024, 1280),
    ("ViT-bigG", 1280, 1664),
    ("the one of SiD Demo Model", 128, 160),
]

register_folder()


def image_tokens(
    adapter: Adapter, clip_vision: Any, images: Tensor, negative: Tensor | None, combine: str
) -> ImageTokens:
    """The image tokens of IMAGEs (R, H, W, 3), and of what stands against them where there is guidance.

    negative: IMAGEs, one or as many as images; None for what the adapters were trained with. combine: AVERAGE (of the
    embeddings, before the projection to tokens), CONCAT or EACH. Raises ValueError for a CLIP vision that does not fit,
    for embeddings that are not finite, and where negative has another number.
    """
    cond = _embeds(adapter, clip_vision, images)
    if negative is not None:
        uncond = _embeds(adapter, clip_vision, negative)
    elif adapter.network.projection.takes == HIDDEN:
        uncond = _nothing_seen(clip_vision)
    else:
        uncond = torch.zeros_like(cond[:1])
    if combine == AVERAGE:
        cond, uncond = cond.mean(0, keepdim=True), uncond.mean(0, keepdim=True)
    if len(uncond) not in (1, len(cond)):
        raise ValueError(
            f"Connect one negative_image for all, or as many as images, or set combine to {AVERAGE}: there are "
            f"{len(uncond)} negative images for {len(cond)} images."
        )
    cond, uncond = (_projected(adapter, embeds) for embeds in (cond, uncond))
    return ImageTokens(cond, uncond.expand(len(cond), -1, -1), each_its_own=combine == EACH)


def _embeds(adapter: Adapter, clip_vision: Any, images: Tensor) -> Tensor:
    takes, features = adapter.network.projection.takes, adapter.network.projection.features
    if takes == STYLE:
        comfy.model_management.load_models_gpu([adapter.style_encoder])
        embeds = adapter.style_encoder.model(prepared(images).to(adapter.style_encoder.load_device))
    elif clip_vision is None:
        raise ValueError(
            f"Connect Load CLIP Vision to clip_vision: {adapter.name} needs one{_of_width(takes, features)}."
        )
    else:
        seen = clip_vision.encode_image(images)
        embeds = seen.image_embeds if takes == POOLED else seen.penultimate_hidden_states
    if embeds.shape[-1] != features:
        raise ValueError(
            f"Load another CLIP vision, or the adapter that was made for this one: {adapter.name} was made for one of "
            f"width {features}{_of_width(takes, features)}, and the connected one gives {embeds.shape[-1]}"
            f"{_of_width(takes, embeds.shape[-1])}."
        )
    if not embeds.isfinite().all():
        raise ValueError(
            "Download the file of the CLIP vision again, or start ComfyUI with --fp32-text-enc: the embeddings of the "
            f"image for {adapter.name} have NaN or infinite values, so every picture would be black."
        )
    return embeds


def _of_width(takes: str, width: int) -> str:
    named = [name for name, pooled, hidden in ENCODERS if width == (hidden if takes == HIDDEN else pooled)]
    return f" ({named[0]})" if named else ""


def _nothing_seen(clip_vision: Any) -> Tensor:
    """CLIP vision's last but one layer for pixels that are zero once normalized: what stands for no image in training.

    By its network, as encode_image takes pictures, whose values it rounds to 8 bits.
    """
    comfy.model_management.load_models_gpu([clip_vision.patcher])
    side = clip_vision.image_size
    pixels = torch.zeros(1, 3, side, side, device=clip_vision.load_device)
    return clip_vision.model(pixel_values=pixels, intermediate_output=-2)[1]


def _projected(adapter: Adapter, embeds: Tensor) -> Tensor:
    comfy.model_management.load_models_gpu([adapter.weights])
    tokens = adapter.network.projection(embeds.to(adapter.weights.load_device, torch.float32))
    if not tokens.isfinite().all():
        raise ValueError(f"Download {adapter.name} again: it is damaged, and makes NaN of finite embeddings.")
    return tokens.to(comfy.model_management.intermediate_device())


def matching_layers(model: ModelPatcher, adapter: Adapter) -> list[Layer]:
    """The MODEL's cross-attention layers, one for each of the file's. Raises ValueError where they are not the same."""
    layers = cross_attention_layers(model)
    if not layers:
        raise ValueError(
            f"Connect a MODEL of SD1.5 or SDXL, for which {adapter.name} is: this one is {family_of(model).name}, "
            "which has no cross-attention for it."
        )
    network = adapter.network
    ours, theirs = (network.widths, network.projection.width), ([layer.width for layer in layers], layers[0].context)
    if ours != theirs:
        raise ValueError(
            f"Choose an adapter for this MODEL, or the MODEL for this adapter: {adapter.name} is for "
            f"{_described(*ours)}, and the MODEL ({family_of(model).name}) has {_described(*theirs)}."
        )
    return layers


def _described(widths: list[int], context: int) -> str:
    kind = {768: ", as SD1.5", 2048: ", as SDXL"}.get(context, "")
    return f"{len(widths)} layers with text of {context} channels{kind}"


def apply_adapter(
    model: ModelPatcher,
    adapter: Adapter,
    tokens: ImageTokens,
    layers: list[tuple[int, Layer]],
    **settings: Any,
) -> ModelPatcher:
    """A clone of the MODEL with one more image prompt in `layers`, each with its number among the file's.

    settings: those of AdapterBranch. What replaced a cross-attention before stays below.
    """
    clone = model.clone()
    there = attn2_replacements(clone)
    attentions = {}
    for number, layer in layers:
        # ComfyUI looks for a replacement of the layer first, and where there is none for one of the whole block.
        of_layer = (*layer.block, layer.depth)
        key = of_layer if of_layer in there else layer.key
        below = there.get(key, there.get(layer.block))
        attentions[key] = with_branch(below, AdapterBranch(adapter.weights, number, tokens, **settings))
    put_attention(clone, attentions)
    return clone


class CleanStyleIPAdapterLoader(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CleanStyleIPAdapterLoader",
            **found_by("style transfer", "load ipadapter", "instantstyle", "styleshot", "image prompt"),
            display_name="CleanStyle IP-Adapter Loader",
            category="CleanStyle",
            description="Loads an IP-Adapter for SD1.5 or SDXL (base, plus, plus-face, full-face, with ViT-H or "
            "ViT-G), StyleShot, or the demo's own.",
            inputs=[
                io.Combo.Input(
                    "ip_adapter",
                    options=offered(),
                    tooltip="A .safetensors or .bin file in models/ipadapter. Press R to refresh the list. FaceID "
                    f"files are not supported. '{DEMO}': the one for SiD Demo Model.",
                ),
                io.Combo.Input(
                    "style_encoder",
                    options=[NO_ENCODER, *folder_paths.get_filename_list(FOLDER)],
                    default=NO_ENCODER,
                    tooltip="For StyleShot alone: its style_aware_encoder.bin, beside its ip.bin in models/ipadapter.",
                    optional=True,
                ),
            ],
            outputs=[IPAdapterType.Output(display_name="ip_adapter")],
        )

    @classmethod
    def fingerprint_inputs(cls, ip_adapter, style_encoder=NO_ENCODER):
        paths = (name and path_of(name) for name in (ip_adapter, style_encoder))
        return [path and path.stat().st_mtime_ns for path in paths]

    @classmethod
    def validate_inputs(cls, ip_adapter):
        """In place of the host's own check, which does not say where to put one. A connected input is not known yet.

        Of style_encoder the host's will do: it would show what is said here once for each input that is named.
        """
        if ip_adapter is None or path_of(ip_adapter):
            return True
        asked = f"there is no file {ip_adapter!r}" if ip_adapter else "no file is chosen"
        where = " or ".join(folder_paths.get_folder_paths(FOLDER))
        return f"Put an IP-Adapter into {where}, press R in the browser, and choose it: {asked}."

    @classmethod
    def execute(cls, ip_adapter, style_encoder=NO_ENCODER):
        path = path_of(ip_adapter) or Path(folder_paths.get_full_path_or_raise(FOLDER, ip_adapter))
        encoder = None if style_encoder == NO_ENCODER else folder_paths.get_full_path_or_raise(FOLDER, style_encoder)
        return io.NodeOutput(load_adapter(path, encoder and Path(encoder)))


class CleanStyleIPAdapter(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CleanStyleIPAdapter",
            **found_by(
                "style transfer", "apply ipadapter", "instantstyle", "styleshot", "image prompt", "style reference"
            ),
            display_name="CleanStyle IP-Adapter",
            category="CleanStyle",
            description="Puts an image prompt onto a MODEL: pictures follow the images as well as the prompt. Connect "
            "CleanStyle after it to take only the style.",
            inputs=[
                io.Model.Input("model", tooltip="SD1.5 or SDXL, also with image prompts on it already."),
                IPAdapterType.Input("ip_adapter", tooltip="From CleanStyle IP-Adapter Loader, made for this MODEL."),
                io.Image.Input("image", tooltip="One or more. Of each, the middle square is seen."),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    tooltip="How much of the image's attention is added: 0 is off, 1 as trained, 0.5 to 0.8 leaves "
                    "more to the prompt.",
                ),
                io.Combo.Input(
                    "blocks",
                    options=BLOCKS,
                    default=ALL,
                    tooltip="Where the image acts. 'style' is InstantStyle's block: up_blocks.0.attentions.1 of SDXL, "
                    "up_blocks.1 of SD1.5. 'list': those in block_list.",
                ),
                io.Combo.Input(
                    "combine",
                    options=[AVERAGE, CONCAT, EACH],
                    default=AVERAGE,
                    tooltip="Several images. average: one prompt that is their mean. concat: each picture attends to "
                    f"all. '{EACH}': picture 3 of the batch follows image 3.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the sampling at which it begins, 0 at pure noise.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the sampling at which it ends, 1 at the finished picture.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The one the adapter was made for, mostly ViT-H; ViT-bigG for ip-adapter_sdxl and "
                    "ip-adapter_sd15_vit-G. StyleShot needs none.",
                ),
                io.Image.Input(
                    "negative_image",
                    optional=True,
                    tooltip="What to keep away from where CFG is above 1: one, or as many as images.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where in the picture it acts; several: one for each picture."
                ),
                io.String.Input(
                    "block_list",
                    default="",
                    optional=True,
                    tooltip=f"For blocks '{LISTED}': names such as 'output 1', 'middle', 'up_blocks.0.attentions.1' or "
                    "a number such as 6, separated by commas.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(
        cls,
        model,
        ip_adapter,
        image,
        weight,
        blocks,
        combine,
        start_percent,
        end_percent,
        clip_vision=None,
        negative_image=None,
        mask=None,
        block_list="",
    ):
        if start_percent >= end_percent:
            raise ValueError(
                f"Set start_percent below end_percent: they are {start_percent:g} and {end_percent:g}, so the image "
                "would never act. Weight 0 switches it off."
            )
        image = pictures(image, "image")
        negative_image = None if negative_image is None else pictures(negative_image, "negative_image")
        mask = None if mask is None else Mask(masks(mask, "mask"))
        layers = matching_layers(model, ip_adapter)
        chosen = set(chosen_layers(layers, blocks, block_list))
        tokens = image_tokens(ip_adapter, clip_vision, image, negative_image, combine)
        sampling = model.get_model_object("model_sampling")
        patched = apply_adapter(
            model,
            ip_adapter,
            tokens,
            [(number, layer) for number, layer in enumerate(layers) if layer in chosen],
            weight=weight,
            mask=mask,
            sigma_start=float(sampling.percent_to_sigma(start_percent)),
            sigma_end=float(sampling.percent_to_sigma(end_percent)),
        )
        return io.NodeOutput(patched)


NODES = [CleanStyleIPAdapterLoader, CleanStyleIPAdapter]
