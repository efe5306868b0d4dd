"""The API over HTTP: passes requests to the model and carries out the outcomes."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from datasync_sandbox import ports
from datasync_sandbox.api.faults import ELSEWHERE_PATH
from datasync_sandbox.api.responses import JSON_TYPE, NoReply, Refused, Reset, Response, to_json
from datasync_sandbox.options import BASE, HOST, STATS_PATH

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasync_sandbox.api.model import ApiModel
    from datasync_sandbox.api.responses import Outcome

_PIECES_PER_SECOND = 10
_PIECE_BYTES = 65_536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class ApiServer:
    """One model, served on one port.

    All methods but `stats` belong to one event loop.

    Attributes:
        model: The API.
        host: IPv4 address that it listens on.
        port: Port that it listens on; set by `start` if a free one was asked for.
    """

    def __init__(
        self,
        model: ApiModel,
        port: int,
        host: str = HOST,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Prepare to serve.

        Args:
            model: The API.
            port: Port to listen on; 0 picks a free one.
            host: IPv4 address to listen on.
            clock: Returns seconds since 1970, never less than before; by default the machine's.
        """
        self.model = model
        self.host = host
        self.port = port
        self._web: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self._reopening: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._redirects_followed = 0
        self._keys_elsewhere = 0
        # Monotonic, but in seconds since 1970: cursors survive a restart.
        offset = time.time() - time.monotonic()
        self._now = clock or (lambda: time.monotonic() + offset)

    @property
    def url(self) -> str:
        """Base URL for clients."""
        return f"http://{self.host}:{self.port}{BASE}"

    @property
    def key(self) -> str:
        """The API key."""
        return self.model.options.key

    async def start(self) -> None:
        """Listen.

        Raises:
            SandboxError: If the port is in use or not allowed.
        """
        # No access log, and no handling of signals: both are left to the caller.
        self._web = web.Server(self._serve, access_log=None, handler_cancellation=True)
        try:
            await self._listen(ports.bind(self.host, self.port))
        except OSError as error:
            raise ports.bind_error(error, self.host, self.port, "API", "--port") from error

    async def stop(self) -> None:
        """Stop at once; replies under way are cut off."""
        self._stopping.set()
        if self._reopening:
            self._reopening.cancel()
        if self._listener:
            self._listener.close()
        if self._web:
            await self._web.shutdown(timeout=0.2)

    def stats(self) -> dict[str, Any]:
        """Return what happened so far, as JSON values; see `ApiModel.stats`."""
        return {
            **self.model.stats(),
            "pid": os.getpid(),
            "now": self._now(),
            "redirects_followed": self._redirects_followed,
            "keys_elsewhere": self._keys_elsewhere,
        }

    async def _listen(self, bound: socket.socket) -> None:
        protocol = cast("web.Server", self._web)  # set by `start`
        self._listener = await asyncio.get_running_loop().create_server(protocol, sock=bound)
        self.port = bound.getsockname()[1]

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Reply to one request."""
        if request.path == STATS_PATH:
            return _json(self.stats())
        if request.path == ELSEWHERE_PATH:
            self._redirects_followed += 1
            self._keys_elsewhere += "X-API-Key" in request.headers or "api_key" in request.query
            pagination = {"hasMore": False, "nextCursor": None}
            return _json({"data": [], "pagination": pagination, "meta": {"total": 0}})
        if self._reopening:  # on a connection from before the refusal
            return _reset(request)
        outcome = self.model.handle(
            request.method, request.path, request.query, dict(request.headers), now=self._now()
        )
        return await self._carry_out(outcome, request)

    async def _carry_out(self, outcome: Outcome, request: web.BaseRequest) -> web.StreamResponse:
        """Do to a connection what the model decided."""
        if isinstance(outcome, NoReply):
            await self._stopping.wait()
            return _reset(request)
        if isinstance(outcome, Refused):
            if self._listener and not self._reopening:
                self._listener.close()
                # The port stays bound, so that no other program can take it.
                bound = ports.bind(self.host, self.port)
                self._reopening = asyncio.create_task(self._reopen(bound, outcome.seconds))
            return _reset(request)
        await asyncio.sleep(outcome.delay)
        if isinstance(outcome, Reset):
            if outcome.partial:
                stream = await _begin(request, outcome.partial)
                await stream.write(outcome.partial.body[: outcome.sent])
                # A reset discards what the client has not read yet.
                await asyncio.sleep(0.05)
            return _reset(request)
        if outcome.header_drip:
            return await _drip_headers(request, outcome)
        if outcome.drip or outcome.padding:
            return await _send_in_pieces(request, outcome)
        return web.Response(status=outcome.status, headers=outcome.headers, body=outcome.body)

    async def _reopen(self, bound: socket.socket, seconds: float) -> None:
        with bound:
            await asyncio.sleep(seconds)
            self._reopening = None
            await self._listen(bound.dup())


def _json(document: Any) -> web.Response:
    return web.Response(body=to_json(document).encode(), headers={"Content-Type": JSON_TYPE})


async def _begin(request: web.BaseRequest, response: Response) -> web.StreamResponse:
    """Send status and headers of a reply whose body follows in pieces."""
    stream = web.StreamResponse(status=response.status, headers=response.headers)
    stream.content_length = len(response.body) + response.padding
    await stream.prepare(request)
    return stream


async def _send_in_pieces(request: web.BaseRequest, response: Response) -> web.StreamResponse:
    """Send a body slowly, and the padding."""
    stream = await _begin(request, response)
    pieces = max(2, int(response.drip * _PIECES_PER_SECOND))
    size = max(1, -(-len(response.body) // pieces))
    with suppress(ConnectionError):  # the client has disconnected
        for start in range(0, len(response.body), size):
            await asyncio.sleep(response.drip / pieces)
            await stream.write(response.body[start : start + size])
        for sent in range(0, response.padding, _PIECE_BYTES):
            await stream.write(b" " * min(_PIECE_BYTES, response.padding - sent))
        await stream.write_eof()
    return stream


async def _drip_headers(request: web.BaseRequest, response: Response) -> web.StreamResponse:
    """Send the headers byte by byte, then the body, and close the connection."""
    headers = {**response.headers, "Content-Length": str(len(response.body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, "", ""]).encode()
    transport = cast("asyncio.Transport", request.transport)  # set while a request is served
    for byte in head:
        transport.write(bytes([byte]))
        await asyncio.sleep(response.header_drip / len(head))
    transport.write(response.body)
    transport.close()  # after what is buffered has been sent
    return web.Response()


def _reset(request: web.BaseRequest) -> web.Response:
    """Reset the connection, as when the server process dies."""
    if request.transport is not None:
        raw = request.transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        request.transport.abort()
    return web.Response()
