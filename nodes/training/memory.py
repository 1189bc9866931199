"""What a distillation takes of the device's memory, said before it begins, and what is done when that runs out."""

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass

import comfy.model_management
import torch

from ...sid_core.method.guidance import Guidance, evaluations
from ...sid_core.training.memory import Activations

OFFLOADED_AT_ONCE = 1024**3
KEPT_FREE = 0.15  # share of the free memory that an estimate may be wrong by
OPTIMIZER = 3 * 4  # bytes for each trained number: its gradient and Adam's two averages, in float32


@dataclass
class Savings:
    """micro_batch: pictures at a time. recompute: activations in the backward pass. kept_free: bytes of the device
    that the host is to keep free of weights."""

    micro_batch: int
    recompute: bool
    can_offload: bool
    kept_free: int = 0

    def at_once(self) -> bool:
        """Whether all that is predicted at one x_t is one batch: not where one picture is all that there is room for,
        or one block's activations, which would then be those of all rows."""
        return self.micro_batch > 1 and not self.recompute

    def more(self, device: torch.device) -> str | None:
        """Save more memory, and say how; None where there is nothing left to try."""
        if self.micro_batch > 1:
            self.micro_batch = -(-self.micro_batch // 2)
            return at_a_time(self.micro_batch)
        if not self.recompute:
            self.recompute = True
            return "activations are computed again in the backward pass instead of being kept"
        if self.can_offload and self.kept_free < comfy.model_management.get_total_memory(device):
            self.kept_free += OFFLOADED_AT_ONCE
            return f"{gigabytes(self.kept_free)} are kept free of weights, which stay in RAM meanwhile"
        return None


@dataclass(frozen=True)
class Demand:
    """What a run is made of, as far as memory goes.

    weights: bytes of all networks. trained: numbers that have a gradient and averages. batch: pictures an iteration.
    forwards: how many of them wait for a backward pass at once.
    """

    device: torch.device
    weights: int
    trained: int
    batch: int
    forwards: int


def plan(savings: Savings, demand: Demand, asked: int, measure: Callable[[], Activations]) -> str:
    """Set the micro-batch to what was asked for, or where that is 0 to what fits, and say what is expected.

    Where not even one picture would fit, what more can be saved is chosen as well, as it is in `Savings.more`, which
    else comes after running out. measure: what one picture's forward keeps for its backward pass; it may run out of
    memory itself.
    """
    try:
        activations = measure()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        savings.micro_batch = asked or 1
        return f"memory: not even the forward of one picture fits beside the model; trying {at_a_time(asked or 1)}"
    optimizers = demand.trained * OPTIMIZER
    free = comfy.model_management.get_free_memory(demand.device)

    def room() -> float:
        return free * (1 - KEPT_FREE) - optimizers

    def a_picture() -> int:
        return demand.forwards * (activations.recomputed if savings.recompute else activations.kept)

    offloaded = ""
    if not asked:
        savings.recompute = savings.recompute or a_picture() > room()
        if savings.can_offload and a_picture() > room():
            savings.kept_free = math.ceil((optimizers + a_picture()) / (1 - KEPT_FREE))
            missing = min(savings.kept_free - free, demand.weights)
            offloaded = (
                f" {gigabytes(missing)} of the weights stay in RAM, and come to the device when they are needed, which "
                "is slower: a smaller latent or rank needs less."
            )
            free += missing
    fits = max(1, int(room() // max(a_picture(), 1)))
    savings.micro_batch = min(asked or fits, demand.batch)
    too_much = optimizers + savings.micro_batch * a_picture() > free
    return (
        f"memory: {gigabytes(demand.weights)} for weights, with {gigabytes(free)} still free; "
        f"{gigabytes(optimizers)} for gradients and optimizers of {demand.trained / 1e6:.1f} million trained weights; "
        f"{gigabytes(a_picture())} a picture for activations{', recomputed in the backward pass' * savings.recompute}. "
        f"Of {demand.batch}, {at_a_time(savings.micro_batch)}{', which may not fit' * too_much}.{offloaded}"
    )


def forwards_at_once(guidance: Guidance, adversarial: bool = False) -> int:
    """How many forwards wait for the backward pass of the student's loss: its own, the fake score's, the teacher's.

    adversarial: the fake score is also asked what it says with the captions, which without guidance it else is not.
    """
    return (
        1
        + evaluations(guidance.fake_score)
        + evaluations(guidance.teacher)
        + int(adversarial and guidance.fake_score == 0)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU or of the CPU, for which torch has no exception of its own."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def release() -> None:
    """Give back what a failed iteration has left behind."""
    gc.collect()
    comfy.model_management.soft_empty_cache()


def at_a_time(pictures: int) -> str:
    """Such as '4 pictures at a time'."""
    return "one picture at a time" if pictures == 1 else f"{pictures} pictures at a time"


def gigabytes(size: float) -> str:
    """Such as '1.2 GB', or in MB when small."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
