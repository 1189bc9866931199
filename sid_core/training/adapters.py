"""LoRA sets on one frozen network, switched by role: the network's weights are neither copied nor changed.

LoRA (arXiv 2106.09685): a layer's output gains scale · up(down(x)), with scale = alpha / rank. The layer itself is run
as it is, in whatever precision its owner has put it (float16, float8, quantized); the adapters are float32.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor, nn

from .adapted_linear import Lora, Piece, adapted_linear

# By the names that these layers have in ComfyUI's UNets and transformers; embedders have an `mlp` too.
ATTENTION = r"attn\d?|attention|proj_in|proj_out"
FEED_FORWARD = r"ff|ff_[it]|ffn|feed_forward|mlp[XC]?|mlp_[xy]|linear1|linear2"
TARGETS = {
    "attention": rf"^(?!.*embed).*(?:^|[._])(?:{ATTENTION})(?:\.|$)",
    "attention and feed-forward": rf"^(?!.*embed).*(?:^|[._])(?:{ATTENTION}|{FEED_FORWARD})(?:\.|$)",
    "all linear and convolution layers": "",
}
DEFAULT_TARGETS = "attention and feed-forward"


def find_targets(network: nn.Module, targets: str = DEFAULT_TARGETS) -> dict[str, nn.Module]:
    """The layers to adapt, by their name in the network.

    targets: one of TARGETS. All but the last take linear layers and convolutions of one pixel alone. Raises ValueError
    where the network has none.
    """
    pattern = re.compile(TARGETS[targets])
    found = {
        name: module
        for name, module in network.named_modules()
        if pattern.search(name) and _adaptable(module, larger_convolutions=not TARGETS[targets])
    }
    if not found:
        raise ValueError(
            f"Choose another of lora_targets ({', '.join(TARGETS)}), or mode full: this network has no layers of the "
            f"kind {targets!r} that a LoRA could go on."
        )
    return found


def _adaptable(module: nn.Module, larger_convolutions: bool) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and (larger_convolutions or module.kernel_size == (1, 1))
    # By what they have: quantized layers are of classes of their own.
    return hasattr(module, "in_features") and hasattr(module, "out_features")


class LoRALayer(nn.Module):
    """Adds scale · up(down(x)) to the output of a linear layer or convolution; zero to begin with, as `up` is."""

    def __init__(self, layer: nn.Module, rank: int, alpha: float, generator: torch.Generator):
        super().__init__()
        self.scale = alpha / rank
        if isinstance(layer, nn.Conv2d):
            self.convolution = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
            down = torch.empty(rank, layer.in_channels, *layer.kernel_size)
            up = torch.zeros(layer.out_channels, rank, 1, 1)
        else:
            self.convolution = None
            down, up = torch.empty(rank, layer.in_features), torch.zeros(layer.out_features, rank)
        nn.init.kaiming_uniform_(down, a=5**0.5, generator=generator)
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """x: what the layer was given; output: what it made of it. Computed in their dtype, as autocast would."""
        down, up = self.down.to(x.dtype), self.up.to(output.dtype)
        if self.convolution is None:
            hidden = F.linear(x, down).to(output.dtype)
            # Product and sum in one go, for the output is large and the product would be as large.
            added = torch.addmm(output.flatten(0, -2), hidden.flatten(0, -2), up.t(), alpha=self.scale)
            return added.view_as(output)
        return output + F.conv2d(F.conv2d(x, down, **self.convolution).to(output.dtype) * self.scale, up)


class LoRASet(nn.Module):
    """One role's adapters, by the name of the layer they go on."""

    def __init__(self, layers: Mapping[str, nn.Module], rank: int, alpha: float | None = None, seed: int = 0):
        """alpha: None is as the rank, so that scale is 1. Raises ValueError for a rank below 1."""
        super().__init__()
        if rank < 1:
            raise ValueError(f"Set the LoRA's rank to 1 or more; it is {rank}.")
        self.rank, self.alpha = rank, float(alpha if alpha is not None else rank)
        generator = torch.Generator().manual_seed(seed)
        # A module's name must not have dots in it.
        self.layers = nn.ModuleDict(
            {name.replace(".", "/"): LoRALayer(layer, rank, self.alpha, generator) for name, layer in layers.items()}
        )

    def by_layer(self) -> dict[str, LoRALayer]:
        """The adapters under the names that the network has for its layers."""
        return {name.replace("/", "."): layer for name, layer in self.layers.items()}


class SharedRowsError(RuntimeError):
    """A layer's rows are not those of the batch, so it can't be of several roles at once."""


class Adapters:
    """LoRA sets of several roles on one network. Outside of `attached` and `roles` it is as if there were none.

    is_plain(layer): whether a layer's own forward is its weight's product and nothing else, just now.
    """

    def __init__(
        self,
        network: nn.Module,
        sets: Mapping[str, LoRASet],
        is_plain: Callable[[nn.Module], bool] = lambda layer: type(layer) in (nn.Linear, nn.Conv2d),
    ):
        self.network, self.is_plain = network, is_plain
        self.layers = {role: adapters.by_layer() for role, adapters in sets.items()}
        self.active: tuple[tuple[str | None, int], ...] = ()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within it, the network's layers ask for the roles that are active."""
        layers = [self.network.get_submodule(name) for name in self._names()]
        own = [vars(layer).get("forward") for layer in layers]  # where another pack has put one
        for name, layer in zip(self._names(), layers, strict=True):
            layer.forward = self._adapted(name, layer)
        try:
            yield
        finally:
            for layer, forward in zip(layers, own, strict=True):
                del layer.forward
                if forward is not None:
                    layer.forward = forward

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for layers in self.layers.values() for name in layers))

    def role(self, role: str | None) -> AbstractContextManager[None]:
        """Within it, the network is that role's; None is the network alone."""
        return self.roles(((role, 1),))

    @contextmanager
    def roles(self, shares: tuple[tuple[str | None, int], ...]) -> Iterator[None]:
        """Within it, a batch's rows are of several roles: (role, how many rows), in the order of the rows.

        A layer that is given several rows for each of the batch, as some networks fold frames or places into it, has
        them shared out alike.
        """
        before, self.active = self.active, shares
        try:
            yield
        finally:
            self.active = before

    def _adapted(self, name: str, layer: nn.Module) -> Callable:
        own, untouched = layer.forward, "forward" not in vars(layer)
        by_role = {role: layers[name] for role, layers in self.layers.items() if name in layers}

        def forward(x: Tensor, *args: object, **kwargs: object) -> Tensor:
            pieces, loras = self._pieces(by_role, len(x))
            if not loras:
                return own(x, *args, **kwargs)
            plain = (
                untouched and isinstance(layer, nn.Linear) and layer.weight.dtype == x.dtype and self.is_plain(layer)
            )
            if plain and not torch.is_autocast_enabled(x.device.type):  # which casts for each operation by itself
                factors = [Lora(lora.down, lora.up, lora.scale) for lora in loras]
                return adapted_linear(x, layer.weight, layer.bias, pieces, factors)
            output = own(x, *args, **kwargs)
            if len(pieces) == 1:
                return loras[0](x, output)
            parts = [(output[start:stop], x[start:stop], lora) for start, stop, lora in pieces]
            return torch.cat([y if lora is None else loras[lora](x, y) for y, x, lora in parts])

        return forward

    def _pieces(self, by_role: Mapping[str, LoRALayer], rows: int) -> tuple[list[Piece], list[LoRALayer]]:
        """The roles' rows of a layer's input, and the adapters that are on some of them."""
        total = sum(count for _, count in self.active)
        if total and rows % total:
            raise SharedRowsError(f"a layer is given {rows} rows, which can't be shared out among {total}")
        pieces, loras, start = [], [], 0
        for role, count in self.active:
            stop = start + count * (rows // total)
            lora = by_role.get(role)
            pieces.append(Piece(start, stop, None if lora is None else len(loras)))
            loras += [] if lora is None else [lora]
            start = stop
        return pieces, loras
