"""An exponential moving average of weights, counted in images rather than iterations."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


class EMA:
    """w̄ ← w + 0.5^(images/half-life) (w̄ - w), so batch size does not change what the half-life means.

    In a young run the half-life is bounded by `ramp_up` · images seen, as in EDM (arXiv 2206.00364): the average would
    otherwise hold the starting weights for a long time.
    """

    def __init__(self, weights: Iterable[Tensor], half_life_images: float, ramp_up: float = 0.05):
        if not 0 <= half_life_images < math.inf:
            raise ValueError(f"Set ema_half_life to 0 (off) or more images; it is {half_life_images}.")
        self.half_life_images = half_life_images
        self.ramp_up = ramp_up
        self.average = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self, weights: Iterable[Tensor], batch: int, images_seen: int) -> None:
        """Take in the weights after `batch` more images; `images_seen` counts them all."""
        half_life = min(self.half_life_images, self.ramp_up * images_seen)
        decay = 0.5 ** (batch / half_life) if half_life > 0 else 0.0
        for average, weight in zip(self.average, weights, strict=True):
            average.lerp_(weight.to(average), 1 - decay)
