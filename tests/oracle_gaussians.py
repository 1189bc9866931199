"""Gaussian pictures of one number each, whose scores and probability flow are known."""

import torch
from oracles import toy_prompts
from torch import Tensor, nn

from sid_pack.sid_core.data.conditioning import Cond
from sid_pack.sid_core.method.process import VP, per_sample

MEANS = torch.tensor([-1.5, 0.0, 1.0])  # of the three prompts
DEVIATION = 0.5
PROCESS = VP.stable_diffusion("v")


def denoised(x_t: Tensor, t: Tensor, mean: Tensor | float, deviation: Tensor | float) -> Tensor:
    """E[x_0 | x_t] for x_0 ~ N(mean, deviation²): (s² α x_t + σ² m)/(α² s² + σ²)."""
    alpha, sigma = (per_sample(c, x_t) for c in PROCESS.coefficients(t))
    return (deviation**2 * alpha * x_t + sigma**2 * mean) / (alpha**2 * deviation**2 + sigma**2)


def flowed(x_t: Tensor, t: Tensor, mean: Tensor | float, deviation: float) -> Tensor:
    """Where the probability flow takes x_t, at time t, in the picture: m + s (x_t - α m)/√(α² s² + σ²)."""
    alpha, sigma = (per_sample(c, x_t) for c in PROCESS.coefficients(t))
    return mean + deviation * (x_t - alpha * mean) / (alpha**2 * deviation**2 + sigma**2).sqrt()


def solved(x_t: Tensor, t: int, mean: Tensor | float, deviation: float, stride: int) -> Tensor:
    """The same by DDIM steps of `stride` times, which are short of the flow's spread."""
    while t > 0:
        (alpha, sigma), (alpha_s, sigma_s) = (PROCESS.coefficients(torch.tensor(at)) for at in (t, max(t - stride, 0)))
        clean = denoised(x_t, torch.full((len(x_t),), t), mean, deviation)
        x_t = alpha_s * clean + sigma_s / sigma * (x_t - alpha * clean)
        t = max(t - stride, 0)
    return x_t


def mean_of(cond: Cond, means: Tensor = MEANS) -> Tensor:
    """(B, 1, 1, 1): the mean of the pictures of each row's prompt."""
    return (cond["word"] @ means.to(cond["word"])).view(-1, 1, 1, 1)


def teacher(x_t: Tensor, t: Tensor, cond: Cond, uncond: Cond) -> Tensor:
    return denoised(x_t, t, mean_of(cond), DEVIATION)


class LearntGaussian(nn.Module):
    """The score of Gaussians whose means and deviation are to be learnt."""

    def __init__(self):
        super().__init__()
        self.means, self.log_deviation = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(()))

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return denoised(x_t, t, mean_of(cond, self.means), self.log_deviation.exp())


class AffineStudent(nn.Module):
    """x̂_0 = m + g x_t, with a mean for each prompt: from pure noise, every Gaussian."""

    def __init__(self, gain: float = 0.1):
        super().__init__()
        self.means, self.gain = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.tensor(gain))

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return mean_of(cond, self.means) + self.gain * x_t


class TimedStudent(nn.Module):
    """x̂_0 = m + g_t (x_t - α_t m), with a gain for each time: the form that the flow of Gaussians has.

    It begins as the teacher, whose gain is s² α/(α² s² + σ²).
    """

    def __init__(self):
        super().__init__()
        alpha, sigma = PROCESS.coefficients(torch.arange(1000))
        gain = DEVIATION**2 * alpha / (alpha**2 * DEVIATION**2 + sigma**2)
        self.means, self.gain = nn.Parameter(MEANS.clone()), nn.Parameter(gain.float())

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        alpha = per_sample(PROCESS.coefficients(t).alpha, x_t)
        mean = mean_of(cond, self.means)
        return mean + per_sample(self.gain[t.long()], x_t) * (x_t - alpha * mean)


class GaussianPictures:
    """Real pictures of the three prompts: N(m, s²), different in each row."""

    def __init__(self, count: int = 3000):
        self.prompts = toy_prompts()
        draw = torch.Generator().manual_seed(5)
        self.prompt = torch.arange(count) % 3
        self.latents = (MEANS[self.prompt] + DEVIATION * torch.randn(count, generator=draw)).view(-1, 1, 1, 1)

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, rows: Tensor) -> tuple[Tensor, Cond]:
        return self.latents[rows], self.prompts.batch(self.prompt[rows])
