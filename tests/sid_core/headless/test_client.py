"""Following a graph over connections that break: through a proxy to a real ComfyUI, and with one that answers oddly."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from graphs import distilled
from headless_runs import IMAGE, ROOT, SAVE, command, wait_until

from sid_pack.sid_core.headless import HeadlessError, client, server
from sid_pack.sid_core.headless.answers import refusal
from sid_pack.sid_core.headless.client import Run


class Proxy:
    """Passes bytes on to a port, until it is told to close, hold or garble them."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.mode = "pass"
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()
        self.cut()

    def cut(self) -> None:
        """Close every connection that is open."""
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._pairs.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listening.accept()[0]
                if self.mode == "refuse":
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                self._pairs.append((near, far))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(*pair, pair[0] is far), daemon=True).start()

    def _pass_on(self, source: socket.socket, to: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self.mode == "hold":
                    time.sleep(0.01)
                to.sendall(bytes(255 - byte for byte in data) if self.mode == "garble" and is_answer else data)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(comfyui_server) -> Iterator[Proxy]:
    proxy = Proxy(int(comfyui_server.url.rpartition(":")[2]))
    yield proxy
    proxy.mode = "pass"
    proxy.close()


@pytest.fixture
def hasty(monkeypatch):
    """Seconds instead of minutes."""
    monkeypatch.setattr(client, "QUIET_S", 0.5)
    monkeypatch.setattr(client, "RETRY_S", 0.1)
    monkeypatch.setattr(server, "ANSWER_LIMIT_S", 1.0)
    monkeypatch.setattr(client, "LOST_LIMIT_S", 2.0)
    monkeypatch.setattr(client, "INTERRUPT_LIMIT_S", 1.0)
    monkeypatch.setattr(client, "INTERRUPT_GRACE_S", 3.0)


class Followed:
    """A run in a thread, and all that it says."""

    def __init__(self, url: str, graph: dict[str, Any]) -> None:
        self.said: list[str] = []
        self.states: list[client.Progress] = []
        self.outputs: dict[str, Any] | None = None
        self.error = ""
        self.run = Run(url, graph, self.states.append, self.said.append)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            self.outputs = asyncio.run(self.run.execute())
        except HeadlessError as error:
            self.error = str(error)

    def ended(self, limit_s: float = 20.0) -> "Followed":
        self._thread.join(limit_s)
        assert not self._thread.is_alive(), self.said
        return self


def training(steps: int) -> dict[str, Any]:
    return {"1": {"class_type": "FakeTraining", "inputs": {"steps": steps}}}


@pytest.mark.parametrize("way", ["cut", "refuse", "hold", "garble"])
def test_a_connection_lost_in_mid_run_is_made_again(proxy, hasty, way):
    """Closed; closed, and nobody there for a while; open, and silent; open, and full of other bytes."""
    run = Followed(proxy.url, training(10_000 + len(way)))
    wait_until(lambda: len(run.states) > 5)
    if way != "cut":
        proxy.mode = way
    if way in ("cut", "refuse"):
        proxy.cut()
    wait_until(lambda: run.said)
    proxy.mode = "pass"
    seen = len(run.states)
    wait_until(lambda: len(run.states) > seen + 5)
    assert asyncio.run(run.run.interrupt()) is None
    assert run.ended().error == "Run it again to go on: it was interrupted at node 1 (FakeTraining)."
    assert run.said[0].startswith("connection lost, connecting again: ")
    assert "connected again" in run.said


def test_what_ended_while_the_connection_was_lost_is_told_by_the_history(proxy, hasty, monkeypatch):
    monkeypatch.setattr(client, "LOST_LIMIT_S", 30.0)
    run = Followed(proxy.url, training(21))
    failing = Followed(proxy.url, {"1": {"class_type": "FakeFailure", "inputs": {"message": "nothing to learn"}}})
    wait_until(lambda: run.states)
    proxy.mode = "refuse"
    proxy.cut()
    time.sleep(2.0)
    proxy.mode = "pass"
    assert run.ended().outputs == {"1": {"text": ["done"]}}, run.error
    assert "ValueError: nothing to learn" in failing.ended().error


def test_a_websocket_that_is_forgotten_is_opened_anew(proxy, hasty, monkeypatch, comfyui_server):
    """HTTP goes on, and only the websocket is dead: as behind a router that has forgotten an idle connection."""
    monkeypatch.setattr(client, "RENEW_S", 1.0)
    run = Followed(proxy.url, training(80))
    wait_until(lambda: len(run.states) > 5)
    # The same client id elsewhere takes the messages away from the first connection, which stays open.
    other = Run(comfyui_server.url, {}, lambda _: None)
    other._client = run.run._client

    async def steal() -> None:
        async with server.Server(comfyui_server.url) as there, there.socket(run.run._client):
            await asyncio.sleep(0.2)

    asyncio.run(steal())
    assert run.ended().outputs == {"1": {"text": ["done"]}}, run.error
    assert any(state.quiet_s for state in run.states)
    assert run.states[-1].value > 70
    assert run.said == []


def test_the_losses_of_a_distillation_are_told_while_it_trains(comfyui_server):
    run = Followed(comfyui_server.url, distilled(iterations=3, run_name="headless"))
    assert run.ended(300).outputs, run.error
    last = [state.text for state in run.states if state.node and "distilled" in state.node][-1]
    assert "step 3/3, loss" in last and "images/s" in last


def test_a_server_that_never_comes_back_is_given_up_after_the_limit(proxy, hasty):
    run = Followed(proxy.url, training(10_000))
    wait_until(lambda: run.states)
    proxy.mode = "refuse"
    proxy.cut()
    assert run.ended(10).error.startswith(f"Look at {proxy.url} how the graph ended: no answer came for 2 s (")
    assert len(run.said) == 1 and "after 2 s without an answer this gives up" in run.said[0]
    proxy.mode = "pass"
    assert asyncio.run(run.run.interrupt()) is None


def test_a_graph_taken_off_the_queue_is_said_so(comfyui_server, hasty):
    first = Followed(comfyui_server.url, training(1000))
    wait_until(lambda: first.states)
    second = Followed(comfyui_server.url, training(1001))
    wait_until(lambda: second.run._is_submitted)
    time.sleep(0.3)
    assert asyncio.run(second.run.interrupt()) is None
    assert "It was taken off the queue" in second.ended().error
    assert asyncio.run(first.run.interrupt()) is None
    assert first.ended().error == "Run it again to go on: it was interrupted at node 1 (FakeTraining)."


@pytest.mark.skipif(os.name == "nt", reason="signals as on POSIX")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_ctrl_c_ends_it_though_the_server_is_silent(proxy, tmp_path, moment):
    proxy.mode = "hold" if moment == "before" else "pass"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command(training(300), tmp_path, "--server", proxy.url),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    with process:
        if moment == "before":
            time.sleep(1.5)
        else:
            wait_until(lambda: "FakeTraining" in process.stdout.readline())
            proxy.mode = "hold"
            process.send_signal(signal.SIGINT)
            wait_until(lambda: "interrupting" in process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
        assert process.stdout.read().splitlines()[-1] == "interrupted"


PROMPT_ID = str(uuid.UUID(int=7))
RIGHT: dict[str, Any] = {
    "ws": [{"type": "executing", "data": {"node": None, "prompt_id": PROMPT_ID}}],
    "POST prompt": {"prompt_id": PROMPT_ID, "node_errors": {}},
    "queue": {"queue_running": [], "queue_pending": []},
    "history": {PROMPT_ID: {"outputs": {"2": {"images": []}}, "status": {"status_str": "success"}}},
    "object_info": {"SaveImage": {"input": {"required": {"filename_prefix": ["STRING", {}]}}}},
}
HTML = "<html><title>502 Bad Gateway</title></html>"


@contextlib.contextmanager
def answering(answers: dict[str, Any]) -> Iterator[str]:
    """A server that answers as a ComfyUI does, but for these; a text is sent as it is, a number is an HTTP status."""
    answers = RIGHT | answers

    def answer(name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            given = answers.get(name, {})
            if isinstance(given, int):
                return web.Response(status=given, text=HTML, content_type="text/html")
            return web.Response(text=given if isinstance(given, str) else json.dumps(given))

        return handle

    async def socket(request: web.Request) -> web.StreamResponse:
        if isinstance(answers["ws"], int | str):
            return await answer("ws")(request)
        response = web.WebSocketResponse()
        await response.prepare(request)
        await asyncio.sleep(0.1)
        for message in answers["ws"]:
            if isinstance(message, bytes):
                await response.send_bytes(message)
            else:
                await response.send_str(message if isinstance(message, str) else json.dumps(message))
        async for _ in response:
            pass
        return response

    loop, app = asyncio.new_event_loop(), web.Application()
    app.add_routes(
        [web.get("/ws", socket), web.post("/prompt", answer("POST prompt")), web.get("/queue", answer("queue"))]
    )
    app.add_routes([web.get("/history/{id}", answer("history")), web.get("/object_info/{name}", answer("object_info"))])
    app.add_routes([web.post(f"/{path}", answer("")) for path in ("queue", "interrupt")])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def ask(url: str, *classes: str) -> dict[str, Any]:
    run = Run(url, {"1": IMAGE, "2": SAVE}, lambda _: None, prompt_id=PROMPT_ID)
    if classes:
        return asyncio.run(run.describe(set(classes)))
    return asyncio.run(run.execute())


def test_the_server_of_these_tests_is_taken_for_a_comfyui(hasty):
    with answering({}) as url:
        assert ask(url) == {"2": {"images": []}}
        assert ask(url, "SaveImage") == RIGHT["object_info"]


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        *(({"ws": value}, "GET /ws was answered by HTTP") for value in (404, 500, HTML)),
        *(({"POST prompt": value}, "POST /prompt was answered by") for value in (500, HTML, "", "{", "[" * 9999)),
        *(({"POST prompt": value}, "Look into ComfyUI's log") for value in ([], None, "5", {"node_errors": "x"})),
        ({"POST prompt": {"node_errors": {"2": {"errors": [5]}}}}, "Look into ComfyUI's log"),
        ({"POST prompt": {"node_errors": {"2": None}}}, "Look into ComfyUI's log"),
        *(({"queue": value}, "GET /queue was answered by") for value in (404, 500, HTML, [], None, {}, "5")),
        ({"queue": {"queue_running": 5, "queue_pending": []}}, "GET /queue was answered by"),
        ({"queue": {"queue_running": [5], "queue_pending": []}}, "GET /queue was answered by"),
        ({"queue": {"queue_running": [[0, {}]], "queue_pending": []}}, "GET /queue was answered by"),
        *(({"history": value}, "GET /history") for value in (404, 500, HTML, [], None, "5", {PROMPT_ID: 5})),
        ({"history": {PROMPT_ID: {"outputs": {}}}}, "GET /history was answered by"),
        (
            {"history": {PROMPT_ID: {"outputs": [], "status": {"status_str": "success"}}}},
            "GET /history was answered by",
        ),
        ({"history": {PROMPT_ID: {"outputs": {}, "status": {}}}}, "Look into ComfyUI's log: the graph failed"),
        (
            {"history": {PROMPT_ID: {"outputs": {}, "status": {"messages": [5, [], ["a", 5]]}}}},
            "Look into ComfyUI's log",
        ),
        (
            {"history": {PROMPT_ID: {"outputs": {}, "status": {"messages": [["execution_error", {}]]}}}},
            "node None, class",
        ),
        ({"history": {}}, "Run it again: ComfyUI has no record of the graph"),
    ],
)
def test_an_odd_answer_is_one_clear_line(hasty, monkeypatch, odd, said):
    monkeypatch.setattr(client, "LOST_LIMIT_S", 0.2)
    with answering(odd) as url, pytest.raises(HeadlessError) as error:
        ask(url)
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 600


@pytest.mark.parametrize("answer", [404, 500, HTML, [], None, "5", {}, {"SaveImage": 5}])
def test_an_odd_answer_about_a_class_is_one_clear_line(hasty, answer):
    with answering({"object_info": answer}) as url, pytest.raises(HeadlessError) as error:
        ask(url, "SaveImage")
    assert str(error.value).startswith(("Check the address", "Install the nodes"))
    assert len(str(error.value).splitlines()) == 1


def test_odd_messages_on_the_websocket_are_no_matter(hasty):
    states = {"1": {"state": "running", "max": 1e999, "value": "x"}, "2": 5}
    mine = {"prompt_id": PROMPT_ID}
    messages = [
        *(
            "",
            "{",
            "[]",
            "5",
            "null",
            '{"type": 5}',
            '{"type": "executing"}',
            '{"type": "status", "data": 5}',
            "[" * 9999,
        ),
        *(
            {"type": kind, "data": data}
            for kind in ("executing", "progress_state")
            for data in (mine, mine | {"node": 5})
        ),
        *({"type": "progress_state", "data": mine | {"nodes": nodes}} for nodes in (5, None, [], states)),
        {
            "type": "progress_state",
            "data": mine | {"nodes": {"1": {"state": "running", "max": 10**400, "value": 10**400}}},
        },
        *(b"", b"\0", bytes(8), b"\0\0\0\3\xff\xff\xff\xff", b"\0\0\0\3\0\0\0\1\xff\xff"),
    ]
    with answering({"ws": [*messages, *RIGHT["ws"]]}) as url:
        assert ask(url) == {"2": {"images": []}}


def test_a_refusal_names_every_node_and_input():
    answer = {
        "error": {"message": "Prompt outputs failed validation", "details": "repeated below"},
        "node_errors": {
            "1": {"errors": [{"message": "Too small", "details": "-1", "extra_info": {"input_name": "width"}}]},
            "2": {"errors": [{"message": "Exception when validating node", "details": "oops", "extra_info": {}}]},
        },
    }
    assert refusal({"1": IMAGE, "2": SAVE | {"_meta": {"title": "Keep"}}}, answer).splitlines() == [
        "Change the graph, which ComfyUI refused (Prompt outputs failed validation):",
        "  node 1 (EmptyImage), input width: Too small: -1",
        "  node 2 (Keep): Exception when validating node: oops",
    ]
