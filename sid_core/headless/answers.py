"""What a ComfyUI answers, read with care: an old version, a proxy or another program at its address answers otherwise.

Every function here is pure. OddAnswer says what was asked and what came instead.
"""

import json
import math
import struct
from dataclasses import dataclass, replace
from typing import Any

from ..words import printable
from . import HeadlessError
from .graph import Graph, title

TEXT_EVENT = 3  # protocol.BinaryEventTypes.TEXT
TRAINING_EVENT = "sid.training"  # SiD Distill's, with a text about each few iterations
EXCERPT = 300  # characters of an odd answer


class NoAnswer(HeadlessError):
    """ComfyUI can't be reached, or what answers in its place is of no use."""


class OddAnswer(NoAnswer):
    """Something answers, though not as ComfyUI does."""


@dataclass(frozen=True)
class Progress:
    """A node's latest state: its name, steps done and to do (0 of 0: not known), and its own line of text.

    quiet_s: for how long nothing was heard of it, in seconds; 0 where that is not worth a word.
    """

    node: str
    value: float = 0
    maximum: float = 0
    text: str = ""
    quiet_s: float = 0


def read_json(asked: str, status: int, body: bytes) -> Any:
    """The answer to `asked`, such as "GET /queue"."""
    try:
        return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise odd(asked, f"HTTP {status} {excerpt(body.decode('utf-8', errors='replace'))}") from None


def odd(asked: str, got: object) -> OddAnswer:
    """The error for an answer that is not what ComfyUI gives."""
    return OddAnswer(f"{asked} was answered by {excerpt(got)}")


def excerpt(answer: object) -> str:
    """The beginning of an answer, on one line."""
    text = " ".join(printable(answer if isinstance(answer, str) else json.dumps(answer)).split())
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…"


def queued(answer: Any) -> set[str]:
    """Ids of the graphs that GET /queue says are running or waiting."""
    try:
        return {item[1] for item in answer["queue_running"] + answer["queue_pending"]}
    except (KeyError, TypeError, IndexError):
        raise odd("GET /queue", answer) from None


@dataclass(frozen=True)
class Ended:
    """How a graph ended: what its nodes show, {node id: {kind: [items]}}, or why it failed."""

    outputs: dict[str, dict[str, list[Any]]]
    error: str | None


def ended(graph: Graph, prompt_id: str, answer: Any) -> Ended | None:
    """How the graph ended by GET /history/ID; None where the history does not have it."""
    if not isinstance(answer, dict):
        raise odd("GET /history", answer)
    entry = answer.get(prompt_id)
    if entry is None:
        return None
    status = entry.get("status") if isinstance(entry, dict) else None
    if not isinstance(status, dict) or not isinstance(entry.get("outputs"), dict):
        raise odd("GET /history", entry)
    if status.get("status_str") == "success":
        return Ended(entry["outputs"], None)
    found = (failure(graph, *event) for event in _events(status.get("messages")))
    return Ended({}, next(filter(None, found), "Look into ComfyUI's log: the graph failed, and it does not say why."))


def _events(messages: Any) -> list[tuple[str, dict[str, Any]]]:
    pairs = [item for item in messages if isinstance(item, list | tuple)] if isinstance(messages, list) else []
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2 and isinstance(pair[1], dict)]


def refusal(graph: Graph, answer: Any) -> str:
    """The text for a graph that POST /prompt did not accept, one line for each bad input."""
    try:
        return _refusal(graph, answer)
    except (KeyError, TypeError, AttributeError):
        return f"Look into ComfyUI's log for what is wrong with the graph: {odd('POST /prompt', answer)}."


def _refusal(graph: Graph, answer: dict[str, Any]) -> str:
    reason = answer.get("error") or {"message": "some of its outputs are not valid"}
    node_errors = answer.get("node_errors") or {}
    lines = []
    for node_id, found in node_errors.items():
        for error in found["errors"]:
            name = (error.get("extra_info") or {}).get("input_name")
            where = f"{title(graph, node_id)}{f', input {name}' if name else ''}"
            lines.append(f"  {where}: {error['message']}: {error['details']}")
    if not node_errors and reason.get("details"):
        lines.append(f"  {reason['details']}")
    return "\n".join([f"Change the graph, which ComfyUI refused ({reason['message']}):", *lines])


def failure(graph: Graph, kind: str, data: dict[str, Any]) -> str | None:
    """The text of an event that says the graph failed, None for any other event."""
    if kind not in ("execution_interrupted", "execution_error"):
        return None
    name = title(graph, str(data.get("node_id")))
    if kind == "execution_interrupted":
        return f"Run it again to go on: it was interrupted at {name}."
    # ComfyUI puts tips for the user, or an empty line, below the message.
    message = str(data.get("exception_message")).strip()
    return f"{name}, class {data.get('node_type')}: {data.get('exception_type')}: {message}"


@dataclass(frozen=True)
class Event:
    """A message on the websocket: what kind, of which graph (None: of all), and its data."""

    kind: str
    prompt_id: str | None
    data: dict[str, Any]

    def says_end_of(self, prompt_id: str) -> bool:
        """It is the last event of that graph, whose results are in the history by then, also when it has failed."""
        return self.kind == "executing" and self.prompt_id == prompt_id and self.data.get("node") is None


def read_event(text: str) -> Event | None:
    """The event in a text message; None for what is none, as only the history is needed to know how a graph ended."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        return None
    data = message.get("data")
    data = data if isinstance(data, dict) else {}
    return Event(message["type"], data.get("prompt_id"), data)


def progress_after(event: Event, graph: Graph, latest: Progress) -> list[Progress]:
    """The states that an event tells of, `latest` being the one before; none for an event of another form."""
    try:
        if event.kind == "executing" and event.data["node"] is not None:
            return [Progress(title(graph, event.data["display_node"]))]
        if event.kind == "progress_state":  # holds all that the older `progress` event says
            return _steps(event.data["nodes"], graph, latest)
        if event.kind == TRAINING_EVENT and isinstance(event.data.get("text"), str):
            return [replace(_of(title(graph, event.data["node"]), latest), text=event.data["text"])]
    except (KeyError, TypeError, AttributeError, OverflowError):
        pass  # told in another way than this version knows: the steps are not shown
    return []


def _steps(nodes: dict[str, dict[str, Any]], graph: Graph, latest: Progress) -> list[Progress]:
    states = []
    for state in nodes.values():
        # Every node starts as 0 of 1, also those that never report a step.
        if state["state"] == "running" and state["max"] > 1 and math.isfinite(state["value"]):
            value, maximum = float(state["value"]), float(state["max"])
            latest = replace(_of(title(graph, state["display_node_id"]), latest), value=value, maximum=maximum)
            states.append(latest)
    return states


def read_text(message: bytes, graph: Graph, latest: Progress) -> Progress | None:
    """A node's text in a binary message: event, length of the node id (both big-endian uint32), node id, text."""
    if len(message) < 8 or struct.unpack_from(">I", message)[0] != TEXT_EVENT:
        return None
    (length,) = struct.unpack_from(">I", message, 4)
    node = title(graph, message[8 : 8 + length].decode("utf-8", errors="replace"))
    return replace(_of(node, latest), text=message[8 + length :].decode("utf-8", errors="replace"))


def _of(node: str, latest: Progress) -> Progress:
    """The latest progress if it is that node's, else a new one."""
    return replace(latest, quiet_s=0) if latest.node == node else Progress(node)
