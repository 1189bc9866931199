"""One graph in a running ComfyUI: queue it, follow it through lost connections, interrupt it."""

import asyncio
import contextlib
import time
import urllib.parse
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from . import Died, HeadlessError
from .answers import (
    Ended,
    Event,
    NoAnswer,
    OddAnswer,
    Progress,
    ended,
    failure,
    odd,
    progress_after,
    queued,
    read_event,
    read_text,
    refusal,
)
from .graph import Graph
from .server import Server

__all__ = ["INTERRUPT_GRACE_S", "Progress", "Run", "failure", "refusal"]

# How long an interrupted node may take to save what it has, and a server to hear of it.
INTERRUPT_GRACE_S = 60.0
INTERRUPT_LIMIT_S = 10.0
INTERRUPTING = f"interrupting; the running node may take {INTERRUPT_GRACE_S:.0f} s to save. Ctrl-C again ends it now"
# After so long without a message, ComfyUI is asked how the graph stands.
QUIET_S = 5.0
# After so long, the websocket is opened anew. A half-open one looks like a silent node, and a ComfyUI that notices the
# end of an earlier connection late forgets the one that took its place.
RENEW_S = 60.0
RETRY_S = 1.0
LOST_LIMIT_S = 300.0
WAITING = Progress("waiting in ComfyUI's queue")


@dataclass
class Run:
    """One graph in one ComfyUI. `report` is called with each change of progress, `say` with a line of its own.

    check_host: raises HeadlessError where a ComfyUI that was started for this run has ended; it is told "while …".
    """

    url: str
    graph: Graph
    report: Callable[[Progress], None]
    say: Callable[[str], None] = lambda text: None
    check_host: Callable[[str], None] = lambda doing: None
    # Newer versions refuse ids that are not UUIDs in canonical form.
    prompt_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    progress: Progress = WAITING
    _client: str = field(default_factory=lambda: uuid.uuid4().hex)
    _is_submitted: bool = False
    _has_said_lost: bool = False
    _unanswered_since: float | None = None
    _told: float = field(default_factory=time.monotonic)  # when the websocket last did

    async def describe(self, classes: set[str]) -> dict[str, dict[str, Any]]:
        """What the server says of these node classes: their inputs and the inputs' types."""
        async with Server(self.url) as server:
            try:
                return {name: await self._definition(server, name) for name in sorted(classes)}
            except NoAnswer as error:
                raise self._never_reached(error) from error

    async def execute(self) -> dict[str, dict[str, Any]]:
        """Run the graph and return what its nodes show: {node id: {kind: [items]}}. HeadlessError if it fails."""
        async with Server(self.url) as server:
            end = None
            while end is None:
                end = await self._attempt(server)
        if end.error:
            raise HeadlessError(end.error)
        return end.outputs

    async def interrupt(self) -> str | None:
        """Take the graph off the queue or interrupt it, and wait for its end. What did not work out is returned."""
        if not self._is_submitted:
            return None
        deadline = time.monotonic() + INTERRUPT_GRACE_S
        try:
            async with Server(self.url) as server:
                await self._cancel(server)
                while self.prompt_id in queued(await server.get("queue", INTERRUPT_GRACE_S)):
                    if time.monotonic() > deadline:
                        return "the node did not stop in time"
                    await asyncio.sleep(0.2)
        except NoAnswer as error:
            return f"ComfyUI could not be asked to stop: {error}"
        return None

    async def _definition(self, server: Server, name: str) -> dict[str, Any]:
        answer = await server.get(f"object_info/{urllib.parse.quote(name, safe='')}")
        if not isinstance(answer, dict):
            raise odd("GET /object_info", answer)
        if not isinstance(answer.get(name), dict):
            raise HeadlessError(f"Install the nodes that the graph needs: this ComfyUI has none of the class {name}.")
        return answer[name]

    async def _attempt(self, server: Server) -> Ended | None:
        """Connect, hand the graph over unless that is done, and follow it. None: it still goes on."""
        try:
            async with server.socket(self._client) as socket:
                if not self._is_submitted:
                    await self._submit(server)
                return await self._follow(server, socket)
        except NoAnswer as error:
            if not self._is_submitted:
                raise self._never_reached(error) from error
            lost = str(error)
        return await self._without_socket(server, lost)

    def _never_reached(self, error: NoAnswer) -> HeadlessError:
        self.check_host("before it took the graph")
        if isinstance(error, OddAnswer):
            return HeadlessError(f"Check the address {self.url}, which does not answer as a ComfyUI does: {error}.")
        return HeadlessError(f"Start ComfyUI, or give its address by --server: {error}.")

    async def _submit(self, server: Server) -> None:
        body = {"prompt": self.graph, "prompt_id": self.prompt_id, "client_id": self._client}
        # From here on it may be in the queue, also where the answer is lost.
        self._is_submitted = True
        try:
            status, answer = await server.post("prompt", body)
        except OddAnswer as error:
            await self._give_up(server)
            raise self._never_reached(error) from error
        if status != 200 or not isinstance(answer, dict) or answer.get("node_errors"):
            # ComfyUI queues a graph whose outputs are valid in part. A run that quietly lacks some is no success.
            await self._give_up(server)
            raise HeadlessError(refusal(self.graph, answer))

    async def _give_up(self, server: Server) -> None:
        with contextlib.suppress(NoAnswer):
            await self._cancel(server)

    async def _cancel(self, server: Server) -> None:
        await server.tell("queue", {"delete": [self.prompt_id]}, INTERRUPT_LIMIT_S)
        await server.tell("interrupt", {"prompt_id": self.prompt_id}, INTERRUPT_LIMIT_S)

    async def _follow(self, server: Server, socket: Any) -> Ended | None:
        """Show what the socket tells until the graph has ended, by the history. None: the socket is silent for long."""
        receiving: asyncio.Future | None = None
        opened = time.monotonic()
        end = None
        try:
            while end is None and time.monotonic() - max(opened, self._told) < RENEW_S:
                receiving = receiving or asyncio.ensure_future(server.receive(socket))
                await asyncio.wait({receiving}, timeout=QUIET_S)
                self.check_host(self._doing())
                if not receiving.done():
                    quiet_s = time.monotonic() - self._told
                    # Once is no news: many nodes take that long for a step.
                    self._show(replace(self.progress, quiet_s=quiet_s if quiet_s > 1.5 * QUIET_S else 0.0))
                    end = await self._end(server)
                    continue
                message, receiving = receiving.result(), None
                event = self._take(message)
                if event and event.says_end_of(self.prompt_id):
                    end = await self._end(server)
                elif event and event.kind == "status":
                    # The queue's length has changed: this graph may have been taken off, which raises. If it has ended,
                    # what its last nodes tell is still to come, and then its end.
                    await self._end(server)
        finally:
            if receiving:
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)
        return end

    async def _without_socket(self, server: Server, lost: str) -> Ended | None:
        """After a lost connection: wait a moment, and ask how the graph stands, which may be answered all the same."""
        self._unanswered_since = self._unanswered_since or time.monotonic()
        await asyncio.sleep(RETRY_S)
        self.check_host(self._doing())
        if not self._has_said_lost:
            self._has_said_lost = True
            self.say(
                f"connection lost, connecting again: {lost}. The graph goes on in ComfyUI meanwhile; "
                f"after {LOST_LIMIT_S:.0f} s without an answer this gives up"
            )
        try:
            return await self._end(server)
        except NoAnswer as error:
            if time.monotonic() - self._unanswered_since < LOST_LIMIT_S:
                return None
            raise Died(
                f"Look at {self.url} how the graph ended: no answer came for {LOST_LIMIT_S:.0f} s ({error})."
            ) from error

    async def _end(self, server: Server) -> Ended | None:
        """How the graph has ended; None while it waits or runs."""
        # The queue first: a graph that ends in between is in the history by then.
        is_queued = self.prompt_id in queued(await server.get("queue"))
        end = None if is_queued else ended(self.graph, self.prompt_id, await server.get(f"history/{self.prompt_id}"))
        self._unanswered_since = None
        if end is None and not is_queued:
            raise HeadlessError(
                "Run it again: ComfyUI has no record of the graph. It was taken off the queue, or ComfyUI started anew."
            )
        return end

    def _doing(self) -> str:
        return f"while {self.progress.node}" if self.progress is WAITING else f"while running {self.progress.node}"

    def _take(self, message: str | bytes) -> Event | None:
        """Show the progress that a message tells of, and return the event that it is."""
        self._told = time.monotonic()
        if isinstance(message, bytes):
            text = read_text(message, self.graph, self.progress)
            if text:
                self._show(text)
            return None
        event = read_event(message)
        if event and event.prompt_id == self.prompt_id:
            for progress in progress_after(event, self.graph, self.progress):
                self._show(progress)
        return event

    def _show(self, progress: Progress) -> None:
        if self._has_said_lost and not progress.quiet_s:
            self._has_said_lost = False
            self.say("connected again")
        if progress != self.progress:
            self.progress = progress
            self.report(progress)
