"""What SiD Distill's panel in the browser asks for: GET /sid/runs shows, and changes nothing; POST /sid/stop stops.

    GET  /sid/runs                        the runs there are
    GET  /sid/runs?run=NAME[&cursor=…]    how one stands, its curves and warnings, or what of them is new; null: no run
    GET  /sid/runs?run=NAME&preview=…     a picture: the number of an iteration, or "teacher"
    POST /sid/stop {"run": NAME}          have a run that this ComfyUI trains end after the iteration it is in

Everything else is refused with an empty answer, and told in the log.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path

from aiohttp import web

from ...sid_core.files.run_view import TEACHER
from ...sid_core.words import log
from ..host.browsers import server
from ..host.folder_names import is_folder_name
from ..host.under_way import ask_to_stop
from . import runs
from .pictures import NotAPictureError, as_jpeg

PATH, STOP = "/sid/runs", "/sid/stop"
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
PREVIEW = re.compile(rf"\d{{1,19}}|{TEACHER}", re.ASCII)
LONGEST_CURSOR, LONGEST_BODY = 40, 1000
MOST_TOLD = 100  # refusals, so that nobody fills the log

Handler = Callable[[web.Request], Awaitable[web.Response]]
_told: set[str] = set()


class RefusedError(ValueError):
    """A request that the panel does not make."""


def answering(handler: Handler) -> Handler:
    """A request that is refused, or of something that is not there, gets no more than its status."""

    @wraps(handler)
    async def answer(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except RefusedError as refused:
            _tell_once(f"refused {request.method} {request.path}: {refused}")
            return web.Response(status=400, headers=HEADERS)
        except FileNotFoundError:
            return web.Response(status=404, headers=HEADERS)

    return answer


@answering
async def show(request: web.Request) -> web.Response:
    """GET /sid/runs."""
    query = request.query
    odd = sorted(set(query) - {"run", "cursor", "preview"}) or [key for key in query if len(query.getall(key)) > 1]
    if odd:
        raise RefusedError(f"it has {odd[0]!r:.60}, or has it twice")
    if "run" not in query:
        return _json({"runs": await asyncio.to_thread(runs.listed)})
    name = _name(query["run"])
    folder = await asyncio.to_thread(runs.run_folder, name)
    if "preview" in query:
        return await _picture(request, folder, query["preview"])
    cursor = query.get("cursor")
    if cursor is not None and len(cursor) > LONGEST_CURSOR:
        raise RefusedError("its cursor is too long")
    # No status of an error: that a run is yet to begin is none, and browsers put these on their console.
    return _json(await asyncio.to_thread(runs.seen, folder, cursor) if folder else None)


@answering
async def stop(request: web.Request) -> web.Response:
    """POST /sid/stop. JSON alone, which no page of another site can send without being asked for leave first."""
    if request.content_type != "application/json" or (request.content_length or LONGEST_BODY + 1) > LONGEST_BODY:
        raise RefusedError("it is not a few bytes of JSON")
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("run"), str):
        raise RefusedError("it names no run")
    if not ask_to_stop(_name(body["run"])):
        raise FileNotFoundError
    return _json({"stopping": True})


def register() -> None:
    """Add both to ComfyUI's server, where there is one."""
    instance = server()
    if instance is not None:
        instance.routes.get(PATH)(show)
        instance.routes.post(STOP)(stop)


async def _picture(request: web.Request, folder: Path | None, which: str) -> web.Response:
    if not PREVIEW.fullmatch(which):
        raise RefusedError(f"no preview is called {which!r:.60}")
    path = await asyncio.to_thread(runs.preview, folder, which) if folder else None
    if path is None:
        raise FileNotFoundError
    status = path.lstat()
    etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
    if request.headers.get("If-None-Match") == etag:
        return web.Response(status=304, headers=HEADERS | {"ETag": etag})
    try:
        body = await asyncio.to_thread(as_jpeg, path)
    except NotAPictureError as error:
        _tell_once(f"{path.name} of {folder.name} is no preview: {error!s:.60}")
        raise FileNotFoundError from error
    return web.Response(body=body, content_type="image/jpeg", headers=HEADERS | {"ETag": etag})


def _name(given: str) -> str:
    if not is_folder_name(given):
        raise RefusedError(f"no run is called {given!r:.60}")
    return given


def _json(value: object) -> web.Response:
    return web.json_response(value, headers=HEADERS)


def _tell_once(text: str) -> None:
    if text not in _told and len(_told) < MOST_TOLD:
        _told.add(text)
        log.warning("%s", text)
