"""What a long node tells its user while it works: the bar, the text on the node, the console."""

import time

import comfy.utils

from ...sid_core.words import log
from . import say

CONSOLE_SECONDS = 10.0
NODE_SECONDS = 0.5


class Progress:
    """Reports on `total` steps of the node `node_id`."""

    def __init__(self, total: int, node_id: str | None):
        self.total, self.node_id = total, node_id
        self.lines: list[str] = []  # stay on the node, below the progress
        self.bar = comfy.utils.ProgressBar(total)
        self.said_on_node = self.said_on_console = float("-inf")

    def tell(self, text: str) -> None:
        """Say something that is on the node until there is something newer; it is in the console as well."""
        log.info("%s", text)
        self._on_node(text)

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

    def _say(self, text: str, last: bool = False) -> None:
        """Where a user sees it and in the console, but for what follows too soon on the one before; the last always."""
        now = time.monotonic()
        if last or now - self.said_on_node > NODE_SECONDS:
            self.said_on_node = now
            self._show(text)
        if last or now - self.said_on_console > CONSOLE_SECONDS:
            self.said_on_console = now
            log.info("%s", text)

    def _show(self, text: str) -> None:
        """How far it is, where a user sees it."""
        self._on_node(text)

    def _on_node(self, text: str) -> None:
        say.on_node("\n".join([text, *self.lines]), self.node_id)


def duration(seconds: float) -> str:
    """Such as '42 s', '3 min' or '2 h 5 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
