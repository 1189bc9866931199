"""The adversarial losses of SiDA (arXiv 2410.14919), whose discriminator is the fake score network itself.

A Diffusion-GAN (arXiv 2206.02262): real and generated pictures are compared noised, at the times at which scores are.
No parameters are added, for the logits are means of features that the network computes anyway. Pure functions.
"""

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from torch import Tensor

LARGEST_LOGIT = 10.0  # beyond it there is no gradient, for either role


def pooled(features: Tensor) -> Tensor:
    """Features as logits, their mean over the second axis; in float32 or better.

    A UNet's middle block (B, C, H, W) is pooled over channels, to a map (B, H, W) (SiDA); a DiT's last tokens
    (B, N, D), before their projection, are pooled over tokens, to (B, D) (SiD-DiT, arXiv 2509.25127).
    """
    return features.to(torch.promote_types(features.dtype, torch.float32)).mean(1)


def discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """½ [-log D(real) - log(1 - D(generated))], with D the sigmoid of the logits (B, …), averaged over all of them.

    Log 2 where it can't tell them apart, near 0 where it always can.
    """
    return (_surprise(real).mean() + _surprise(-generated).mean()) / 2


def deception_loss(generated: Tensor, weight: Tensor | None = None) -> Tensor:
    """-log D(generated) · weight, the student's share: averaged over each sample's logits, then over the batch.

    generated: logits (B, …). weight: (B,), the one that SiD's loss has for the same samples; None is 1.
    """
    per_sample = _surprise(generated).flatten(1).mean(1)
    return (per_sample if weight is None else per_sample * weight.to(per_sample)).mean()


def _surprise(logits: Tensor) -> Tensor:
    """Binary cross entropy with the label 1, -log sigmoid; that with the label 0 is the same of the negative logits."""
    return F.softplus(-logits.clamp(-LARGEST_LOGIT, LARGEST_LOGIT))
