"""CONDITIONING as the tensors that a network takes."""

import math

import comfy.conds
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sid_core.data.conditioning import MOST_REPEATS, Cond
from .latents import pixels_per_cell

UNUSABLE = {"area", "mask", "control", "hooks", "gligen", "start_percent", "end_percent", "concat_latent_image"}


def conditioning_tensors(
    model: ModelPatcher, conditioning: list, latent: Tensor, like: Cond | None = None, text: str = ""
) -> Cond:
    """A CONDITIONING as the keyword tensors (1, …) of its network. latent: (B, C, …), for models that look at its size.

    like: the ∅-prompt's, which the other is to be batched with; text: what is encoded, for the error. Raises ValueError
    for what training can't honour: several entries, areas, masks, control, hooks, timestep ranges; another length.
    """
    conds = _conds(model, conditioning, latent)
    for name, wanted in (like or {}).items():
        if name in conds and conds[name].cond.shape != wanted.shape:
            _require_same_text(conds[name], wanted, text)
    return {name: cond.cond.clone() for name, cond in conds.items()}


def fixed_lengths(model: ModelPatcher, conditioning: list, latent: Tensor) -> dict[str, int]:
    """How many tokens each prompt must have, for a network in which a repeated text is another text; else empty."""
    conds = _conds(model, conditioning, latent)
    return {name: cond.cond.shape[1] for name, cond in conds.items() if cond.cond.ndim == 3 and not _repeatable(cond)}


def require_plain(conditioning: list) -> None:
    """Raise ValueError for what training can't honour: several entries, areas, masks, control, hooks, ranges."""
    if len(conditioning) != 1 or (found := UNUSABLE & conditioning[0][1].keys()):
        what = f"{len(conditioning)} entries" if len(conditioning) != 1 else ", ".join(sorted(found))
        raise ValueError(
            f"Connect a CLIP Text Encode directly: the conditioning has {what}; distillation needs one plain prompt."
        )


def _conds(model: ModelPatcher, conditioning: list, latent: Tensor) -> dict[str, comfy.conds.CONDRegular]:
    require_plain(conditioning)
    context, extra = conditioning[0]
    pixels = pixels_per_cell(model)
    size = {"width": latent.shape[-1] * pixels, "height": latent.shape[-2] * pixels}  # SDXL's size conditioning
    given = {key: value for key, value in extra.items() if value is not None}
    conds = model.model.extra_conds(
        **(size | given), cross_attn=context, noise=latent[:1], device=model.load_device, prompt_type="positive"
    )
    return {name: cond for name, cond in conds.items() if isinstance(cond.cond, Tensor)}


def _repeatable(cond: comfy.conds.CONDRegular) -> bool:
    """Of cross-attention: to it a text is the same however often it is repeated, and so the host batches prompts."""
    return isinstance(cond, comfy.conds.CONDCrossAttn)


def _require_same_text(cond: comfy.conds.CONDRegular, wanted: Tensor, text: str) -> None:
    found, length = cond.cond.shape, wanted.shape[1]
    whose = f"the prompt {text!r:.80}" if text else "a prompt"
    if len(found) != 3 or found[2] != wanted.shape[2]:
        raise ValueError(
            f"Encode {whose} and the ∅-prompt with the same text encoder: they are {tuple(found)} and "
            f"{tuple(wanted.shape)}."
        )
    if not _repeatable(cond):
        raise ValueError(
            f"Shorten {whose}, or leave it out: it takes {found[1]} tokens where the ∅-prompt takes {length}. This "
            "model joins text and picture in its attention, where all prompts must be of one length."
        )
    if math.lcm(found[1], length) > MOST_REPEATS * length:
        raise ValueError(
            f"Shorten {whose}, or leave it out: it takes {found[1]} tokens where the ∅-prompt takes {length}, and "
            f"prompts of up to {MOST_REPEATS} times that can be trained on together."
        )
