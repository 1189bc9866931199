"""What a long node tells its user while it works: the bar, the text on the node, the console, preview pictures."""

import time

import comfy.model_management
import comfy.utils
from PIL import Image

from ...sid_core.words import log
from . import say

CONSOLE_SECONDS = 10.0
NODE_SECONDS = 0.5
PREVIEW_SIZE = 768


class Progress:
    """Reports on `total` iterations of the node `node_id`; raises the host's interrupt when the user has cancelled."""

    def __init__(self, total: int, batch: int, node_id: str | None):
        self.total, self.batch, self.node_id = total, batch, node_id
        self.lines: list[str] = []  # stay on the node, below the progress
        self.bar = comfy.utils.ProgressBar(total)
        self.said_on_node = self.said_on_console = float("-inf")

    def tell(self, text: str) -> None:
        """Say something that is on the node until there is something newer; it is in the console as well."""
        log.info("%s", text)
        say.on_node("\n".join([text, *self.lines]), self.node_id)

    def remark(self, text: str) -> None:
        """Say something that stays on the node, once; it is in the console as well."""
        if (line := f"· {text}") not in self.lines:  # for Nodes 2.0 shows no line breaks
            log.info("%s", text)
            self._keep(line)

    def warn(self, text: str) -> None:
        """The same for something that a user should do something about."""
        if (line := f"⚠ {text}") not in self.lines:
            log.warning("%s", text)
            self._keep(line)

    def _keep(self, line: str) -> None:
        self.lines.append(line)
        self.said_on_node = float("-inf")  # it is not to wait for long
        say.on_node("\n".join(self.lines), self.node_id)

    def begin(self, first: int) -> None:
        """The clock starts now; `first`: the iteration that a continued run goes on from."""
        self.began, self.first = time.monotonic(), first

    def update(self, iteration: int, note: str) -> None:
        """After an iteration; `note`: such as the losses."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(iteration, self.total)
        now = time.monotonic()
        seconds = now - self.began
        done = iteration - self.first
        left = seconds / done * (self.total - iteration)
        rate = done * self.batch / seconds
        text = f"step {iteration}/{self.total}, {note}, {rate:.1f} images/s, {duration(left)} left"
        self._say(text, now, last=iteration == self.total)

    def _say(self, text: str, now: float, last: bool = False) -> None:
        """On the node and in the console, but for what follows too soon on the one before; the last always."""
        if last or now - self.said_on_node > NODE_SECONDS:
            self.said_on_node = now
            say.on_node("\n".join([text, *self.lines]), self.node_id)
        if last or now - self.said_on_console > CONSOLE_SECONDS:
            self.said_on_console = now
            log.info("%s", text)

    def show(self, iteration: int, picture: Image.Image) -> None:
        """Show a preview on the node."""
        self.bar.update_absolute(iteration, self.total, ("JPEG", picture, PREVIEW_SIZE))


def duration(seconds: float) -> str:
    """Such as '42 s', '3 min' or '2 h 5 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
