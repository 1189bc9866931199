"""Image prompts of IPAdapter_plus and its forks, by what they have, as no fork's class can be imported."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .branches import PLAIN, Change, Project


class PlusBranch:
    """One image prompt of IPAdapter_plus in one layer: its callback and the arguments that it is called with.

    The callback projects the image tokens itself, at each call: to keys and then to values, by name out of the
    adapter's `ip_layers.to_kvs`, and of each the conditional half before the unconditional one. So it is given an
    adapter whose projections are changed, and all else that it does (weight types, masks, unfolding) stays as it is.
    """

    def __init__(self, callback: Callable[..., Tensor], kwargs: dict[str, Any]):
        self.callback = callback
        self.kwargs = kwargs
        self.elsewhere: dict[torch.device, dict[str, Any]] = {}

    @property
    def image_tokens(self) -> tuple[Tensor, ...]:
        """The conditional tokens (R, N, C) whose keys and values may be changed; none where we don't know the kind.

        Such as PuLID's, which share IPAdapter_plus's patches but not its arguments.
        """
        layers = getattr(self.kwargs.get("ipadapter"), "ip_layers", None)
        tokens = self.kwargs.get("cond")
        if not hasattr(layers, "to_kvs") or not isinstance(tokens, Tensor):
            return ()
        return (tokens, *(self.kwargs.get("cond_alt") or {}).values())

    def is_active(self, sigma: float) -> bool:
        return self.kwargs["sigma_end"] <= sigma <= self.kwargs["sigma_start"]

    def __call__(
        self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any], change: Change = PLAIN
    ) -> Tensor:
        """As a Branch. Their callback says 0 for a layer that it has nothing for."""
        kwargs = self.elsewhere.get(q.device, self.kwargs)
        if change is not PLAIN and self.image_tokens:
            kwargs = kwargs | {"ipadapter": _Adapter(kwargs["ipadapter"], _Halves(change))}
        return self.callback(out, q, k, v, extra_options, **kwargs)

    def to(self, device_or_dtype: torch.device | torch.dtype) -> "PlusBranch":
        """Their weights stay where they were loaded to; a second GPU gets copies, as their own patch makes them."""
        device, tokens = device_or_dtype, self.kwargs.get("cond")
        if isinstance(device, torch.device) and device.type != "cpu" and isinstance(tokens, Tensor):
            makes_copies = hasattr(self.kwargs.get("ipadapter"), "create_multigpu_clone")
            if makes_copies and device != tokens.device and device not in self.elsewhere:
                self.kwargs["ipadapter"].create_multigpu_clone(device)
                tensors = {name: value.to(device) for name, value in self.kwargs.items() if isinstance(value, Tensor)}
                self.elsewhere[device] = self.kwargs | tensors
        return self


class _Halves:
    """Projections as one call of the callback sees them: the first use of a name is the conditional half."""

    def __init__(self, change: Change):
        self.change = change
        self.cond: dict[str, Tensor] = {}

    def __call__(self, name: str, project: Project, tokens: Tensor) -> Tensor:
        which = "v" if name.endswith("to_v_ip") else "k"
        if name not in self.cond:
            self.cond[name] = tokens
            return self.change.cond(which, project, tokens)
        return self.change.uncond(which, project, tokens, self.cond[name])


class _Projections:
    """An adapter's `to_kvs` with changed projections."""

    def __init__(self, to_kvs: Any, halves: _Halves):
        self.to_kvs = to_kvs
        self.halves = halves

    def __contains__(self, name: str) -> bool:
        return name in self.to_kvs

    def __getitem__(self, name: str) -> Project:
        return partial(self.halves, name, self.to_kvs[name])


class _Adapter:
    """Their adapter with changed projections; for all else, their adapter."""

    def __init__(self, adapter: Any, halves: _Halves):
        self.adapter = adapter
        self.halves = halves
        self.ip_layers = SimpleNamespace(to_kvs=_Projections(adapter.ip_layers.to_kvs, halves))

    def get_multigpu_clone(self, device: torch.device) -> "_Adapter":
        return _Adapter(self.adapter.get_multigpu_clone(device), self.halves)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.adapter, name)


def plus_branches(replacement: Any) -> tuple[PlusBranch, ...]:
    """The image prompts in an attn2 replacement of IPAdapter_plus; none where it is something else."""
    callbacks, kwargs = getattr(replacement, "callback", None), getattr(replacement, "kwargs", None)
    if not (isinstance(callbacks, list) and isinstance(kwargs, list) and len(callbacks) == len(kwargs)):
        return ()
    return tuple(PlusBranch(callback, arguments) for callback, arguments in zip(callbacks, kwargs, strict=True))
