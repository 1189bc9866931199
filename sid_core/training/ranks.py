"""The processes that train one run together, each on a device of its own, as torch's own launcher starts them.

All that they say to each other is here: what torch.distributed does, and an agreement that comes before it. Whatever
fails in one of them outside of torch's own exchanges is told to all in the next agreement, so that none waits for it.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
# For the slowest of them: the first draws previews and evaluates meanwhile. Prompts are encoded without a limit.
LIMIT = timedelta(hours=1)
LOOK_S = 0.5  # between two looks whether the first has done its part
GOING, STOPPING, CANCELLED, FAILED = range(4)
NUMBERS = 4  # at most, in one agreement
MADE = "made"
ENDED = "Look at what the other processes of this run say: one of them has ended {}, and so does this one."


class OtherRankError(RuntimeError):
    """Another process of the run has ended, and this one can't go on without it."""


class OtherRankCancelledError(OtherRankError):
    """Another process of the run was cancelled."""


class Ranks:
    """One process of `size`, the `rank`-th of them from 0. The first (`leads`) looks, logs, saves and shows for all.

    in_step: each call of a network is one for all of them, as each holds a part of its weights (`sharded`); then they
    have to make the same calls, and none can leave while others are within one. Alone, nothing here does anything.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: "dist.Store | None" = None):
        self.rank, self.size, self._store = rank, size, store
        self.in_step = False
        self.all_cancelled = False  # and have agreed on that, after the same iteration
        self._closed = False  # whether others may be in an exchange that this one's agreement would not answer
        self._firsts = 0

    @classmethod
    def of_environment(cls, device: torch.device) -> "Ranks":
        """What `torchrun` has started, one of several or ALONE. Connects to the others, once for a process.

        Raises torch.distributed.DistError where they don't come.
        """
        if not (dist.is_available() and dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1):
            return ALONE
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            store, rank, size = next(dist.rendezvous("env://"))
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LIMIT)
            _connected.append(cls(rank, size, store))
        this = _connected[-1]
        this.in_step = this.all_cancelled = this._closed = False  # whatever became of a run before
        return this

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def looks(self) -> bool:
        """Whether pictures are drawn on this rank: those of networks in parts can be drawn by all of them alone."""
        return self.leads or self.in_step

    def agree(self, *numbers: float, stopping: bool = False) -> "Agreement":
        """The sums of these numbers over all ranks, and whether one of them wants to stop after this iteration.

        Raises OtherRankError, or OtherRankCancelledError, where one has ended before it.
        """
        if self.size == 1:
            return Agreement(list(numbers), stopping)
        return self._agreed(STOPPING if stopping else GOING, numbers)

    def leave(self, cancelled: bool) -> None:
        """Tell the others, in the agreement that they come to next, that this one ends; nothing where they know."""
        if self.size == 1 or self._closed:
            return
        try:
            self._agreed(CANCELLED if cancelled else FAILED, ())
        except RuntimeError:
            return  # they have ended too, each with a message of its own

    def _agreed(self, state: int, numbers: tuple[float, ...]) -> "Agreement":
        told = torch.zeros(FAILED + 1 + NUMBERS, dtype=torch.float64)
        told[state] = 1
        told[FAILED + 1 : FAILED + 1 + len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
        with self.closed():
            dist.all_reduce(told)
        states, sums = told[: FAILED + 1].tolist(), told[FAILED + 1 :].tolist()
        if states[FAILED] or states[CANCELLED]:
            self._closed = True  # it is told; the end of this one is no news
            self.all_cancelled = not states[FAILED]
            if states[FAILED]:
                raise OtherRankError(ENDED.format("with an error"))
            raise OtherRankCancelledError(ENDED.format("as it was cancelled"))
        return Agreement(sums[: len(numbers)], bool(states[STOPPING]))

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Within it, others may wait for this one in another exchange than an agreement; it can't leave in order."""
        before, self._closed = self._closed, True
        yield
        self._closed = before  # and not after an error

    def shared(self, value: T) -> T:
        """The first's value, on each of them."""
        if self.size == 1:
            return value
        self.agree()
        values = [value]
        with self.closed():
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def shared_in_step(self, value: T) -> T:
        """The same where all ranks do what the first does; elsewhere the value itself."""
        return self.shared(value) if self.in_step else value

    def first_before_others(self, do: Callable[[], T], look: Callable[[], Any] = lambda: None) -> T:
        """do() on each, on the others after the first is done with it, so that they find what it has made.

        look: called now and then meanwhile; it may raise, such as for Cancel.
        """
        if self.size == 1:
            return do()
        self._firsts += 1
        key = f"first/{self._firsts}"
        if self.leads:
            made = False
            try:
                result = do()
                made = True
            finally:
                self._store.set(key, MADE if made else "")
                self._closed = self._closed or not made  # they know then, and don't come to an agreement
            return result
        while not self._store.check([key]):
            look()
            time.sleep(LOOK_S)
        if self._store.get(key).decode() != MADE:
            self._closed = True
            raise OtherRankError(ENDED.format("with an error"))
        return do()

    @contextmanager
    def leaving(self, cancels: type[BaseException]) -> Iterator[None]:
        """Within it, an error or Cancel (of that class) is told to the others; see `leave`."""
        try:
            yield
        except BaseException as error:
            self.leave(isinstance(error, cancels))
            raise


@dataclass(frozen=True)
class Agreement:
    """What all ranks together have said: sums of numbers, and whether one wants to stop."""

    sums: list[float]
    stopping: bool


class Backward:
    """Backward passes of a network's losses, whose gradients are averaged over the ranks.

    Its weights become the first rank's. A network that is sharded averages them in each pass by itself.
    """

    def __init__(self, ranks: Ranks, network: nn.Module):
        self.ranks, self.network = ranks, network
        apart = ranks.size == 1 or ranks.in_step
        self._averaging = None if apart else DistributedDataParallel(_TouchesAll(network), broadcast_buffers=False)

    def alone(self, loss: Tensor | None) -> None:
        """This rank's own gradients, gathered for a pass together."""
        if loss is not None:
            with self.ranks.closed() if self.ranks.in_step else nullcontext():
                loss.backward()

    def together(self, loss: Tensor | None, at_once: bool) -> None:
        """The same, and all that was gathered is averaged. Every rank has to come to it, with a loss or without.

        at_once: while the pass goes on, which saves time; a rank that runs out of memory in it leaves the others
        waiting.
        """
        if self._averaging is None:
            self.alone(loss)
            return
        if not at_once:
            self.alone(loss)
            loss = None
        with self.ranks.closed():
            none = torch.zeros((), device=next(self.network.parameters()).device)
            self._averaging(none if loss is None else loss).backward()


class _TouchesAll(nn.Module):
    """Adds nothing to a loss, and has each weight take part in it, so that none is waited for in vain."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, loss: Tensor) -> Tensor:
        return loss + sum(0 * parameter.sum().to(loss) for parameter in self.network.parameters())


ALONE = Ranks()
_connected: list[Ranks] = []  # of this process, one at most
