import pytest
import torch
from torch import nn

from sid_pack.sid_core.training.adapters import Adapters, LoRASet, find_targets


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn1 = nn.Linear(6, 6)
        self.ff = nn.Linear(6, 6)
        self.skip = nn.Linear(6, 6)
        self.proj_in = nn.Conv2d(3, 4, 1)
        self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)

    def forward(self, x):
        x = self.conv(self.proj_in(x)).flatten(2).mean(-1)
        return self.skip(self.ff(torch.tanh(self.attn1(x))))


ALL = "all linear and convolution layers"
X = torch.randn(2, 3, 8, 8, generator=torch.manual_seed(1), dtype=torch.float64)


def network() -> Block:
    torch.manual_seed(0)
    return Block().double().requires_grad_(False)


def adapted(net: nn.Module, targets: str = ALL, alpha: float = 1.0, **roles: float) -> Adapters:
    """Roles whose `up` weights are random of the given size."""
    sets = {}
    for i, (role, size) in enumerate(roles.items()):
        sets[role] = LoRASet(find_targets(net, targets), rank=2, alpha=alpha, seed=i).double()
        for layer in sets[role].by_layer().values():
            layer.up.data.copy_(torch.randn(layer.up.shape, generator=torch.manual_seed(i)) * size)
    return Adapters(net, sets)


def merged(net: Block, adapters: Adapters, role: str) -> Block:
    """Another route: W + alpha/rank · up·down, a convolution's rank summed over by hand."""
    other = network()
    for name, layer in adapters.layers[role].items():
        weight = other.get_submodule(name).weight
        up, down = layer.up.detach().flatten(1), layer.down.detach()
        weight += 0.5 * torch.einsum("or,r...->o...", up, down)
    return other


def test_a_role_is_the_network_with_its_low_rank_weights_merged():
    net = network()
    adapters = adapted(net, student=1.0, fake=1.0)
    plain = net(X)
    with adapters.attached():
        for role in ("student", "fake"):
            with adapters.role(role):
                out = net(X)
            torch.testing.assert_close(out, merged(net, adapters, role)(X), rtol=1e-12, atol=1e-12)
            assert (out - plain).abs().max() > 0.1
        assert torch.equal(net(X), plain)
    with adapters.role("student"):
        assert torch.equal(net(X), plain)  # not attached


def test_before_training_all_roles_are_bitwise_the_network():
    net = network().float()
    sets = {role: LoRASet(find_targets(net, ALL), rank=3) for role in ("student", "fake")}
    adapters = Adapters(net, sets)
    with adapters.attached():
        for role in sets:
            with adapters.role(role):
                assert torch.equal(net(X.float()), network().float()(X.float()))


def test_gradients_reach_the_active_role_alone():
    net = network()
    adapters = adapted(net, student=1.0, fake=1.0)
    x = X.clone().requires_grad_()
    with adapters.attached(), adapters.role("student"):
        out = net(x)
    out.square().sum().backward()
    by_role = {
        role: [p.grad for layer in adapters.layers[role].values() for p in layer.parameters()]
        for role in ("student", "fake")
    }
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in by_role["student"])
    assert all(gradient is None for gradient in by_role["fake"])
    assert all(weight.grad is None for weight in net.parameters())
    assert x.grad.abs().max() > 0


def test_roles_nest_and_come_back_after_an_error():
    adapters = adapted(network(), student=1.0, fake=1.0)
    with adapters.role("student"):
        with pytest.raises(KeyError), adapters.role("fake"):
            raise KeyError
        assert adapters.active == "student"
    assert adapters.active is None


def test_low_precision_layers_have_adapters_in_float32():
    net = network().to(torch.bfloat16)
    adapters = adapted(net, student=1.0)
    for layer in adapters.layers["student"].values():
        layer.float()
    with adapters.attached(), adapters.role("student"):
        out = net(X.bfloat16())
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert all(
        p.grad.dtype == torch.float32 for layer in adapters.layers["student"].values() for p in layer.parameters()
    )


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        ("attention", {"attn1", "proj_in"}),
        ("attention and feed-forward", {"attn1", "proj_in", "ff"}),
        (ALL, {"attn1", "proj_in", "ff", "skip", "conv"}),
    ],
)
def test_targets_are_found_by_their_names(targets, names):
    assert set(find_targets(network(), targets)) == names


def test_what_cannot_be_adapted_is_said():
    with pytest.raises(ValueError, match="no layers of the kind 'attention'"):
        find_targets(nn.Sequential(nn.Linear(2, 2)), "attention")
    with pytest.raises(ValueError, match="rank to 1 or more; it is 0"):
        LoRASet(find_targets(network()), rank=0)
