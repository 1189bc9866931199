"""CleanStyle on a MODEL: whatever image prompts it has go on without their content."""

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ...sid_core.words import log
from ..host.families import CLEANSTYLE, family_of, require_use
from ..host.inputs import extra
from ..host.model import progress_by_sigma
from ..host.node import Node
from ..host.search import found_by
from ..host.unet_layers import ALL, BLOCKS, chosen_layers, cross_attention_layers
from ..image_prompts.attention import (
    Attention,
    ImagePromptAttention,
    Key,
    attn2_replacements,
    image_prompts,
    put_attention,
)
from ..image_prompts.branches import Branch
from .joined_tokens import purify_style_references, style_references
from .purify import HARD, OFF, SOFT, PurifiedBranch, Settings, Together
from .spectra import image_tokens, keys_of, spectra
from .view import view

SHOWN = 8  # layers, of which the browser draws singular values: each has to be decomposed for it


def clean(model: ModelPatcher, settings: Settings, blocks: str = ALL, listed: str = "") -> ModelPatcher:
    """A clone of a MODEL whose image prompts are purified in the blocks that were chosen. CleanStyle on it before is
    replaced there, so that what counts is the last one.

    blocks, listed: see `chosen_layers`. Raises ValueError where there is no image prompt, none in these blocks, or
    where settings don't fit it.
    """
    _check(settings)
    if style_references(model):  # of a DiT, which has no cross-attention
        clone = model.clone()
        purify_style_references(clone, settings, progress_by_sigma(model))
        return clone
    prompts = _purifiable(model)
    if not prompts:
        if family_of(model).classes or not cross_attention_layers(model):
            require_use(model, CLEANSTYLE)
        raise ValueError(_nothing_to_purify(model))
    layers = cross_attention_layers(model)
    chosen = {key for layer in chosen_layers(layers, blocks, listed) for key in keys_of(layer) if key in prompts}
    if not chosen:
        there_are = dict.fromkeys(layer.name for layer in layers if any(key in prompts for key in keys_of(layer)))
        raise ValueError(
            f"Set blocks to '{ALL}', or give the image prompt other blocks (or weight type): the image prompts "
            f"are in {', '.join(there_are)}, and none of these is in the blocks that are chosen here."
        )
    _check_tokens(settings, [branch for key in chosen for branch in prompts[key][1]])
    progress_at, together = progress_by_sigma(model), Together()
    clone = model.clone()
    put_attention(
        clone,
        {
            key: ImagePromptAttention(
                base,
                [
                    PurifiedBranch(branch, settings, progress_at, together) if image_tokens(branch) else branch
                    for branch in branches
                ],
            )
            for key, (base, branches) in prompts.items()
            if key in chosen
        },
    )
    return clone


def _purifiable(model: ModelPatcher) -> dict[Key, tuple[Attention, tuple[Branch, ...]]]:
    """The image prompts of a MODEL as they were before CleanStyle, where there is one that can be purified."""
    found = {
        key: (base, tuple(branch.branch if isinstance(branch, PurifiedBranch) else branch for branch in branches))
        for key, (base, branches) in image_prompts(model).items()
    }
    return {key: parts for key, parts in found.items() if any(image_tokens(branch) for branch in parts[1])}


def _nothing_to_purify(model: ModelPatcher) -> str:
    message = (
        "Connect an image prompt before this node: CleanStyle IP-Adapter or a node of IPAdapter_plus such as IPAdapter "
        "Advanced, and its MODEL to this one. This MODEL has none that CleanStyle can purify. "
    )
    if others := {type(patch).__name__ for patch in attn2_replacements(model).values()}:
        return message + (
            f"Its cross-attention is replaced by {', '.join(sorted(others))}, which is of another kind; if that is an "
            "IPAdapter pack, update it."
        )
    if not cross_attention_layers(model):
        return message + (
            f"It has no cross-attention of that kind: on {family_of(model).name}, use USOStyleReference before this "
            "node, or CleanStyle Conditioning for Redux."
        )
    return message + "Nodes that load a MODEL again, after the image prompt, lose it."


def _check(settings: Settings) -> None:
    if settings.start >= settings.end:
        raise ValueError(
            f"Set start_percent below end_percent, such as 0 and 1 for the whole run: they are {settings.start:g} and "
            f"{settings.end:g}."
        )
    if settings.style_negative not in (OFF, SOFT, HARD):
        raise ValueError(f"Set style_negative to {OFF}, {SOFT} or {HARD}: it is {settings.style_negative!r:.60}.")


def _check_tokens(settings: Settings, branches: list[Branch]) -> None:
    # Layers share their tokens.
    for tokens in {id(tokens): tokens for branch in branches for tokens in image_tokens(branch)}.values():
        if settings.top_k > tokens.shape[1]:
            raise ValueError(
                f"Lower top_k to {tokens.shape[1]} or less: it is {settings.top_k}, and the image prompt on this MODEL "
                f"has {tokens.shape[1]} tokens, and so as many singular values. 1 is usual."
            )
        if not tokens.isfinite().all():
            raise ValueError(
                "Look for a damaged adapter or CLIP vision file, or an empty picture, or start ComfyUI with "
                "--fp32-text-enc: the image prompt on this MODEL has NaN or infinite numbers in it."
            )


def _shown(model: ModelPatcher, settings: Settings) -> dict | None:
    try:
        return view(spectra(model, most=SHOWN, settings=settings))
    except (RuntimeError, ValueError) as error:
        log.warning("CleanStyle shows no singular values: %s", error)  # a run can do without
        return None


class CleanStyle(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CleanStyle",
            **found_by("style transfer", "instantstyle", "leakage", "content leakage", "svd", "ipadapter"),
            display_name="CleanStyle",
            category="CleanStyle",
            description="Takes the content out of the image prompts that are on a MODEL already, so that their style "
            "stays and their subject does not come along. After CleanStyle IP-Adapter or IPAdapter_plus's nodes, "
            "before the sampler.",
            inputs=[
                io.Model.Input("model", tooltip="With an image prompt: from CleanStyle IP-Adapter or IPAdapter_plus."),
                io.Int.Input(
                    "top_k",
                    default=1,
                    min=0,
                    max=257,
                    tooltip="Singular values that are kept as they are, 0 to the number of image tokens (4 to 257). "
                    "1 is the authors'; raise it if style is lost.",
                ),
                io.Float.Input(
                    "alpha",
                    default=0.01,
                    min=0.0,
                    max=100.0,
                    step=0.005,
                    round=0.0001,
                    tooltip="How strongly the others are suppressed, 0 to 100: by e^(-α σ). 0.01 is the authors'; "
                    "raise it if the subject still comes along, lower it if style is lost. 0 is off.",
                ),
                io.Float.Input(
                    "gamma",
                    default=20.0,
                    min=0.0,
                    max=1000.0,
                    step=1.0,
                    tooltip="How suddenly suppression ends, 0 to 1000. 20 is the authors'; 0 is half of alpha at all "
                    "times.",
                ),
                io.Float.Input(
                    "center",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="When suppression ends, 0 to 1 of the way from noise to image. The authors' is 0.3, and "
                    "0.35 for StyleShot.",
                ),
                extra(
                    io.Float.Input(
                        "beta",
                        default=1.0,
                        min=0.0,
                        max=10.0,
                        step=0.05,
                        tooltip="Factor on the singular values after the first top_k, at all times, 0 to 10. 1 is the "
                        "authors'; below 1 weakens them in every step.",
                    ),
                    advanced=True,
                ),
                extra(
                    io.Boolean.Input(
                        "normalize",
                        default=False,
                        tooltip="Divide singular values by the largest before alpha: one alpha then means the same for "
                        "every adapter and layer. Try 1 to 10 for alpha then, and 5 for negative_alpha.",
                    ),
                    advanced=True,
                ),
                extra(
                    io.Combo.Input(
                        "blocks",
                        options=BLOCKS,
                        default=ALL,
                        tooltip="Where to purify: in all blocks that have an image prompt, in InstantStyle's block for "
                        "style, in its blocks for style and composition, or in those that block_list names.",
                    ),
                    advanced=True,
                ),
                extra(
                    io.String.Input(
                        "block_list",
                        default="",
                        tooltip="For 'list': 'output 1' (ComfyUI's name), 'up_blocks.0.attentions.1' (diffusers') or 6 "
                        "(IPAdapter_plus's number), several separated by commas.",
                    ),
                    advanced=True,
                ),
                io.Combo.Input(
                    "style_negative",
                    options=[OFF, SOFT, HARD],
                    default=SOFT,
                    tooltip="SS-CFG: the unconditional half sees the reference's content, so CFG leads away from it. "
                    "soft: as in the authors' code; hard: as in their paper. It does nothing at CFG 1.",
                ),
                extra(
                    io.Float.Input(
                        "negative_alpha",
                        default=0.2,
                        min=0.0,
                        max=100.0,
                        step=0.01,
                        tooltip="How strongly large singular values are taken out of the soft style-negative, 0 to "
                        "100. The authors' is 0.2, and 0.1 for StyleShot.",
                    ),
                    advanced=True,
                ),
                io.Float.Input(
                    "attention_strength",
                    default=0.0,
                    min=0.0,
                    max=20.0,
                    step=0.1,
                    tooltip="How far the image prompt's attention is moved away from the style-negative's, 0 to 20. It "
                    "works at CFG 1 too, where few-step models run: begin with 1 and style_negative hard. 0 is off "
                    "and costs nothing.",
                ),
                extra(
                    io.Float.Input(
                        "start_percent",
                        default=0.0,
                        min=0.0,
                        max=1.0,
                        step=0.01,
                        tooltip="From where on CleanStyle acts, 0 (noise) to 1 (image).",
                    ),
                    advanced=True,
                ),
                extra(
                    io.Float.Input(
                        "end_percent",
                        default=1.0,
                        min=0.0,
                        max=1.0,
                        step=0.01,
                        tooltip="Until where it acts, 0 (noise) to 1 (image), after start_percent.",
                    ),
                    advanced=True,
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(
        cls,
        model,
        top_k,
        alpha,
        gamma,
        center,
        beta,
        normalize,
        blocks,
        block_list,
        style_negative,
        negative_alpha,
        attention_strength,
        start_percent,
        end_percent,
    ):
        settings = Settings(
            top_k=top_k,
            alpha=alpha,
            gamma=gamma,
            center=center,
            beta=beta,
            relative=normalize,
            style_negative=style_negative,
            negative_alpha=negative_alpha,
            attention_strength=attention_strength,
            start=start_percent,
            end=end_percent,
        )
        cleaned = clean(model, settings, blocks, block_list)
        return io.NodeOutput(cleaned, ui=_shown(cleaned, settings))


NODES = [CleanStyle]
