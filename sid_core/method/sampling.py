"""Few-step generation with one network (Few-step SiD, arXiv 2505.12674; SiD-DiT, arXiv 2509.25127)."""

import hashlib
import sys
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from .process import Process, per_sample

NoiseMode = Literal["fresh", "ddim", "fixed"]
NOISE_MODES: tuple[str, ...] = get_args(NoiseMode)
PredictClean = Callable[[Tensor, Tensor], Tensor]


def step_times(
    steps: int, *, process: Process, t_init: float | None = None, kind: str = "this kind of model"
) -> Tensor:
    """t_i = t_init · (1 - i/N) for i = 0 … N-1, noisiest first, as times of `process`.

    `t_init` defaults to the process's own: 625 for VP, 1.0 for flow. kind: what errors call models of this process.
    → 1-D tensor of `steps` times, no two the same.
    Raises ValueError for steps < 1 or a t_init that is no time of this process to begin at.
    """
    if steps < 1:
        raise ValueError(f"Set steps to 1 or more; it is {steps}.")
    t_init = process.default_t_init if t_init is None else t_init
    low, high = process.first_times(steps)
    if low > high:
        raise ValueError(f"Lower steps to {high:g} or less: it is {steps}, and {kind} has no more times.")
    if not (max(low, sys.float_info.min) <= t_init <= high):
        within = f"from {low:g} to {high:g}" if low else f"above 0, up to {high:g}"
        raise ValueError(
            f"Set t_init to a time {within}: it is {t_init:g}, and those are the times that {kind} can begin {steps} "
            f"step{'s' * (steps > 1)} at. Its usual one is {process.default_t_init:g}."
        )
    # float64, lest a product such as 0.2 · 5 fall just short of the whole time it means
    return process.snap(t_init * (steps - torch.arange(steps, dtype=torch.float64)) / steps)


def few_step(
    predict_clean: PredictClean,
    noise: Tensor,
    times: Tensor,
    process: Process,
    *,
    mode: NoiseMode = "fresh",
    next_noise: Callable[[], Tensor] | None = None,
    x_start: Tensor | None = None,
    t_end: Tensor | None = None,
) -> Tensor:
    """Alternate noising and denoising over `times`: x_t = α x̂ + σ n, x̂ ← predict_clean(x_t, t); x̂ starts at 0.

    noise: (B, C, …), the first n. `mode` gives the later ones: "fresh" from `next_noise` (default: Gaussian), "ddim"
    what the last prediction implies, (x_t - α x̂)/σ, "fixed" the first again. t reaches the network as (B,).
    x_start: begin with this noisy sample instead (a picture to change). t_end: noise the result to this time (a part
    of a longer schedule). → the last x̂, shaped as noise. Raises ValueError for an unknown mode.
    """
    if mode not in NOISE_MODES:
        raise ValueError(f"Choose the noise mode from {', '.join(NOISE_MODES)}; it is {mode!r}.")
    next_noise = next_noise or (lambda: torch.randn_like(noise))
    t = _batched(times[0], noise)
    x_t = process.diffuse(torch.zeros_like(noise), noise, t) if x_start is None else x_start
    for following in [*times[1:], t_end]:
        clean = predict_clean(x_t, t)
        if following is None:
            return clean
        if mode == "fresh":
            noise = next_noise()
        elif mode == "ddim":
            noise = implied_noise(x_t, clean, t, process)
        t = _batched(following, noise)
        x_t = process.diffuse(clean, noise, t)
    return x_t


def noise_for_each(first: Tensor, seed: int) -> Callable[[], Tensor]:
    """Later noises shaped as `first` (B, C, …): each picture's own, named by its first noise and the seed alone.

    So a picture is the same in whatever batch it is drawn and, as all is drawn on the CPU, on whatever device. Pictures
    without a first noise, as the second part of a schedule may have them, are named by their places.
    """
    generators = []
    for place, noise in enumerate(first):
        named = place.to_bytes(8, "little") if not noise.any() else noise.float().cpu().contiguous().numpy().tobytes()
        digest = hashlib.blake2b(named, digest_size=8, key=(seed % 2**64).to_bytes(8, "little")).digest()
        generators.append(torch.Generator().manual_seed(int.from_bytes(digest, "little")))
    shape = first.shape[1:]
    return lambda: torch.stack([torch.randn(shape, generator=each) for each in generators]).to(first)


def _batched(time: Tensor, like: Tensor) -> Tensor:
    # Whole times of VP stay whole; a flow's float64 ones are more than some devices have.
    dtype = like.dtype if time.is_floating_point() else time.dtype
    return time.to(like.device, dtype).expand(len(like))


def implied_noise(x_t: Tensor, clean: Tensor, t: Tensor, process: Process) -> Tensor:
    """ε̂ = (x_t - α_t x̂_0)/σ_t, all (B, C, …), t (B,)."""
    alpha, sigma = (per_sample(c, x_t) for c in process.coefficients(t))
    return (x_t - alpha * clean) / sigma
