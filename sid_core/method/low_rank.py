"""A weight's difference as the two factors of a LoRA: the nearest matrix of a rank (Eckart and Young, 1936).

Large ones are factored by a randomized SVD (Halko, Martinsson and Tropp, arXiv 0909.4061), whose time goes with the
rank and not with the size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EXACT_SIDE = 256  # the smaller side up to which all singular values are computed
MARGIN, POWER_ITERATIONS = 16, 4  # singular values computed beyond the rank, and rounds that part them from the rest


@dataclass(frozen=True)
class Factors:
    """down: (rank, in, *kernel). up: (out, rank, 1, …). norm: of the difference. error: of what they lack of it; both
    Frobenius."""

    down: Tensor
    up: Tensor
    norm: float
    error: float

    @property
    def rank(self) -> int:
        return len(self.down)


def factored(difference: Tensor, rank: int, energy: float = 1.0, seed: int = 0) -> Factors:
    """up · down nearest to the difference of a linear layer's or convolution's weight, (out, in, *kernel).

    rank: at most. energy: the share of the sum of all squared singular values that is enough; 1 takes the whole rank.
    Computed in float32 where the difference lies, the singular values' roots going to either factor, so that both keep
    in float16. A convolution's kernel is in `down`, as kohya's LoRAs have it. Raises ValueError for a rank below 1.
    """
    if rank < 1:
        raise ValueError(f"Set the rank to 1 or more; it is {rank}.")
    matrix = difference.float().flatten(1)
    norm = _norm(matrix)
    left, values, right = _singular(matrix, min(rank, *matrix.shape), seed)
    enough = _enough(values, norm, energy)
    roots = values[:enough].sqrt()
    up, down = left[:, :enough] * roots, roots[:, None] * right[:enough]
    return Factors(
        down=down.reshape(enough, *difference.shape[1:]),
        up=up.reshape(len(up), enough, *(1 for _ in difference.shape[2:])),
        norm=norm,
        error=_norm(matrix - up @ down),
    )


def _singular(matrix: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest `rank` singular values, their left vectors as columns and their right ones as rows."""
    smaller = min(matrix.shape)
    if smaller <= EXACT_SIDE or rank + MARGIN >= smaller:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        within = _range(matrix, rank + MARGIN, torch.Generator().manual_seed(seed))
        left, values, right = torch.linalg.svd(within.mH @ matrix, full_matrices=False)
        left = within @ left
    return left[:, :rank], values[:rank], right[:rank]


def _range(matrix: Tensor, columns: int, generator: torch.Generator) -> Tensor:
    """Orthonormal columns that nearly hold what the matrix makes of anything (algorithm 4.4 of the paper).

    torch.svd_lowrank does the same, but draws from the device's own generator.
    """
    drawn = torch.randn(matrix.shape[1], columns, generator=generator).to(matrix)
    within = torch.linalg.qr(matrix @ drawn).Q
    for _ in range(POWER_ITERATIONS):
        within = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.mH @ within).Q).Q
    return within


def _enough(values: Tensor, norm: float, energy: float) -> int:
    """How many of the singular values have that share of the whole matrix's energy; all, where they have less."""
    if norm == 0:
        return 1
    held = values.double().square().cumsum(0).tolist()
    return next((count for count, sum_ in enumerate(held, 1) if energy < 1 and sum_ >= energy * norm**2), len(held))


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.vector_norm(matrix))
