"""A student that is to be trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contestants import Choice, Contestant


@dataclass(frozen=True)
class Job:
    """A student to be trained. begins: the file of the student that it starts as, None for the teacher."""

    contestant: Contestant
    choice: Choice
    steps: int
    seed: int
    batch: int
    iterations: int
    begins: Path | None = None

    def facts(self) -> dict[str, Any]:
        """What a result file says of it."""
        return {
            "method": self.contestant.name,
            "steps": self.steps,
            "seed": self.seed,
            "rate": self.choice.rate,
            "knob": self.choice.knob,
            "t_init": self.choice.t_init or self.contestant.t_init,
            "batch": self.batch,
            "images": self.batch * self.iterations,
        }


class OutOfTimeError(Exception):
    """The time that was given is spent. What was learnt is kept."""
