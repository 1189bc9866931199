"""Image prompts on a MODEL: attn2 replacements that add branches to the text attention, ours or IPAdapter_plus's."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from torch import Tensor

from ..host.halves import halves_of, tell_halves
from .branches import Branch
from .ipadapter_plus import PlusBranch, plus_branches

Attention = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]  # (q, k, v, extra_options) -> out
Key = tuple  # ("input" | "middle" | "output", block) or with the transformer layer within the block as third
CALLBACK = "cleanstyle.image_prompts"
BEGINNING = 999999999.9  # ComfyUI's percent_to_sigma(0) for SD1.5 and SDXL


def attend(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
    """The layer's own attention, by whatever kernel the user has chosen for it."""
    return optimized_attention(
        q,
        k,
        v,
        extra_options["n_heads"],
        attn_precision=extra_options.get("attn_precision"),
        transformer_options=extra_options,
    )


class ImagePromptAttention:
    """An attn2 replacement: `base`, which is the text attention, and what the active branches add to it.

    base: `attend`, or the replacement that was there before. A clone of the MODEL has a copy with the same base and
    branches, so that what is added to one does not show in the other.
    """

    def __init__(self, base: Attention = attend, branches: Iterable[Branch] = ()):
        self.base = base
        self.branches = tuple(branches)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        out = self.base(q, k, v, extra_options)
        if active := self.active(extra_options):
            extra_options = extra_options | {"cond_or_uncond": halves_of(extra_options)}
        for branch in active:
            out = out + branch(out, q, k, v, extra_options)
        return out.to(q.dtype)

    def active(self, extra_options: dict[str, Any]) -> list[Branch]:
        """The branches that act at this call's noise level."""
        sigma = sigma_of(extra_options)
        return [branch for branch in self.branches if branch.is_active(sigma)]

    def add(self, callback: Callable[..., Tensor], **kwargs: Any) -> None:
        """One more image prompt of IPAdapter_plus, which calls this on whatever it finds in its place."""
        self.branches = (*self.branches, PlusBranch(callback, kwargs))

    def to(self, device_or_dtype: torch.device | torch.dtype) -> "ImagePromptAttention":
        """Called by ComfyUI where it moves the MODEL."""
        self.base = _moved(self.base, device_or_dtype)
        self.branches = tuple(_moved(branch, device_or_dtype) for branch in self.branches)
        return self

    def models(self) -> list[ModelPatcher]:
        """The weights that ComfyUI is to load with the MODEL."""
        found = []
        for part in (self.base, *self.branches):
            if hasattr(part, "models"):
                found += [model for model in part.models() if model not in found]
        return found

    def __deepcopy__(self, memo: dict) -> "ImagePromptAttention":
        # ComfyUI 0.3.75 deep-copies a MODEL's options for each clone: every one would have weights of its own.
        return copy.copy(self)


def _moved(part: Any, device_or_dtype: torch.device | torch.dtype) -> Any:
    return part.to(device_or_dtype) if hasattr(part, "to") else part


class _LastSigma:
    """Reading a number from a GPU waits for all that was asked of it before, and a step has up to 70 layers."""

    def __init__(self) -> None:
        self.read: tuple[Tensor, float] | None = None  # holding the tensor, so that no other takes its identity

    def __call__(self, sigmas: Tensor) -> float:
        if sigmas.device.type == "cpu":
            return sigmas[0].item()
        if self.read is None or self.read[0] is not sigmas:
            self.read = (sigmas, sigmas[0].item())
        return self.read[1]


_last_sigma = _LastSigma()


def sigma_of(extra_options: dict[str, Any]) -> float:
    """The noise level of this call; where the host does not say, the one that it begins with."""
    sigmas = extra_options.get("sigmas")
    return BEGINNING if sigmas is None else _last_sigma(sigmas)


def attn2_replacements(model: ModelPatcher) -> dict[Key, Attention]:
    """All that replaces cross-attention in this MODEL, whoever put it there."""
    return model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})


def image_prompts(model: ModelPatcher) -> dict[Key, tuple[Attention, tuple[Branch, ...]]]:
    """Every cross-attention of this MODEL with image prompts that we understand, as (base, branches).

    Ours and IPAdapter_plus's, also where one stands on the other.
    """
    found = {key: _taken_apart(replacement) for key, replacement in attn2_replacements(model).items()}
    return {key: (base, branches) for key, (base, branches) in found.items() if branches}


def _taken_apart(attention: Attention) -> tuple[Attention, tuple[Branch, ...]]:
    if isinstance(attention, ImagePromptAttention):
        base, branches = _taken_apart(attention.base)
        return base, (*branches, *attention.branches)
    theirs = plus_branches(attention)
    return (attend, theirs) if theirs else (attention, ())


def with_branch(attention: Attention | None, branch: Branch) -> ImagePromptAttention:
    """One more image prompt on what replaces this cross-attention already, if anything. That itself is not changed."""
    # A subclass does more with its branches than add them, so it is the base as it is.
    if type(attention) is ImagePromptAttention:
        return ImagePromptAttention(attention.base, (*attention.branches, branch))
    return ImagePromptAttention(attend if attention is None else attention, (branch,))


def put_attention(model: ModelPatcher, attentions: dict[Key, ImagePromptAttention]) -> None:
    """Replace these cross-attentions of a MODEL, which must be the caller's own clone.

    From then on clones of it get copies of their own: newer versions of ComfyUI share patch objects between clones.
    """
    for key, attention in attentions.items():
        model.set_model_attn2_replace(attention, *key)
    model.remove_callbacks_with_key(CallbacksMP.ON_CLONE, CALLBACK)
    model.add_callback_with_key(CallbacksMP.ON_CLONE, CALLBACK, _own_copies)
    tell_halves(model)


def _own_copies(model: ModelPatcher, clone: ModelPatcher) -> None:
    replacements = attn2_replacements(clone)
    for key, attention in replacements.items():
        if isinstance(attention, ImagePromptAttention):
            replacements[key] = copy.copy(attention)
