"""Run an API-format graph in a ComfyUI from the console: read the graph, start the host, follow the run."""


class HeadlessError(Exception):
    """Something the user has to know or mend; the text is meant to be shown as it is."""
