"""DMD's gradient, against the divergence that it is the gradient of."""

import pytest
import torch
from oracle_gaussians import PROCESS, denoised

WANTED = (0.7, 0.4)  # mean and deviation of the teacher's Gaussian


@pytest.fixture
def pictures():
    """A student's: m + s z, for quadrature over z, and over the noise at one time."""
    mean = torch.tensor(-0.3, dtype=torch.float64, requires_grad=True)
    deviation = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    return mean, deviation


def normal_quantiles(count: int) -> torch.Tensor:
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)


def divergence(mean: torch.Tensor, deviation: torch.Tensor, t: int) -> torch.Tensor:
    """D_KL of the noised student from the noised teacher, in closed form."""
    alpha, sigma = PROCESS.coefficients(torch.tensor(t))
    ours, theirs = (alpha**2 * s**2 + sigma**2 for s in (deviation, torch.tensor(WANTED[1], dtype=torch.float64)))
    gap = (alpha * (mean - WANTED[0])) ** 2
    return 0.5 * (ours / theirs - 1 - (ours / theirs).log() + gap / theirs)


@pytest.mark.parametrize("t", [100, 500, 900])
def test_with_exact_scores_the_gradient_is_that_of_the_divergence(pictures, t):
    from distribution_matching import matching_gradient

    mean, deviation = pictures
    z, noise = torch.cartesian_prod(normal_quantiles(600), normal_quantiles(600)).T
    x_g = (mean + deviation * z)[:, None]
    at = torch.full((len(z),), t)
    x_t = PROCESS.diffuse(x_g, noise[:, None], at).detach()
    y_teacher, y_fake = denoised(x_t, at, *WANTED), denoised(x_t, at, mean.detach(), deviation.detach())
    gradient = matching_gradient(x_g, y_teacher, y_fake)
    assert not gradient.requires_grad
    # What the authors leave out: α of the noising, and α/σ² between clean predictions and scores.
    alpha, sigma = PROCESS.coefficients(torch.tensor(t))
    unnormalized = gradient * (x_g - y_teacher).abs().detach() * alpha**2 / sigma**2
    found = torch.autograd.grad((unnormalized * x_g).sum() / len(z), (mean, deviation))
    expected = torch.autograd.grad(divergence(mean, deviation, t), (mean, deviation))
    for ours, theirs in zip(found, expected, strict=True):
        assert float(ours) == pytest.approx(float(theirs), rel=0.01)


def test_each_sample_is_normalized_by_its_own_error():
    from distribution_matching import matching_gradient

    x_g, y_teacher = torch.zeros(3, 2, 1, 1), torch.tensor([[1.0, 3.0], [10.0, 30.0], [0.0, 0.0]]).view(3, 2, 1, 1)
    gradient = matching_gradient(x_g, y_teacher, y_teacher + torch.tensor([2.0, -2.0]).view(1, 2, 1, 1))
    expected = torch.tensor([[1.0, -1.0], [0.1, -0.1], [2e5, -2e5]])
    torch.testing.assert_close(gradient.flatten(1), expected)


def test_the_surrogate_s_gradient_is_the_given_one_per_element():
    from distribution_matching import surrogate_loss

    x_g = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    wanted = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    (found,) = torch.autograd.grad(surrogate_loss(x_g, wanted), x_g)
    torch.testing.assert_close(found, wanted / x_g.numel())
