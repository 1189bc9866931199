"""Recomputed activations of blocks that change tensors in place, as Flux's do (`img += …`)."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import allow_mutation_on_saved_tensors

from sid_pack.sid_core.training.recompute import checkpointed


class Block(nn.Module):
    """It changes what its norm has saved, which is its input as well, and returns that."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, img: Tensor, scale: float = 1.0) -> Tensor:
        img += scale * self.mlp(self.norm(img))
        img.mul_(1.5)
        img += self.mlp(self.norm(img))
        return img


class SameBlock(Block):
    """The same function, without a change in place."""

    def forward(self, img: Tensor, scale: float = 1.0) -> Tensor:
        img = 1.5 * (img + scale * self.mlp(self.norm(img)))
        return img + self.mlp(self.norm(img))


class Network(nn.Module):
    def __init__(self, kind: type[Block]):
        super().__init__()
        torch.manual_seed(0)
        self.into = nn.Linear(8, 8)
        self.blocks = nn.ModuleList(kind() for _ in range(3))
        self.out = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for i, block in enumerate(self.blocks):
            x = block(img=x, scale=0.5) if i else block(x)
        return self.out(x)


def gradients(kind: type[Block], frozen: str = "", *contexts) -> list[Tensor]:
    """frozen: the layer whose weights are not trained; without `into`, the first block's input has no gradient."""
    network = Network(kind)
    if frozen:
        network.get_submodule(frozen).requires_grad_(False)
    x = torch.randn(5, 8, generator=torch.manual_seed(1))
    with allow_mutation_on_saved_tensors(), contexts[0](network) if contexts else nullcontext():
        network(x).square().sum().backward()
    return [weight.grad for weight in network.parameters() if weight.grad is not None]


def recomputed(network: Network):
    return checkpointed(network, changes_in_place=True)


@pytest.mark.parametrize("frozen", ["", "into", "blocks.1"])
def test_gradients_are_those_of_the_same_function_without_changes_in_place(frozen):
    expected = gradients(SameBlock, frozen)
    for actual in (gradients(Block, frozen), gradients(Block, frozen, recomputed)):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_torchs_own_checkpoint_would_be_wrong_without_a_word():
    """Or this file is not needed any more."""
    expected = gradients(SameBlock)
    wrong = gradients(Block, "", checkpointed)
    assert max(float((a - b).abs().max()) for a, b in zip(wrong, expected, strict=True)) > 1e-2


def test_no_more_than_the_inputs_of_blocks_is_kept():
    network = Network(Block)
    kept = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += not isinstance(tensor, nn.Parameter)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), recomputed(network):
        network(torch.randn(5, 8))
    assert kept <= 3  # of both layers around them
