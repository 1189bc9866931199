"""SiD Prompts in a real server, over its websocket: what can't be encoded fails its own run and no other."""

import asyncio
import json
import sys
import uuid

import aiohttp
import pytest
from graphs import node


def run(url: str, graphs: list[dict]) -> list[tuple[str, dict]]:
    """The last event of each graph, run one after the other by one client, and what the history has of it."""

    async def ended(socket: aiohttp.ClientWebSocketResponse, prompt_id: str) -> dict:
        while True:
            message = await socket.receive(timeout=60)
            event = json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else {}
            if event.get("data", {}).get("prompt_id") == prompt_id and event["type"] in (
                "execution_success",
                "execution_error",
            ):
                return event

    async def recorded(session: aiohttp.ClientSession, prompt_id: str) -> dict:
        while True:
            async with session.get(f"{url}/history/{prompt_id}") as answer:
                if prompt_id in (history := await answer.json()):
                    return history[prompt_id]
            await asyncio.sleep(0.05)

    async def all_of_them() -> list[tuple[str, dict]]:
        results = []
        client = uuid.uuid4().hex
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{url}/ws", params={"clientId": client}) as socket,
        ):
            await session.patch(f"{url}/internal/logs/subscribe", json={"enabled": True, "clientId": client})
            for graph in graphs:
                prompt_id = str(uuid.uuid4())
                body = {"prompt": graph, "prompt_id": prompt_id, "client_id": client}
                async with session.post(f"{url}/prompt", json=body) as answer:
                    assert answer.status == 200, await answer.text()
                event = await ended(socket, prompt_id)
                results.append((event["type"], event["data"], await recorded(session, prompt_id)))
        return results

    return asyncio.run(all_of_them())


def shown(**inputs) -> dict:
    graph = {"prompts": node("SiDPrompts", **{"text": "", "file": "", **inputs})}
    return graph | {"shown": node("PreviewAny", source=["prompts", 0])}


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes are of Linux")
def test_the_worker_outlives_names_that_can_not_be_encoded(comfyui_server):
    folder = comfyui_server.base_directory / "input" / "any\udce9"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "caf\udce9.txt").write_bytes(b"\xff")
    failing = [
        shown(file=str(folder)),
        shown(file="/tmp/\ud800.txt"),
        shown(text="{a|b} \ud83d"),
        shown(text="__caf\udce9__", wildcards=str(folder)),
        shown(file="a\0b" + "x" * 5000),
    ]
    good = shown(text="a red apple", file="emoji_names.txt", column="\ud800")
    good = [{**good, "number": node("PreviewAny", source=str(i))} for i in range(len(failing))]
    results = run(comfyui_server.url, [graph for pair in zip(failing, good, strict=True) for graph in pair])
    for kind, data, history in results[::2]:
        assert kind == "execution_error" and data["node_id"] == "prompts", data
        f"{data['exception_message']} {history['outputs']}".encode()
    for kind, data, history in results[1::2]:
        assert kind == "execution_success", data
        assert history["outputs"]["shown"]["text"] == ["1798 prompts"]
