"""Run an API-format graph in a ComfyUI from the console: read the graph, start the host, follow the run."""

FAILED = 1
INTERRUPTED = 130  # what shells report for a program ended by Ctrl-C


class HeadlessError(Exception):
    """Something the user has to know or mend; the text is meant to be shown as it is."""


class Died(HeadlessError):
    """A ComfyUI that was running the graph has ended, or fallen silent, by itself: the next start may go better."""
