"""A picture's tokens beside the text's: found by comparing a prompt with and without them, and purified in a MODEL."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...sid_core.method.cleanstyle import Spectrum
from ..host.halves import UNCONDITIONAL, halves_of, tell_halves
from ..image_prompts.attention import sigma_of
from .purify import OFF, Settings

KEY = "cleanstyle.joined_tokens"
PICTURES = 8  # whose spectra are kept
POST_INPUT = "post_input"  # the host's patches between a DiT's embedders and its blocks


@dataclass(frozen=True)
class Joined:
    """A picture's tokens (B, N, C), and where they are: after the text's, or before them."""

    tokens: Tensor
    after_text: bool

    @classmethod
    def of(cls, joined: Tensor, text: Tensor) -> "Joined | None":
        """joined: (B, N + T, C), text: (B, T, C). None where the text is neither the first of it nor the last."""
        added = joined.shape[1] - text.shape[1]
        if joined[:, : text.shape[1]].equal(text):
            return cls(joined[:, text.shape[1] :], after_text=True)
        return cls(joined[:, :added], after_text=False) if joined[:, added:].equal(text) else None

    def beside(self, text: Tensor, tokens: Tensor) -> Tensor:
        """`tokens` where the picture's own were, beside this text (B, T, C)."""
        tokens = comfy.utils.repeat_to_batch_size(tokens, len(text)).to(text)
        return torch.cat((text, tokens) if self.after_text else (tokens, text), dim=1)


def style_references(model: ModelPatcher) -> list:
    """The patches of a MODEL that join a style picture's tokens to the text's inside it: those of USO."""
    patches = model.model_options["transformer_options"].get("patches", {}).get(POST_INPUT, [])
    return [patch for patch in patches if _is_style_reference(patch)]


def _is_style_reference(patch: Any) -> bool:
    # By what it has: packs have copies of the host's class.
    return hasattr(patch, "encoded_image") and hasattr(patch, "model_patch")


def purify_style_references(model: ModelPatcher, settings: Settings, progress_at: Callable[[float], float]) -> None:
    """From now on the tokens of a MODEL's style references are purified; the MODEL must be the caller's own clone.

    progress_at: from sigma to progress, see `progress_by_sigma`. Purifying it again replaces the first.
    """
    model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, KEY)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _Purifier(settings, progress_at))
    tell_halves(model)


class _Purifier:
    """A wrapper of the host's apply_model. The patches themselves are not told the sigma by ComfyUI 0.3.75."""

    def __init__(self, settings: Settings, progress_at: Callable[[float], float]):
        self.settings = settings
        self.progress_at = progress_at
        self.spectra: tuple[tuple[Tensor, Spectrum], ...] = ()

    def __call__(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs
    ):
        options = transformer_options or {}
        progress = self.progress_at(sigma_of(options))
        patches = options.get("patches", {})
        if POST_INPUT in patches and self.settings.acts_at(progress):
            purified = [
                self._purified(patch, progress, halves_of(options)) if _is_style_reference(patch) else patch
                for patch in patches[POST_INPUT]
            ]
            options = options | {"patches": patches | {POST_INPUT: purified}}
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def _purified(self, patch: Callable, progress: float, halves: list[int]) -> Callable:
        """The patch, for one call of the network on these halves."""

        def call(args: dict[str, Any]) -> dict[str, Any]:
            text = args["txt"]
            out = patch(args)
            joined = Joined.of(out["txt"], text)
            if joined is None or joined.tokens.shape[1] == 0:
                return out
            rows = joined.tokens.chunk(len(halves))
            tokens = [self._changed(part, progress, half) for part, half in zip(rows, halves, strict=True)]
            return out | {"txt": joined.beside(text, torch.cat(tokens))}

        return call

    def _changed(self, tokens: Tensor, progress: float, half: int) -> Tensor:
        settings = self.settings
        if half == UNCONDITIONAL:
            if settings.style_negative == OFF:
                return tokens
            spectrum = self._spectrum(tokens)
            return spectrum.scaled(settings.negative_gains(spectrum))
        spectrum = self._spectrum(tokens)
        return spectrum.scaled(settings.purify_gains(spectrum, settings.alpha_at(progress)))

    def _spectrum(self, tokens: Tensor) -> Spectrum:
        """Computed once: the network makes the same tokens anew at every step."""
        for known, spectrum in self.spectra:
            if known.device == tokens.device and known.dtype == tokens.dtype and known.equal(tokens):
                return spectrum
        spectrum = Spectrum.of(tokens)
        self.spectra = ((tokens.clone(), spectrum), *self.spectra[: PICTURES - 1])
        return spectrum
