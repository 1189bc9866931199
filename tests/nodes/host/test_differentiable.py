"""Tensors that are changed in place after autograd has saved them: what backward gets is what they were."""

from collections.abc import Callable

import torch
from torch import Tensor

TRIES, SIZE = 300, 64


def place_of(tensor: Tensor) -> tuple[int, int, int]:
    """All that torch's own context knows a saved tensor by."""
    return id(tensor), tensor.data_ptr(), tensor._version


def another_at(place: tuple[int, int, int]) -> Tensor | None:
    """A tensor of twos that has come to be where one was that is gone; None where none does."""
    there = first_that(lambda: torch.full((SIZE,), 2.0), lambda tensor: tensor.data_ptr() == place[1])
    return None if there is None else first_that(lambda: there.view(-1), lambda tensor: place_of(tensor) == place)


def first_that(make: Callable[[], Tensor], fits: Callable[[Tensor], bool]) -> Tensor | None:
    made = []  # all alive, so that each is another
    for _ in range(TRIES):
        made.append(make())
        if fits(made[-1]):
            return made[-1]
    return None


def gradient() -> Tensor:
    """Of w · 1 + w · 2, where the ones are changed and freed once they are saved, and the twos take their place."""
    weight = torch.ones(SIZE, requires_grad=True)
    ones = torch.ones(SIZE)
    place = place_of(ones)
    first = (weight * ones).sum()
    ones += 100
    del ones
    twos = another_at(place)
    second = (weight * (torch.full((SIZE,), 2.0) if twos is None else twos)).sum()
    (first + second).backward()
    return weight.grad


def test_a_tensor_that_takes_the_place_of_a_copied_one_is_not_taken_for_it(comfyui):
    """torch's own context gives 1 + 1 where it does so, which is in one try of fifteen or so."""
    from sid_pack.nodes.host.differentiable import mutable_saved_tensors

    for _ in range(150):
        with mutable_saved_tensors():
            assert torch.equal(gradient(), torch.full((SIZE,), 3.0))
