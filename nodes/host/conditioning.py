"""CONDITIONING as the tensors that a network takes."""

import inspect
import math
from collections.abc import Callable

import comfy.conds
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...sid_core.data.conditioning import MOST_REPEATS, TOKENS, Cond
from .families import family_of
from .latents import pixels_per_cell

UNUSABLE = {"area", "mask", "control", "hooks", "gligen", "start_percent", "end_percent", "concat_latent_image"}
MASK = "attention_mask"
COUNT = "num_tokens"  # the one thing besides tensors that a network is given of a text


def conditioning_tensors(
    model: ModelPatcher, conditioning: list, latent: Tensor, like: Cond | None = None, text: str = ""
) -> Cond:
    """A CONDITIONING as the keyword tensors (1, …) of its network. latent: (B, C, …), for models that look at its size.

    Where the network joins text and picture in its attention, each text's number of tokens is beside it (see TOKENS).
    like: the ∅-prompt's, which the other is to be batched with; text: what is encoded, for the error. Raises ValueError
    for what training can't honour: several entries, areas, masks, control, hooks, timestep ranges, pictures; and for
    another text encoder's.
    """
    conds = _conds(model, conditioning, latent)
    count = conds.pop(COUNT, None)
    cut = int(count.cond) if count is not None and family_of(model).padded else math.inf
    for name, wanted in (like or {}).items():
        if name in conds and conds[name].cond.shape != wanted.shape:
            _require_same_text(conds[name], wanted, text)
    tensors = {name: cond.cond.clone() for name, cond in conds.items()}
    counts = {name: tokens for name, cond in conds.items() if (tokens := _tokens(name, cond)) is not None}
    return tensors | {name + TOKENS: torch.tensor([min(tokens, cut)]) for name, tokens in counts.items()}


def require_plain(conditioning: list) -> None:
    """Raise ValueError for what training can't honour: several entries, areas, masks, control, hooks, ranges; and for
    several prompts in one."""
    if len(conditioning) != 1 or (found := UNUSABLE & conditioning[0][1].keys()):
        what = f"{len(conditioning)} entries" if len(conditioning) != 1 else ", ".join(sorted(found))
        raise ValueError(
            f"Connect a CLIP Text Encode directly: the conditioning has {what}; distillation needs one plain prompt."
        )
    if (prompts := len(conditioning[0][0])) != 1:
        raise ValueError(
            f"Connect a conditioning for each prompt, such as a list of them: one has {prompts} prompts in it."
        )


def _conds(model: ModelPatcher, conditioning: list, latent: Tensor) -> dict[str, comfy.conds.CONDRegular]:
    require_plain(conditioning)
    context, extra = conditioning[0]
    pixels = pixels_per_cell(model)
    size = {"width": latent.shape[-1] * pixels, "height": latent.shape[-2] * pixels}  # SDXL's size conditioning
    given = {key: value for key, value in extra.items() if value is not None}
    given |= {"pooled_output": extra.get("pooled_output")}  # some ask for it also where their encoder gives none
    given |= _guidance(model, given)
    conds = model.model.extra_conds(
        **(size | given), cross_attn=context, noise=latent[:1], device=model.load_device, prompt_type="positive"
    )
    takes = inspect.signature(model.model.diffusion_model.forward).parameters
    for name, cond in list(conds.items()):
        usual = takes[name].default if name in takes else inspect.Parameter.empty
        if usual is inspect.Parameter.empty:
            continue
        # A mask that hides nothing, and a number such as LTX-Video's frame_rate, that goes without saying.
        if bool(cond.cond.all()) if name == MASK else not isinstance(cond.cond, Tensor) and cond.cond == usual:
            del conds[name]
    for name, cond in conds.items():
        if name != COUNT and not isinstance(cond.cond, Tensor):
            raise ValueError(
                "Choose a model that draws from text alone, and connect a CLIP Text Encode directly: training has no "
                f"pictures to go by, and this conditioning has {name}."
            )
    return conds


def _guidance(model: ModelPatcher, given: dict) -> dict[str, float]:
    """What the family's guidance embedding is told, which is the same for all roles and for the student later on."""
    guidance = family_of(model).guidance
    if guidance is None:
        return {}
    if (said := given.get("guidance", guidance)) != guidance:
        raise ValueError(
            f"Take FluxGuidance off what leads to SiD Distill, or set it to {guidance:g}: it is {said:g}, and students "
            f"of {family_of(model).name} are trained and sampled at {guidance:g}."
        )
    return {"guidance": guidance}


def counter(network: nn.Module) -> Callable[[Cond], dict[str, int]]:
    """→ what the network takes beside tensors of a conditioning: how many tokens there are, where it asks for that."""
    asks = COUNT in inspect.signature(network.forward).parameters
    return lambda cond: {COUNT: cond["c_crossattn"].shape[1]} if asks else {}


def _tokens(name: str, cond: comfy.conds.CONDRegular) -> int | None:
    """How many there are, where prompts of another number can't be repeated to be as long as this one."""
    if isinstance(cond, comfy.conds.CONDCrossAttn | comfy.conds.CONDNoiseShape):
        return None
    values = cond.cond
    return values.shape[-2] if values.ndim > 2 else values.shape[1] if "mask" in name else None


def _repeatable(cond: comfy.conds.CONDRegular) -> bool:
    """Of cross-attention: to it a text is the same however often it is repeated, and so the host batches prompts."""
    return isinstance(cond, comfy.conds.CONDCrossAttn)


def _require_same_text(cond: comfy.conds.CONDRegular, wanted: Tensor, text: str) -> None:
    found = cond.cond.shape
    whose = f"the prompt {text!r:.80}" if text else "a prompt"
    if len(found) != wanted.ndim or (len(found) > 2 and found[-1] != wanted.shape[-1]):
        raise ValueError(
            f"Encode {whose} and the ∅-prompt with the same text encoder: they are {tuple(found)} and "
            f"{tuple(wanted.shape)}."
        )
    if _repeatable(cond) and math.lcm(found[1], wanted.shape[1]) > MOST_REPEATS * wanted.shape[1]:
        raise ValueError(
            f"Shorten {whose}, or leave it out: it takes {found[1]} tokens where the ∅-prompt takes {wanted.shape[1]}, "
            f"and prompts of up to {MOST_REPEATS} times that can be trained on together."
        )
