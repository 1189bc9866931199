"""Talking to a running ComfyUI: queue a graph, follow its progress, interrupt it."""

import asyncio
import json
import struct
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

from . import HeadlessError
from .graph import Graph, title

TEXT_EVENT = 3  # protocol.BinaryEventTypes.TEXT
# How long an interrupted node may take to save what it has.
INTERRUPT_GRACE_S = 60.0


@dataclass(frozen=True)
class Progress:
    """A node's latest state: its name, steps done and to do (0 of 0: not known), and its own line of text."""

    node: str
    value: float = 0
    maximum: float = 0
    text: str = ""


class ConnectionLost(HeadlessError):
    """ComfyUI went away while the graph was running."""


@dataclass
class Run:
    """One graph in one ComfyUI. `report` is called with each change of progress."""

    url: str
    graph: Graph
    report: Callable[[Progress], None]
    # Newer versions refuse ids that are not UUIDs in canonical form.
    prompt_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    progress: Progress = Progress("")

    async def execute(self) -> dict[str, dict[str, Any]]:
        """Run the graph and return what its nodes show: {node id: {kind: [items]}}. HeadlessError if it fails."""
        aiohttp = _aiohttp()
        client = uuid.uuid4().hex
        try:
            async with (
                aiohttp.ClientSession() as session,
                # Previews come as one message each and may be of any size.
                session.ws_connect(f"{self.url}/ws", params={"clientId": client}, max_msg_size=0) as socket,
            ):
                await self._submit(session, client)
                await self._follow(session, socket)
                return (await self._history(session))["outputs"]
        except aiohttp.ClientConnectorError as error:
            raise HeadlessError(f"no ComfyUI answers at {self.url}: {error}") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise ConnectionLost(f"the connection to ComfyUI broke: {error}") from error

    async def interrupt(self) -> bool:
        """Take the graph off the queue or interrupt it; True once it has ended, False where the grace ran out."""
        aiohttp = _aiohttp()
        deadline = time.monotonic() + INTERRUPT_GRACE_S
        try:
            async with aiohttp.ClientSession() as session:
                await self._cancel(session)
                while await self._is_queued(session):
                    if time.monotonic() > deadline:
                        return False
                    await asyncio.sleep(0.2)
        except aiohttp.ClientConnectionError:
            pass  # it has gone, and the graph with it
        return True

    async def _submit(self, session: Any, client: str) -> None:
        body = {"prompt": self.graph, "prompt_id": self.prompt_id, "client_id": client}
        async with session.post(f"{self.url}/prompt", json=body) as response:
            text = await response.text()
        try:
            answer = json.loads(text)
        except ValueError:
            raise HeadlessError(f"ComfyUI could not take the graph (HTTP {response.status}): {text[:500]}") from None
        if answer.get("node_errors") or not response.ok:
            # ComfyUI queues a graph whose outputs are valid in part. A run that quietly lacks some is no success.
            await self._cancel(session)
            raise HeadlessError(refusal(self.graph, answer))

    async def _cancel(self, session: Any) -> None:
        for path, body in (("queue", {"delete": [self.prompt_id]}), ("interrupt", {"prompt_id": self.prompt_id})):
            async with session.post(f"{self.url}/{path}", json=body):
                pass

    async def _follow(self, session: Any, socket: Any) -> None:
        error = None
        async for message in socket:
            if isinstance(message.data, bytes):
                self._take_binary(message.data)
                continue
            if not isinstance(message.data, str):
                break
            event = json.loads(message.data)
            kind, data = event["type"], event.get("data") or {}
            if kind == "status" and not await self._is_known(session):
                raise HeadlessError("the graph was taken off ComfyUI's queue before it ran")
            if data.get("prompt_id") != self.prompt_id:
                continue
            error = error or failure(self.graph, kind, data)
            # Sent last, after the results are in the history: also when the graph failed.
            if kind == "executing" and data["node"] is None:
                if error:
                    raise HeadlessError(error)
                return
            self._take_event(kind, data)
        raise ConnectionLost(f"ComfyUI closed the connection while running {self.progress.node or 'the graph'}")

    def _take_event(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "executing":
            self._show(Progress(title(self.graph, data["display_node"])))
        elif kind == "progress_state":  # holds all that the older `progress` event says
            for state in data["nodes"].values():
                # Every node starts as 0 of 1, also those that never report a step.
                if state["state"] == "running" and state["max"] > 1:
                    self._show_steps(title(self.graph, state["display_node_id"]), state["value"], state["max"])

    def _take_binary(self, data: bytes) -> None:
        """Progress text is: event, length of the node id (both big-endian uint32), node id, text."""
        if len(data) < 8 or struct.unpack_from(">I", data)[0] != TEXT_EVENT:
            return
        (length,) = struct.unpack_from(">I", data, 4)
        node = title(self.graph, data[8 : 8 + length].decode())
        text = data[8 + length :].decode("utf-8", errors="replace")
        self._show(replace(self._of(node), text=text))

    def _show_steps(self, node: str, value: float, maximum: float) -> None:
        self._show(replace(self._of(node), value=value, maximum=maximum))

    def _of(self, node: str) -> Progress:
        """The latest progress if it is that node's, else a new one."""
        return self.progress if self.progress.node == node else Progress(node)

    def _show(self, progress: Progress) -> None:
        if progress != self.progress:
            self.progress = progress
            self.report(progress)

    async def _is_known(self, session: Any) -> bool:
        # The queue first: a graph that ends in between is in the history by then.
        return await self._is_queued(session) or await self._history(session) is not None

    async def _is_queued(self, session: Any) -> bool:
        async with session.get(f"{self.url}/queue") as response:
            queue = await response.json()
        return any(item[1] == self.prompt_id for item in queue["queue_running"] + queue["queue_pending"])

    async def _history(self, session: Any) -> dict[str, Any] | None:
        async with session.get(f"{self.url}/history/{self.prompt_id}") as response:
            return (await response.json()).get(self.prompt_id)


def refusal(graph: Graph, answer: dict[str, Any]) -> str:
    """The text for a graph that POST /prompt did not accept, one line for each bad input."""
    reason = answer.get("error") or {"message": "some of its outputs are not valid"}
    lines = [f"ComfyUI refused the graph: {reason['message']}"]
    node_errors = answer.get("node_errors") or {}
    for node_id, found in node_errors.items():
        for error in found["errors"]:
            name = error.get("extra_info", {}).get("input_name")
            where = f"{title(graph, node_id)}{f', input {name}' if name else ''}"
            lines.append(f"  {where}: {error['message']}: {error['details']}")
    if not node_errors and reason.get("details"):
        lines.append(f"  {reason['details']}")
    return "\n".join(lines)


def failure(graph: Graph, kind: str, data: dict[str, Any]) -> str | None:
    """The text of an event that says the graph failed, None for any other event."""
    if kind == "execution_interrupted":
        return f"interrupted at {title(graph, data['node_id'])}"
    if kind == "execution_error":
        # ComfyUI puts tips for the user, or an empty line, below the message.
        message = data["exception_message"].strip()
        return f"{title(graph, data['node_id'])}, class {data['node_type']}: {data['exception_type']}: {message}"
    return None


def _aiohttp() -> ModuleType:
    try:
        import aiohttp
    except ModuleNotFoundError as error:
        raise HeadlessError("aiohttp is missing: run this with the Python that runs ComfyUI, which has it") from error
    return aiohttp
