"""Where the time of an iteration goes, by parts that have no time in common."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

OPTIMIZERS = "optimizers"
REST = "rest"


class Parts:
    """The clock runs for one part at a time, for `REST` where no other is named. synchronize() waits for all work."""

    def __init__(self, synchronize: Callable[[], None]):
        self.seconds: dict[str, float] = defaultdict(float)
        self.synchronize = synchronize
        self.current, self.since = REST, time.perf_counter()

    def switch(self, name: str) -> str:
        """From now on the clock runs for this part. → the part before."""
        self.synchronize()
        now = time.perf_counter()
        self.seconds[self.current] += now - self.since
        before, self.current, self.since = self.current, name, now
        return before

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        before = self.switch(name)
        try:
            yield
        finally:
            self.switch(before)

    def timed(self, name: str, function: Callable) -> Callable:
        """The function, with its time booked on this part; what it calls may be a part as well, and counts there."""

        def call(*args, **kwargs):
            with self.part(name):
                return function(*args, **kwargs)

        return call

    def watch(self, optimizer: torch.optim.Optimizer, backward: str) -> None:
        """Book what is between its zero_grad and its step on `backward`, and the step on `OPTIMIZERS`."""
        zero_grad = optimizer.zero_grad

        def then_backward(*args, **kwargs) -> None:
            zero_grad(*args, **kwargs)
            self.switch(backward)

        def stepping(*_: object) -> None:
            self.switch(OPTIMIZERS)

        def stepped(*_: object) -> None:
            self.switch(REST)

        optimizer.zero_grad = then_backward
        optimizer.register_step_pre_hook(stepping)
        optimizer.register_step_post_hook(stepped)

    def per_iteration(self, run: Callable[[], None], iterations: int) -> dict[str, float]:
        """Seconds of each part in an iteration, the mean over some."""
        self.switch(REST)
        self.seconds.clear()
        for _ in range(iterations):
            run()
        self.switch(REST)
        return {name: seconds / iterations for name, seconds in self.seconds.items()}
