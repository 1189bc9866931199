"""Image prompts without their content: what CleanStyle does to the keys and values of a Branch, at every step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakSet, ref

import torch
from torch import Tensor

from ...sid_core.method.cleanstyle import Purifier, Spectrum, extrapolate, suppression
from ..host.halves import PROMPT, UNCONDITIONAL
from ..image_prompts.attention import sigma_of
from ..image_prompts.branches import PLAIN, Branch, Change, Project

OFF, SOFT, HARD = "off", "soft", "hard"
Place = tuple[torch.device, torch.dtype]
At = tuple[float, bool]  # α_t, and whether in inference mode
AT_ONCE = 2**24  # numbers: for more, what a product takes of memory matters more than its speed
NOTHING = 1e-4  # of the other half's largest number: what tokens that were put to zero may have left


@dataclass(frozen=True)
class Settings:
    """CleanStyle's settings (arXiv 2602.20721), by default its authors'.

    style_negative: off, soft (the authors' code) or hard (the paper's figure). start, end: progress.

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

    def purifier(self, spectrum: Spectrum) -> Purifier:
        return Purifier(spectrum, self.top_k, self.beta, self.relative)

    def negative_gains(self, spectrum: Spectrum) -> Tensor:
        """The same of the style-negative, at all times."""
        hard = self.style_negative == HARD
        return spectrum.negative_gains(self.negative_alpha, self.beta, hard, self.top_k, self.relative)


class _Reference:
    """What is known of some image tokens in one layer: the spectra of its keys and values, and what was last made of
    them.

    tokens: held, so that no other tensor takes their memory. place: device and precision of the keys and values.
    together: all that is rescaled at once with it.
    """

    def __init__(self, tokens: Tensor, place: Place, together: "Together"):
        self.tokens = tokens
        self.place = place
        self.together = together
        self.spectra: dict[str, Spectrum] = {}
        self.made: dict[str, Tensor] = {}
        self.made_at: At | None = None
        self.negatives: dict[str, Tensor] = {}
        self.is_nothing: bool | None = None

    def is_of(self, tokens: Tensor, place: Place) -> bool:
        known = self.tokens
        if place != self.place:
            return False
        if known is tokens:
            return True
        if known.shape != tokens.shape or known.dtype != tokens.dtype or known.device != tokens.device:
            return False
        if known.data_ptr() == tokens.data_ptr() and known.stride() == tokens.stride():
            return True
        return torch.equal(known, tokens)

    def purified(self, which: str, project: Project, settings: Settings, alpha: float) -> Tensor:
        """Keys or values at this α_t."""
        # A tensor that was made in inference mode is of no use to a student that is trained on this MODEL.
        at = (alpha, torch.is_inference_mode_enabled())
        if self.made_at != at and len(self.spectra) == 2:
            self.together.rescale(settings, at)
        if self.made_at != at:
            self.made, self.made_at = {}, at
        if which not in self.made:
            spectrum = self._spectrum(which, project)
            self.made[which] = spectrum.scaled(settings.purify_gains(spectrum, alpha))
        return self.made[which]

    def negative(self, which: str, project: Project, settings: Settings) -> Tensor:
        """The style-negative of keys or values, which is the same at every step."""
        if which not in self.negatives:
            spectrum = self._spectrum(which, project)
            with torch.inference_mode(False):
                self.negatives[which] = spectrum.scaled(settings.negative_gains(spectrum))
        return self.negatives[which]

    def _spectrum(self, which: str, project: Project) -> Spectrum:
        if which not in self.spectra:
            with torch.no_grad():
                self.spectra[which] = Spectrum.of(project(self.tokens))
        return self.spectra[which]


class Together:
    """What one CleanStyle has to rescale at a step, done at once for all layers of a width, when the first asks for it.

    A product of their size is small next to what it takes to ask for one.
    """

    def __init__(self) -> None:
        self.references: WeakSet[_Reference] = WeakSet()
        self.groups: list[tuple[Purifier, list[ref[_Reference]]]] = []

    def rescale(self, settings: Settings, at: At) -> None:
        """Keys and values of all references at (α_t, whether in inference mode)."""
        ready = {reference for reference in self.references if len(reference.spectra) == 2}
        if ready != {found() for _, members in self.groups for found in members}:  # never after the first steps
            self.groups = [self._group(settings, members) for members in _alike(ready)]
        for purifier, members in self.groups:
            rows = purifier(at[0]).chunk(2 * len(members))
            for found, keys, values in zip(members, rows[::2], rows[1::2], strict=True):
                if (reference := found()) is not None:
                    reference.made, reference.made_at = {"k": keys, "v": values}, at

    def _group(self, settings: Settings, members: list[_Reference]) -> tuple[Purifier, list["ref[_Reference]"]]:
        joined = Spectrum.joined([reference.spectra[which] for reference in members for which in "kv"])
        pictures = len(joined.left) // (2 * len(members))
        # On the memory of what is joined, so that nothing is kept twice.
        parts = iter(joined.part(slice(start, start + pictures)) for start in range(0, len(joined.left), pictures))
        for reference in members:
            reference.spectra = {which: next(parts) for which in "kv"}
        return settings.purifier(joined), [ref(reference) for reference in members]


def _alike(references: set[_Reference]) -> Iterator[list[_Reference]]:
    """Those whose keys and values are of one shape and place, AT_ONCE at most."""
    groups: dict[tuple, list[_Reference]] = {}
    for reference in references:
        spectrum = reference.spectra["k"]
        groups.setdefault((reference.place, spectrum.left.shape, spectrum.right.shape), []).append(reference)
    for (_, left, right), members in groups.items():
        size = max(1, AT_ONCE // (2 * left[0] * left[1] * right[2]))
        yield from (members[start : start + size] for start in range(0, len(members), size))


class References:
    """The latest references of one image prompt in one layer: their spectra are computed once, not at every step.

    More than one where a picture of a batch has its own, or AnimateDiff shows a window of them at a time.
    """

    SIZE = 8

    def __init__(self, together: Together) -> None:
        self.together = together
        self.latest: tuple[_Reference, ...] = ()

    def __call__(self, tokens: Tensor, place: Place) -> _Reference:
        if self.latest and self.latest[0].tokens is tokens and self.latest[0].place == place:
            return self.latest[0]
        found = next((known for known in self.latest if known.is_of(tokens, place)), None)
        if found is None:
            found = _Reference(tokens, place, self.together)
            self.together.references.add(found)
        found.tokens = tokens  # the next question is likely of the same tensor, and comparing contents takes time
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
        return self.reference_of(tokens).purified(which, project, self.settings, self.alpha)

    def uncond(self, which: str, project: Project, tokens: Tensor, cond_tokens: Tensor) -> Tensor:
        if self.settings.style_negative == OFF:
            return project(tokens)
        reference = self.reference_of(cond_tokens)
        if reference.is_nothing is None:
            # "style transfer precise" has the image in the unconditional half of a layer, and zeros in the other.
            largest, other = cond_tokens.abs().amax(), tokens.abs().amax()
            reference.is_nothing = bool(largest <= NOTHING * other)
        return project(tokens) if reference.is_nothing else reference.negative(which, project, self.settings)


class StyleNegative:
    """The style-negative in the conditional half, for rows that have no other."""

    def __init__(self, settings: Settings, reference_of: Callable[[Tensor], _Reference]):
        self.settings = settings
        self.reference_of = reference_of

    def cond(self, which: str, project: Project, tokens: Tensor) -> Tensor:
        return self.reference_of(tokens).negative(which, project, self.settings)

    def uncond(self, which: str, project: Project, tokens: Tensor, cond_tokens: Tensor) -> Tensor:
        return self.cond(which, project, cond_tokens)  # of the right shape, for no row


class PurifiedBranch:
    """A Branch with its content taken out. It has no state of a run: what it keeps is of the reference alone."""

    def __init__(self, branch: Branch, settings: Settings, progress_at: Callable[[float], float], together: Together):
        """progress_at: from sigma to progress, see `progress_by_sigma`. together: with the same settings."""
        self.branch = branch
        self.settings = settings
        self.progress_at = progress_at
        self.references = References(together)

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
        cond = [place for place, half in enumerate(chunks) if half != UNCONDITIONAL]
        if not cond:
            return added
        theirs = [_rows(tensor, cond, len(chunks)) for tensor in (out, q, k, v)]
        options = extra_options | {"cond_or_uncond": [PROMPT] * len(cond)}
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
