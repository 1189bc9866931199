"""CleanStyle on the tokens themselves, for encoders that put a picture's tokens beside the text's (Flux Redux)."""

import nodes
from comfy_api.latest import io
from torch import Tensor

from ...sid_core.method.cleanstyle import Spectrum, suppression_steps
from ..host.node import Node
from ..host.search import found_by
from .joined_tokens import Joined
from .purify import HARD, SOFT

CONNECT = (
    "Connect the CONDITIONING that comes out of Apply Style Model as with_style and the one that goes into it as "
    "without_style"
)


def _joined(with_style: Tensor, without_style: Tensor) -> Joined:
    """The picture's tokens. Raises ValueError where one CONDITIONING is not the other with more tokens."""
    if with_style.shape[1] <= without_style.shape[1]:
        raise ValueError(
            f"{CONNECT}: with_style has {with_style.shape[1]} tokens and without_style {without_style.shape[1]}, so no "
            "picture's tokens were added."
        )
    joined = Joined.of(with_style, without_style.to(with_style))
    if joined is None:
        raise ValueError(
            f"{CONNECT}: the {without_style.shape[1]} tokens of without_style are neither the first nor the last of "
            f"with_style's {with_style.shape[1]}, so they are of another prompt, or were changed later."
        )
    return joined


def purified(with_style: list, joined: list[Joined], steps: list[tuple[float, float, float]], **tail) -> list:
    """Each entry of a CONDITIONING once for each of `steps` (start, end, α), with the tokens purified by that α.

    tail: what else `Spectrum.purified` takes. Entries that hold for a part of the run only keep to it.
    """
    made = []
    for (tokens, extra), image in zip(with_style, joined, strict=True):
        spectrum = Spectrum.of(image.tokens)
        text = tokens[:, : -image.tokens.shape[1]] if image.after_text else tokens[:, image.tokens.shape[1] :]
        for start, end, alpha in steps:
            if (limits := _both(extra, start, end)) is not None:
                made.append([image.beside(text, spectrum.purified(alpha=alpha, **tail)), extra | limits])
    return made


def _both(extra: dict, start: float, end: float) -> dict[str, float] | None:
    """Where an entry's own range and this one overlap. An open end stays open: some samplers go above sigma_max."""
    start, end = max(start, extra.get("start_percent", 0.0)), min(end, extra.get("end_percent", 1.0))
    if start >= end:
        return None
    return ({"start_percent": start} if start > 0 else {}) | ({"end_percent": end} if end < 1 else {})


def with_negative(negative: list, image: Joined, **kind) -> list:
    """A CONDITIONING with the picture's style-negative beside its text. kind: what `Spectrum.negative` takes.

    Raises ValueError where that text is of another encoder.
    """
    tokens = Spectrum.of(image.tokens).negative(**kind)
    for text, _ in negative:
        if text.shape[-1] != tokens.shape[-1]:
            raise ValueError(
                "Connect a CLIPTextEncode of the same CLIP as negative: its tokens have "
                f"{text.shape[-1]} numbers and with_style's {tokens.shape[-1]}, so they are of different text encoders."
            )
    return [[image.beside(text, tokens), extra] for text, extra in negative]


class CleanStyleConditioning(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CleanStyleConditioning",
            **found_by("style transfer", "flux redux", "leakage", "svd", "style model"),
            display_name="CleanStyle Conditioning",
            category="CleanStyle",
            is_experimental=True,
            description="Takes the content out of a style picture whose tokens are joined to the prompt's, as those of "
            "Flux Redux (Apply Style Model). For IP-Adapters use CleanStyle.",
            inputs=[
                io.Conditioning.Input("with_style", tooltip="The prompt as it comes out of Apply Style Model."),
                io.Conditioning.Input("without_style", tooltip="The same prompt as it went into Apply Style Model."),
                io.Int.Input(
                    "top_k",
                    default=1,
                    min=0,
                    max=4096,
                    tooltip="Singular values kept as they are, 0 up to the number of the picture's tokens. More keeps "
                    "more of the picture: its style first, then its content.",
                ),
                io.Float.Input(
                    "alpha",
                    default=0.01,
                    min=0.0,
                    max=100.0,
                    step=0.001,
                    round=0.0001,
                    tooltip="How strongly the others are suppressed at the start of the run, 0 (off) to 100. Raise it "
                    "if the picture's content shows; lower it, or raise top_k, if details of the style are lost.",
                ),
                io.Float.Input(
                    "beta",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="A factor on the others throughout the run, 0 (none of them) to 2. 1 is usual.",
                ),
                io.Float.Input(
                    "gamma",
                    default=20.0,
                    min=0.0,
                    max=1000.0,
                    step=0.5,
                    tooltip="How suddenly the suppression ends, 0 (never, at half its strength) to 1000 (at once).",
                ),
                io.Float.Input(
                    "center",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="When the suppression ends, as a part of the run: 0 (pure noise) to 1 (image).",
                ),
                io.Boolean.Input(
                    "normalize",
                    default=False,
                    tooltip="Measure singular values by the largest: the same alpha then does the same with every "
                    "encoder. Try an alpha of 1 to 5 with it.",
                ),
                io.Combo.Input(
                    "style_negative",
                    options=[SOFT, HARD],
                    default=SOFT,
                    tooltip="What of the picture the negative output holds. soft: large singular values faded (the "
                    "authors' code). hard: all but the first top_k (their paper's figure).",
                ),
                io.Float.Input(
                    "negative_alpha",
                    default=0.1,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Of the soft style-negative: how strongly large singular values fade, 0 to 100.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="The negative prompt that the style-negative is put beside. Without one: zeros.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
            ],
        )

    @classmethod
    def execute(
        cls,
        with_style,
        without_style,
        top_k,
        alpha,
        gamma,
        center,
        beta,
        normalize,
        style_negative,
        negative_alpha,
        negative=None,
    ):
        if len(with_style) != len(without_style):
            raise ValueError(
                f"{CONNECT}: with_style has {len(with_style)} entries and without_style {len(without_style)}."
            )
        joined = [_joined(styled, plain) for (styled, _), (plain, _) in zip(with_style, without_style, strict=True)]
        steps = suppression_steps(alpha=alpha, gamma=gamma, center=center)
        positive = purified(with_style, joined, steps, top_k=top_k, beta=beta, relative=normalize)
        if negative is None:
            (negative,) = nodes.ConditioningZeroOut().zero_out(without_style)
        kind = {
            "alpha": negative_alpha,
            "beta": beta,
            "hard": style_negative == HARD,
            "top_k": top_k,
            "relative": normalize,
        }
        return io.NodeOutput(positive, with_negative(negative, joined[0], **kind))


NODES = [CleanStyleConditioning]
