"""The adversarial losses against torch's own, and by hand."""

import math

import pytest
import torch
from torch import nn

from sid_pack.sid_core.method.discriminator import deception_loss, discriminator_loss, pooled


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return 6 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 7)], ids=["map", "tokens"])
def test_losses_and_gradients_equal_torchs_cross_entropy_of_clamped_logits(shape):
    real, generated = (draw(*shape, seed=seed).requires_grad_() for seed in range(2))
    assert real.abs().max() > 10  # else the clamp would not be seen
    weight = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    bce = nn.BCEWithLogitsLoss(reduction="none")

    def against(logits: torch.Tensor, label: float) -> torch.Tensor:
        return bce(logits.clamp(-10, 10), torch.full_like(logits, label)).flatten(1).mean(1)

    for mine, theirs in (
        (discriminator_loss(real, generated), ((against(real, 1.0) + against(generated, 0.0)) / 2).mean()),
        (deception_loss(generated, weight), (against(generated, 1.0) * weight).sum() / 3),
        (deception_loss(generated), against(generated, 1.0).mean()),
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=0)
        found, expected = (
            torch.autograd.grad(loss, (real, generated), allow_unused=True, retain_graph=True)
            for loss in (mine, theirs)
        )
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_by_chance_both_are_log_two_and_the_better_the_lower():
    nothing, sure = torch.zeros(2, 3), torch.full((2, 3), 9.0)
    assert float(discriminator_loss(nothing, nothing)) == pytest.approx(math.log(2))
    assert float(deception_loss(nothing)) == pytest.approx(math.log(2))
    assert discriminator_loss(sure, -sure) < 1e-3 < math.log(2) < discriminator_loss(-sure, sure)
    assert deception_loss(sure) < 1e-3 < math.log(2) < deception_loss(-sure)


def test_channels_of_a_map_and_tokens_of_a_sequence_are_pooled():
    features = torch.arange(24.0).view(1, 2, 3, 4)
    assert torch.equal(pooled(features), (features[:, 0] + features[:, 1]) / 2)
    tokens = torch.tensor([[[1.0, 5.0], [3.0, 9.0]]])
    assert torch.equal(pooled(tokens), torch.tensor([[2.0, 7.0]]))
    # In half precision the sum of so many would be infinite.
    assert float(pooled(torch.full((1, 1280, 1, 1), 200.0, dtype=torch.float16))) == 200.0
