"""Stands in for ComfyUI's main.py where only its processes matter: it starts within 0.5 s, and no torch is needed.

As the real one does (each was seen there): it may have started a process of its own, lives in the folders that it is
given, listens on the port only after a while, answers /prompt, /queue, /history and the websocket, ends what it runs a
moment after POST /interrupt and saves by then, and is ended by SIGTERM at once. It says how far it has come by files in
its temporary folder: child, ready, ending.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from pathlib import Path

from aiohttp import web

parser = argparse.ArgumentParser()
for name in ("port", "base-directory", "temp-directory"):
    parser.add_argument(f"--{name}")
options = parser.parse_known_args()[0]
base, scratch = Path(options.base_directory), Path(options.temp_directory)
running: list[str] = []


async def socket(request: web.Request) -> web.WebSocketResponse:
    answer = web.WebSocketResponse()
    await answer.prepare(request)
    while not running:
        await asyncio.sleep(0.01)
    data = {"prompt_id": running[0], "node": "1", "display_node": "1"}
    await answer.send_json({"type": "executing", "data": data})
    async for _ in answer:
        pass
    return answer


async def take(request: web.Request) -> web.Response:
    running.append((await request.json())["prompt_id"])
    return web.json_response({"prompt_id": running[0], "node_errors": {}})


async def interrupt(request: web.Request) -> web.Response:
    (scratch / "ending").touch()

    async def end() -> None:
        await asyncio.sleep(0.5)
        (base / "saved").touch()
        running.clear()

    request.app["ending"] = asyncio.ensure_future(end())
    return web.Response()


async def queue(request: web.Request) -> web.Response:
    return web.json_response({"queue_running": [[0, name] for name in running], "queue_pending": []})


async def remaining(request: web.Request) -> web.Response:
    (scratch / "ready").touch()
    return web.json_response({"exec_info": {"queue_remaining": len(running)}})


async def accept(request: web.Request) -> web.Response:
    return web.Response()


# The child names the folder in its command line, by which a test finds it.
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", str(base)])
(base / "port").write_text(options.port, encoding="utf-8")
(scratch / "child").touch()
time.sleep(0.3)
app = web.Application()
app.add_routes(
    [
        web.get("/ws", socket),
        web.get("/prompt", remaining),
        web.get("/queue", queue),
        web.post("/prompt", take),
        web.post("/queue", accept),
        web.post("/interrupt", interrupt),
    ]
)
web.run_app(app, host="127.0.0.1", port=int(options.port), handle_signals=False, print=None)
