"""Image prompts without their content: what CleanStyle does to the keys and values of a Branch, at every step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..sid_core.cleanstyle import Spectrum, extrapolate, suppression
from .image_branches import PLAIN, Branch, Change, Project
from .image_prompts import sigma_of
from .ip_adapter_branch import UNCONDITIONAL

OFF, SOFT, HARD = "off", "soft", "hard"
Place = tuple[torch.device, torch.dtype]
NOTHING = 1e-4  # of the other half's largest number: what tokens that were put to zero may have left


@dataclass(frozen=True)
class Settings:
    """METHOD.md §5. style_negative: off, soft (the authors' code) or hard (the paper's figure). start, end: progress.

    attention_strength, attention_limit, attention_blend: see `extrapolate`.
    """

    top_k: int = 1
    alpha: float = 0.01
    gamma: float = 20.0
    center: float = 0.3
    beta: float = 1.0
    relative: bool = False
    style_negative: str = SOFT
    negative_alpha: float = 0.2
    attention_strength: float = 0.0
    attention_limit: float = 2.5
    attention_blend: float = 0.5
    start: float = 0.0
    end: float = 1.0

    def alpha_at(self, progress: float) -> float:
        """α_t."""
        return suppression(progress, alpha=self.alpha, gamma=self.gamma, center=self.center)

    def acts_at(self, progress: float) -> bool:
        return self.start <= progress <= self.end

    def purify_gains(self, spectrum: Spectrum, alpha: float) -> Tensor:
        """By what the singular values are multiplied, (B, R), at this α_t."""
        return spectrum.purify_gains(self.top_k, alpha, self.beta, self.relative)

    def negative_gains(self, spectrum: Spectrum) -> Tensor:
        """The same of the style-negative, at all times."""
        hard = self.style_negative == HARD
        return spectrum.negative_gains(self.negative_alpha, self.beta, hard, self.top_k, self.relative)


@dataclass(eq=False)
class _Reference:
    """What is known of some image tokens in one layer: spectra by "k" and "v", and what was last made of them.

    tokens: held, so that no other tensor takes their memory. place: device and precision of the keys and values.
    """

    tokens: Tensor
    place: Place
    spectra: dict[str, Spectrum] = field(default_factory=dict)
    made: dict[tuple[str, str], tuple[float, Tensor]] = field(default_factory=dict)
    is_nothing: bool | None = None

    def is_of(self, tokens: Tensor, place: Place) -> bool:
        known = self.tokens
        if place != self.place or known.shape != tokens.shape or known.dtype != tokens.dtype:
            return False
        if known is tokens:
            return True
        if known.device != tokens.device:
            return False
        if known.data_ptr() == tokens.data_ptr() and known.stride() == tokens.stride():
            return True
        return torch.equal(known, tokens)

    def scaled(
        self, kind: str, which: str, project: Project, gains: Callable[[Spectrum], Tensor], at: float = 0.0
    ) -> Tensor:
        """Keys or values with their singular values times gains(spectrum), which depend on `at` alone."""
        # Nodes run in inference mode, whose tensors would be of no use to a student that is trained on this MODEL.
        with torch.inference_mode(False), torch.no_grad():
            if which not in self.spectra:
                self.spectra[which] = Spectrum.of(project(self.tokens))
            last = self.made.get((kind, which))
            if last is None or last[0] != at:
                spectrum = self.spectra[which]
                last = self.made[kind, which] = (at, spectrum.scaled(gains(spectrum)))
            return last[1]


class References:
    """The latest references of one image prompt in one layer: their spectra are computed once, not at every step.

    More than one where a picture of a batch has its own, or AnimateDiff shows a window of them at a time.
    """

    SIZE = 8

    def __init__(self) -> None:
        self.latest: tuple[_Reference, ...] = ()

    def __call__(self, tokens: Tensor, place: Place) -> _Reference:
        found = next((known for known in self.latest if known.is_of(tokens, place)), None)
        found = found or _Reference(tokens, place)
        found.tokens = tokens  # the next question is likely of the same tensor, and comparing contents takes time
        if not self.latest or self.latest[0] is not found:
            others = [known for known in self.latest if known is not found]
            self.latest = (found, *others[: self.SIZE - 1])
        return found

    def keep(self, device: torch.device) -> None:
        """Let go of what is elsewhere."""
        self.latest = tuple(known for known in self.latest if known.place[0] == device)


class Purify:
    """CS-SVD at one α_t; and SS-CFG, which gives the unconditional half the conditional one's style-negative."""

    def __init__(self, settings: Settings, reference_of: Callable[[Tensor], _Reference], alpha: float):
        self.settings = settings
        self.reference_of = reference_of
        self.alpha = alpha

    def cond(self, which: str, project: Project, tokens: Tensor) -> Tensor:
        if self.alpha == 0 and self.settings.beta == 1:
            return project(tokens)
        return self.reference_of(tokens).scaled(
            "purified", which, project, lambda spectrum: self.settings.purify_gains(spectrum, self.alpha), self.alpha
        )

    def uncond(self, which: str, project: Project, tokens: Tensor, cond_tokens: Tensor) -> Tensor:
        if self.settings.style_negative == OFF:
            return project(tokens)
        reference = self.reference_of(cond_tokens)
        if reference.is_nothing is None:
            # "style transfer precise" has the image in the unconditional half of a layer, and zeros in the other.
            largest, other = cond_tokens.abs().amax(), tokens.abs().amax()
            reference.is_nothing = bool(largest <= NOTHING * other)
        return project(tokens) if reference.is_nothing else style_negative(self.settings, reference, which, project)


class StyleNegative:
    """The style-negative in the conditional half, for rows that have no other."""

    def __init__(self, settings: Settings, reference_of: Callable[[Tensor], _Reference]):
        self.settings = settings
        self.reference_of = reference_of

    def cond(self, which: str, project: Project, tokens: Tensor) -> Tensor:
        return style_negative(self.settings, self.reference_of(tokens), which, project)

    def uncond(self, which: str, project: Project, tokens: Tensor, cond_tokens: Tensor) -> Tensor:
        return self.cond(which, project, cond_tokens)  # of the right shape, for no row


def style_negative(settings: Settings, reference: _Reference, which: str, project: Project) -> Tensor:
    return reference.scaled("negative", which, project, settings.negative_gains)


class PurifiedBranch:
    """A Branch with its content taken out. It has no state of a run: what it keeps is of the reference alone."""

    def __init__(self, branch: Branch, settings: Settings, progress_at: Callable[[float], float]):
        """progress_at: from sigma to progress, see `adapt.progress_by_sigma`."""
        self.branch = branch
        self.settings = settings
        self.progress_at = progress_at
        self.references = References()

    def is_active(self, sigma: float) -> bool:
        return self.branch.is_active(sigma)

    def __call__(
        self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any], change: Change = PLAIN
    ) -> Tensor:
        """As a Branch, whose own change is made: `change` is not."""
        progress = self.progress_at(sigma_of(extra_options))
        if not self.settings.acts_at(progress):
            return self.branch(out, q, k, v, extra_options)
        change = Purify(self.settings, self._reference_of(q), self.settings.alpha_at(progress))
        added = self.branch(out, q, k, v, extra_options, change)
        if self.settings.attention_strength == 0 or not isinstance(added, Tensor):
            return added
        return self._away_from_style_negative(added, out, q, k, v, extra_options)

    def _reference_of(self, q: Tensor) -> Callable[[Tensor], _Reference]:
        return partial(self.references, place=(q.device, q.dtype))

    def _away_from_style_negative(
        self, added: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]
    ) -> Tensor:
        """The conditional rows moved away from what the style-negative would have added to them."""
        chunks = extra_options["cond_or_uncond"]
        cond = [place for place, index in enumerate(chunks) if index != UNCONDITIONAL]
        if not cond:
            return added
        theirs = [_rows(tensor, cond, len(chunks)) for tensor in (out, q, k, v)]
        options = extra_options | {"cond_or_uncond": [chunks[place] for place in cond]}
        negative = self.branch(*theirs, options, StyleNegative(self.settings, self._reference_of(q)))
        moved = extrapolate(
            _rows(added, cond, len(chunks)),
            negative,
            strength=self.settings.attention_strength,
            limit=self.settings.attention_limit,
            blend=self.settings.attention_blend,
        )
        if len(cond) == len(chunks):
            return moved
        parts = list(added.chunk(len(chunks)))
        for place, part in zip(cond, moved.chunk(len(cond)), strict=True):
            parts[place] = part
        return torch.cat(parts)

    def to(self, device_or_dtype: torch.device | torch.dtype) -> "PurifiedBranch":
        """Called by ComfyUI where it moves the MODEL: what was kept elsewhere is let go."""
        if hasattr(self.branch, "to"):
            self.branch.to(device_or_dtype)
        if isinstance(device_or_dtype, torch.device):
            self.references.keep(device_or_dtype)
        return self

    def models(self) -> list:
        return self.branch.models() if hasattr(self.branch, "models") else []


def _rows(tensor: Tensor, places: list[int], chunks: int) -> Tensor:
    """These chunks of a batch that has so many."""
    if len(places) == chunks:
        return tensor
    parts = tensor.chunk(chunks)
    return torch.cat([parts[place] for place in places])
