"""Asking a ComfyUI over HTTP and its websocket. Whatever goes wrong on the way is a NoAnswer, in words."""

import asyncio
import contextlib
import urllib.parse
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

from . import HeadlessError
from .answers import NoAnswer, odd, read_json

# How long one question may take. ComfyUI answers late while it trains on few cores.
ANSWER_LIMIT_S = 30.0
CLOSE_LIMIT_S = 1.0


class Server:
    """The ComfyUI at a URL, for one event loop: `async with Server(url) as server`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._aiohttp = _aiohttp()

    async def __aenter__(self) -> "Server":
        self._session = self._aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str, limit_s: float | None = None) -> Any:
        """The JSON at a path, which has to be there."""
        status, answer = await self._ask("GET", path, None, limit_s or ANSWER_LIMIT_S)
        if status != 200:
            raise odd(f"GET /{path}", f"HTTP {status}")
        return answer

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """HTTP status and JSON of the answer."""
        return await self._ask("POST", path, body, ANSWER_LIMIT_S)

    async def tell(self, path: str, body: dict[str, Any], limit_s: float) -> None:
        """Post something whose answer says nothing."""
        await self._request("POST", path, body, limit_s)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None, limit_s: float) -> tuple[int, Any]:
        status, content = await self._request(method, path, body, limit_s)
        return status, read_json(f"{method} /{path}", status, content)

    async def _request(self, method: str, path: str, body: Any, limit_s: float) -> tuple[int, bytes]:
        async def exchange() -> tuple[int, bytes]:
            async with self._session.request(method, f"{self.url}/{path}", json=body) as response:
                return response.status, await response.read()

        with self._in_words(limit_s):
            return await asyncio.wait_for(exchange(), limit_s)

    @contextlib.asynccontextmanager
    async def socket(self, client: str) -> AsyncIterator[Any]:
        """The websocket on which ComfyUI tells the client of this id what it does."""
        url = f"{self.url}/ws?{urllib.parse.urlencode({'clientId': client})}"
        with self._in_words(ANSWER_LIMIT_S):
            # Previews come as one message each and may be of any size.
            opening = asyncio.ensure_future(self._session.ws_connect(url, max_msg_size=0))
            socket = await asyncio.wait_for(opening, ANSWER_LIMIT_S)
        try:
            yield socket
        finally:
            # A half-open connection never answers the goodbye.
            with contextlib.suppress(asyncio.TimeoutError, OSError):
                await asyncio.wait_for(socket.close(), CLOSE_LIMIT_S)

    async def receive(self, socket: Any) -> str | bytes:
        """The next message. NoAnswer where the connection is closed."""
        message = await socket.receive()
        if not isinstance(message.data, str | bytes):
            raise NoAnswer(f"the connection to {self.url} was closed")
        return message.data

    @contextlib.contextmanager
    def _in_words(self, limit_s: float) -> Any:
        # ValueError: what was sent back is no HTTP, or leads to an address that is none.
        try:
            yield
        except asyncio.TimeoutError:
            raise NoAnswer(f"{self.url} did not answer within {limit_s:.0f} s") from None
        except self._aiohttp.WSServerHandshakeError as error:
            raise odd("GET /ws", f"HTTP {error.status}") from None
        except self._aiohttp.ClientConnectorError as error:
            raise NoAnswer(f"nothing answers at {self.url} ({error})") from error
        except (self._aiohttp.ClientError, OSError, ValueError) as error:
            raise NoAnswer(f"the connection to {self.url} broke ({str(error) or type(error).__name__})") from error


def _aiohttp() -> ModuleType:
    try:
        import aiohttp
    except ModuleNotFoundError as error:
        raise HeadlessError(
            "Run this with the Python that runs ComfyUI: aiohttp is missing, which that has."
        ) from error
    return aiohttp
