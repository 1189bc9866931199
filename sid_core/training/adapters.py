"""LoRA sets on one frozen network, switched by role: the network's weights are neither copied nor changed.

LoRA (arXiv 2106.09685): a layer's output gains scale · up(down(x)), with scale = alpha / rank. The layer itself is run
as it is, in whatever precision its owner has put it (float16, float8, quantized); the adapters are float32.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor, nn

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


class Adapters:
    """LoRA sets of several roles on one network. Outside of `attached` and `role` it is as if there were none."""

    def __init__(self, network: nn.Module, sets: Mapping[str, LoRASet]):
        self.network = network
        self.layers = {role: adapters.by_layer() for role, adapters in sets.items()}
        self.active: str | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within it, the network's layers ask for the role that is active."""
        names = {name for layers in self.layers.values() for name in layers}
        hooks = [self.network.get_submodule(name).register_forward_hook(self._hook(name)) for name in names]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def role(self, role: str | None) -> Iterator[None]:
        """Within it, the network is that role's; None is the network alone."""
        before, self.active = self.active, role
        try:
            yield
        finally:
            self.active = before

    def _hook(self, name: str) -> Callable:
        def add(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
            layer = self.layers[self.active].get(name) if self.active is not None else None
            return output if layer is None else layer(inputs[0], output)

        return add
