"""What a training has cost: evaluations of the network, and seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn


@dataclass
class Cost:
    """forwards: of one latent through the network, whichever role it has; seconds. They count on in a resumed run."""

    forwards: int = 0
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.forwards, self.seconds = state["forwards"], state["seconds"]

    @contextmanager
    def counting(self, network: nn.Module) -> Iterator[None]:
        """Within it, what goes through the network is counted. x: (B, …) is its first argument."""

        def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.forwards += len(inputs[0])

        hook = network.register_forward_pre_hook(count)
        try:
            yield
        finally:
            hook.remove()
