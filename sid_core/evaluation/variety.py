"""How different the answers to one prompt are."""

import torch
from torch import Tensor


def answer_entropy(answers: Tensor, classes: int) -> float:
    """Entropy in nats of how often each answer is given (Shannon 1948): H = -Σ_c p_c log p_c, p_c = n_c / N.

    Of few draws it is less than that of what they are drawn from: compare it with `expected_entropy` of as many.

    answers: (N,) in 0 … classes - 1, at least one.
    """
    return _entropy_terms(_shares(answers, classes)).sum().item()


def expected_entropy(answers: Tensor, classes: int, draws: int) -> float:
    """The mean of `answer_entropy` over sets of `draws` answers, drawn at random with replacement from these.

    Each n_c is binomial, so no draw is needed:

        E[H] = -Σ_c Σ_n Binomial(n; draws, p_c) n / draws log(n / draws)
    """
    if draws < 1:
        raise ValueError(f"needs one draw or more, got {draws}")
    shares = _shares(answers, classes)
    seen = shares[shares > 0][:, None]
    counts = torch.arange(draws + 1, dtype=torch.float64)
    total = torch.tensor(draws, dtype=torch.float64)
    ways = torch.lgamma(total + 1) - torch.lgamma(counts + 1) - torch.lgamma(total - counts + 1)
    log_chance = ways + torch.xlogy(counts, seen) + torch.xlogy(total - counts, 1 - seen)
    return (log_chance.exp() * _entropy_terms(counts / draws)).sum().item()


def mean_pair_distance(features: Tensor, replaced: bool = False) -> float:
    """Mean Euclidean distance between two of the features (N, D), drawn at random.

    replaced: the first is put back before the second is drawn, so that 1 / N of the pairs are of no distance. That is
    what a sampler comes to that draws from N known pictures; else the two are different ones, and N is 2 or more.
    """
    count = len(features)
    if count < 2 - replaced:
        raise ValueError(f"needs two features or more, got {count}")
    pairs = count**2 if replaced else count * (count - 1)
    return 2 * torch.pdist(features.double()).sum().item() / pairs


def _shares(answers: Tensor, classes: int) -> Tensor:
    if not len(answers) or answers.min() < 0 or answers.max() >= classes:
        raise ValueError(f"needs answers from 0 to {classes - 1}, one at least, got {answers.tolist()}")
    return answers.bincount(minlength=classes).double() / len(answers)


def _entropy_terms(shares: Tensor) -> Tensor:
    return -torch.xlogy(shares, shares)
