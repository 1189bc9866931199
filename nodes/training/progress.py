"""What a distillation tells while it trains: the bar, the console, and events for the panel in the browser."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
from comfy_execution.utils import get_executing_context

from ..host import browsers, say
from ..host.progress import Progress, duration

EVENT = "sid.training"
RECENT = 50  # iterations that the rate is of


class TrainingProgress(Progress):
    """Of so many iterations; raises the host's interrupt when the user has cancelled.

    How far it is goes to the panel, and what stays worth reading to the text on the node. run: the run's name, by which
    a panel knows it.
    """

    def __init__(self, iterations: int, batch: int, node_id: str | None, run: str):
        super().__init__(iterations, node_id)
        self.batch = batch
        context = get_executing_context()
        self.of = {"run": run, "node": node_id, "prompt_id": context and context.prompt_id}
        self.numbers: dict[str, Any] = {}

    def begin(self, first: int) -> None:
        """The clock starts now; `first`: the iteration that a continued run goes on from."""
        self.first, self.recent = first, deque([(first, time.monotonic())], RECENT + 1)
        self._send({"iteration": first, "iterations": self.total})
        # What came before training is over, and the panel has the rest: else the last of it, as on memory, which
        # stands on the node already, would stay below the panel to the end, and cut off. ComfyUI takes no empty text.
        say.on_node("\n".join(self.lines) or " ", self.node_id)

    def update(self, iteration: int, note: str) -> None:
        """After an iteration; `note`: such as the losses."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(iteration, self.total)
        seconds = self._seconds(iteration)
        left, rate = seconds * (self.total - iteration), self.batch / seconds
        self.numbers = {"iteration": iteration, "iterations": self.total}
        self.numbers |= {"iteration_s": seconds, "rate": rate, "left_s": left}
        text = f"step {iteration}/{self.total}, {note}, {rate:.1f} images/s, {duration(left)} left"
        self._say(text, last=iteration == self.total)

    def _seconds(self, iteration: int) -> float:
        """Of an iteration, with all that is done between two, over the last of them. The first, in which much is made
        ready, counts only until there is another."""
        self.recent.append((iteration, time.monotonic()))
        if len(self.recent) == 3 and self.recent[0][0] == self.first:
            self.recent.popleft()
        (before, began), (after, now) = self.recent[0], self.recent[-1]
        return max(now - began, 1e-9) / (after - before)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Tells the panel when the run is over, however it ends; its folder is to be free for another by then."""
        try:
            yield
        finally:
            self._send({"ended": True})

    def _show(self, text: str) -> None:
        self._send(self.numbers | {"text": text, "memory": used_memory()})

    def _send(self, data: dict[str, Any]) -> None:
        browsers.send(EVENT, self.of | data)


def used_memory() -> dict[str, Any]:
    """Of the device that is trained on: its kind, and bytes in use by whomever, and altogether."""
    device = comfy.model_management.get_torch_device()
    total = comfy.model_management.get_total_memory(device)
    return {"device": device.type, "used": total - comfy.model_management.get_free_memory(device), "total": total}
