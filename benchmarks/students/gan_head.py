"""DMD2's classifier on real and generated pictures: a small head on the fake score's own features.

arXiv 2405.14867, section 4.3: the features are of the network's middle, the losses those of a non-saturating GAN, and
both kinds of pictures are noised before (diffusion GAN, arXiv 2206.02262).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor, nn

GROUPS = 32


class Head(nn.Module):
    """Convolutions down to a single cell, and a logit of it: how real the picture is. (B, channels, H, W) → (B,)."""

    def __init__(self, channels: int, seed: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Conv2d(channels, channels, 4, stride=2, padding=1),
                nn.GroupNorm(GROUPS, channels),
                nn.SiLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(channels, channels, 1),
                nn.SiLU(),
                nn.Conv2d(channels, 1, 1),
            )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)[:, 0, 0, 0]


class _Enough(Exception):  # noqa: N818  it is no error
    """What is behind the layer need not be computed."""


def features_of(layer: nn.Module, forward: Callable[[], object]) -> Tensor:
    """What this layer gives when `forward` runs the network that it is in, which is left there."""
    seen: list[Tensor] = []

    def leave(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        seen.append(output)
        raise _Enough

    hook = layer.register_forward_hook(leave)
    try:
        forward()
    except _Enough:
        pass
    finally:
        hook.remove()
    (features,) = seen
    return features


def classifier_loss(real: Tensor, generated: Tensor) -> Tensor:
    """mean softplus(-real) + mean softplus(generated), of logits (B,): least where real pictures are told apart.

    -log sigmoid(real) - log(1 - sigmoid(generated)): the discriminator's share of DMD2's eq. 4.
    """
    return F.softplus(-real).mean() + F.softplus(generated).mean()


def student_gan_loss(generated: Tensor) -> Tensor:
    """mean softplus(-generated) = -log sigmoid: the student's share, not saturating."""
    return F.softplus(-generated).mean()
