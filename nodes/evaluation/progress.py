"""How far an evaluation is, in forwards: a picture of the teacher takes many times as long as a student's."""

import time

import comfy.model_management

from ..host.progress import Progress, duration


class EvaluationProgress(Progress):
    """Of `total` forwards; what is on disk already is not among them."""

    def __init__(self, total: float, node_id: str | None):
        super().__init__(max(1, round(total)), node_id)
        self.done = 0.0
        self.began = time.monotonic()

    def drawn(self, forwards: float, note: str) -> None:
        """After so many more; raises the host's interrupt when the user has cancelled."""
        self.done += forwards
        self.look(note)

    def look(self, note: str) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(min(round(self.done), self.total), self.total)
        left = (time.monotonic() - self.began) / self.done * max(0.0, self.total - self.done) if self.done else None
        self._say(note if left is None else f"{note}, {duration(left)} left")
