import pytest
import torch
from torch import nn

from sid_pack.sid_core.training.memory import measure_activations

ROWS, WIDTH = 64, 32
ONE = ROWS * WIDTH * 4  # bytes of an activation


class Block(nn.Module):
    """exp keeps its output, and the linear layer its input, which is the same tensor: one activation for each exp."""

    def __init__(self, layers: int):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))

    def forward(self, x):
        for layer in self.layers:
            x = layer(torch.exp(x))
        return x


class Network(nn.Module):
    def __init__(self, *layers: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(count) for count in layers)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("layers", [(3,), (2, 2, 2), (1, 4, 2)])
def test_activations_are_counted_once_and_weights_not(layers):
    network = Network(*layers)
    x = torch.randn(ROWS, WIDTH, requires_grad=True)
    found = measure_activations(network, lambda: network(x))
    assert found.kept == sum(layers) * ONE
    assert found.recomputed == (len(layers) + max(layers)) * ONE  # each block's input, and the largest one's inside


def test_without_gradients_nothing_is_kept():
    network = Network(2).requires_grad_(False)
    x = torch.randn(ROWS, WIDTH)
    assert measure_activations(network, lambda: network(x)).kept == 0


def test_the_network_is_left_as_it_was():
    network = Network(2, 2)
    with pytest.raises(ZeroDivisionError):
        measure_activations(network, lambda: (network(torch.randn(1, WIDTH)), 1 / 0))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
