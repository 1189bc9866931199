import pytest
import torch
from torch import nn

from sid_pack.sid_core.training.adapted_linear import Lora, Piece, adapted_linear
from sid_pack.sid_core.training.adapters import Adapters, LoRASet, SharedRowsError, find_targets


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
        assert adapters.active == (("student", 1),)
    assert adapters.active == ()


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


class Linears(nn.Module):
    """As transformers have them: tokens, with and without a bias."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.attn1 = nn.Linear(width, 2 * width)
        self.ff = nn.Linear(2 * width, width, bias=False)

    def forward(self, x):
        return self.ff(torch.tanh(self.attn1(x)))


@pytest.mark.parametrize("tokens", [1, 40])  # beside the layer, and in its weight
@pytest.mark.parametrize("order", ["rows", "rows with frames"])
def test_rows_of_several_roles_are_what_each_role_gives_alone(tokens, order):
    torch.manual_seed(0)
    net = Linears().double().requires_grad_(False)
    adapters = adapted(net, "attention and feed-forward", student=1.0, fake=0.5)
    weights = [w for layers in adapters.layers.values() for layer in layers.values() for w in layer.parameters()]
    frames = 1 if order == "rows" else 3
    x = torch.randn(5 * frames, tokens, 6, dtype=torch.float64, requires_grad=True)
    shares = (("fake", 2), (None, 1), ("student", 2))
    with adapters.attached():
        with adapters.roles(shares):
            together = net(x)
        parts = []
        for (role, _), rows in zip(shares, x.split([count * frames for _, count in shares]), strict=True):
            with adapters.role(role):
                parts.append(net(rows))
    torch.testing.assert_close(together, torch.cat(parts), rtol=1e-12, atol=1e-12)
    asked = [x, *weights]
    found, wanted = (torch.autograd.grad(y.cos().sum(), asked) for y in (together, torch.cat(parts)))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("tokens", [1, 40])
def test_gradients_of_an_adapted_layer_equal_those_of_its_formula(tokens, trained):
    torch.manual_seed(0)
    layer = nn.Linear(6, 8).double().requires_grad_(False)
    x, down, up = (torch.randn(s, dtype=torch.float64) for s in ((3, tokens, 6), (2, 6), (8, 2)))
    for tensor in (down, up):
        tensor.requires_grad_(trained)
    x.requires_grad_()
    found = adapted_linear(x, layer.weight, layer.bias, [Piece(0, 2, 0), Piece(2, 3, None)], [Lora(down, up, 0.7)])
    on = torch.tensor([0.7, 0.7, 0.0], dtype=torch.float64).view(3, 1, 1)
    wanted = layer(x) + on * ((x @ down.T) @ up.T)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    asked = [x, down, up] if trained else [x]
    for one, other in zip(*(torch.autograd.grad(y.cos().sum(), asked) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_rows_that_can_not_be_shared_out_are_refused():
    adapters = adapted(network(), student=1.0, fake=1.0)
    shares = (("student", 2), ("fake", 1))
    with adapters.attached(), adapters.roles(shares), pytest.raises(SharedRowsError, match="2 rows"):
        adapters.network(X)
