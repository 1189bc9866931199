"""The runs that this ComfyUI trains now, and which of them are to stop: asked by the browser, answered by the node."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

_stops: dict[str, Event] = {}  # by the run's name
_stopped: dict[str, int] = {}


@contextmanager
def under_way(name: str) -> Iterator[Event]:
    """Within it the run may be asked to stop; its iterations look at the event."""
    stop = _stops[name] = Event()
    try:
        yield stop
    finally:
        del _stops[name]
        _stopped[name] = times_stopped(name) + stop.is_set()


def ask_to_stop(name: str) -> bool:
    """Have a run end after the iteration it is in. False where this ComfyUI does not train it."""
    if name not in _stops:
        return False
    _stops[name].set()
    return True


def state_here(name: str) -> str | None:
    """ "training" or "stopping"; None where this ComfyUI does not train it."""
    if name not in _stops:
        return None
    return "stopping" if _stops[name].is_set() else "training"


def times_stopped(name: str | None) -> int:
    """How often it was asked to stop. What is queued again after that is to go on, though nothing else has changed.

    name: None where it isn't known, as it comes over a wire; then how often any run was.
    """
    return sum(_stopped.values()) if name is None else _stopped.get(name, 0)
