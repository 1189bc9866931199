from contextlib import nullcontext

import torch
from torch import nn

from sid_pack.sid_core.training.adapters import Adapters, LoRASet, find_targets
from sid_pack.sid_core.training.recompute import checkpointed, find_blocks


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn1 = nn.Linear(16, 64)
        self.ff = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 16))

    def forward(self, x, scale=1.0):
        return x + scale * self.ff(torch.tanh(self.attn1(x)))


class Network(nn.Module):
    """As ComfyUI's UNets are: blocks within sequences within lists, and a sequence of its own."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(16, 16), nn.SiLU())
        self.input_blocks = nn.ModuleList([nn.Sequential(nn.Linear(16, 16)), nn.Sequential(Block(), Block())])
        self.middle_block = nn.Sequential(Block())

    def forward(self, x):
        x = self.input_blocks[0](self.embed(x))
        for block in [*self.input_blocks[1], *self.middle_block]:
            x = block(x, scale=0.5)
        return x


def test_blocks_are_the_smallest_modules_of_lists():
    network = Network()
    blocks = [*network.input_blocks[1], network.middle_block[0]]
    assert find_blocks(network) == blocks


def gradients(recompute: bool) -> list[torch.Tensor]:
    """Of two roles that are used in turn."""
    torch.manual_seed(0)
    network = Network().requires_grad_(False)
    sets = {role: LoRASet(find_targets(network), rank=4, seed=i) for i, role in enumerate(("student", "fake"))}
    for parameter in [p for adapters in sets.values() for p in adapters.parameters()]:
        parameter.data.normal_(std=0.3)
    adapters = Adapters(network, sets)

    def again():
        roles = adapters.active
        return lambda: adapters.roles(roles)

    with adapters.attached(), checkpointed(network, again) if recompute else nullcontext():
        both(network, adapters).backward()  # no role is active by now
    return [p.grad for adapters in sets.values() for p in adapters.parameters()]


def both(network: Network, adapters: Adapters) -> torch.Tensor:
    x = torch.randn(32, 16, generator=torch.manual_seed(3))
    with adapters.role("student"):
        x = network(x)
    with adapters.role("fake"):
        return network(x).square().mean()


def test_gradients_are_bitwise_the_same_in_the_role_of_the_forward_pass():
    expected = gradients(recompute=False)
    assert all(torch.equal(a, b) for a, b in zip(gradients(recompute=True), expected, strict=True))
    assert all(gradient.abs().max() > 0 for gradient in expected)


def test_the_network_is_itself_again():
    network = Network()
    mine = network.middle_block[0]
    mine.forward = own = lambda x, scale: x  # as another pack's patch
    with checkpointed(network):
        assert mine.forward is not own
    assert mine.forward is own
    assert "forward" not in vars(network.input_blocks[1][0])


def test_activations_within_blocks_are_not_kept():
    network = Network().requires_grad_(False)
    x = torch.randn(32, 16, requires_grad=True)

    def kept() -> int:
        numbers = 0

        def note(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal numbers
            numbers += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            network(x)
        return numbers

    everything = kept()
    with checkpointed(network):
        assert kept() < everything / 3
