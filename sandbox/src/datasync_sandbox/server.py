"""The API over HTTP: carries requests to the model and its outcomes back."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from datasync_sandbox import ports
from datasync_sandbox.answers import dump
from datasync_sandbox.errors import SandboxError
from datasync_sandbox.outcomes import JSON_TYPE, NoReply, Outcome, Refused, Reset, Response
from datasync_sandbox.policy import BASE, HOST, STATS

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasync_sandbox.model import ApiModel

_DRIPS_A_SECOND = 10
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_PIECE = 65_536


class ApiServer:
    """One model, served on one port. All methods belong to one event loop."""

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
        self._elsewhere = 0
        self._keys_elsewhere = 0
        # Monotonic, but reads as seconds since 1970: cursors outlive a restart.
        offset = time.time() - time.monotonic()
        self._now = clock or (lambda: time.monotonic() + offset)

    @property
    def url(self) -> str:
        """Base URL for clients."""
        return f"http://{self.host}:{self.port}{BASE}"

    async def start(self) -> None:
        """Listen.

        Raises:
            SandboxError: If the port is taken or not allowed.
        """
        # No access log, and no handling of signals: both are the caller's business.
        self._web = web.Server(self._serve, access_log=None, handler_cancellation=True)
        try:
            await self._listen(ports.bind(self.host, self.port))
        except OSError as error:
            message = ports.refusal(error, self.host, self.port, "the API")
            raise SandboxError(message) from error

    async def stop(self) -> None:
        """Stop at once: replies under way are cut off."""
        self._stopping.set()
        if self._reopening:
            self._reopening.cancel()
        if self._listener:
            self._listener.close()
        if self._web:
            await self._web.shutdown(timeout=0.2)

    def stats(self) -> dict[str, Any]:
        """Return what happened so far, as JSON values."""
        return {
            **self.model.stats(),
            "pid": os.getpid(),
            "now": self._now(),
            "redirects_followed": self._elsewhere,
            "keys_elsewhere": self._keys_elsewhere,
        }

    async def _listen(self, bound: socket.socket) -> None:
        protocol = cast("web.Server", self._web)  # set by `start`
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(protocol, sock=bound, backlog=128)
        except OSError:
            bound.close()
            raise
        self.port = bound.getsockname()[1]

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.path.startswith("/__sandbox__/"):
            return self._own(request)
        if self._reopening:  # a connection from before: to its client, nobody is there
            _reset(request)
            return web.Response()
        body = await request.read()
        headers = dict(request.headers)
        outcome = self.model.handle(
            request.method, request.path, request.query, headers, body, now=self._now()
        )
        return await self._carry_out(outcome, request)

    def _own(self, request: web.BaseRequest) -> web.Response:
        """Answer what is no part of the API."""
        if request.path == STATS:
            return web.Response(body=dump(self.stats()), headers={"Content-Type": JSON_TYPE})
        if request.path == "/__sandbox__/elsewhere":
            self._elsewhere += 1
            self._keys_elsewhere += "X-API-Key" in request.headers or "api_key" in request.query
            body = dump(
                {
                    "data": [],
                    "pagination": {"hasMore": False, "nextCursor": None},
                    "meta": {"total": 0},
                }
            )
            return web.Response(body=body, headers={"Content-Type": JSON_TYPE})
        return web.Response(status=404, text="The sandbox has nothing here.\n")

    async def _carry_out(self, outcome: Outcome, request: web.BaseRequest) -> web.StreamResponse:
        """Do to a connection what the model decided."""
        if isinstance(outcome, NoReply):
            await self._stopping.wait()
            _reset(request)
            return web.Response()
        if isinstance(outcome, Refused):
            self._close_for(outcome.seconds)
            _reset(request)
            return web.Response()
        if outcome.delay:
            await asyncio.sleep(outcome.delay)
        if isinstance(outcome, Reset):
            if outcome.partial:
                await self._send(request, outcome.partial, outcome.sent)
            _reset(request)
            return web.Response()
        if outcome.drip:
            return await self._drip(request, outcome)
        return web.Response(status=outcome.status, headers=outcome.headers, body=outcome.body)

    async def _send(self, request: web.BaseRequest, response: Response, size: int) -> None:
        """Send the head of an answer and the first bytes of its body."""
        stream = await _begin(request, response)
        for start in range(0, size, _PIECE):
            await stream.write(response.body[start : min(size, start + _PIECE)])
        # A reset throws away what the client has not read yet: let it arrive first.
        await asyncio.sleep(0.05)

    async def _drip(self, request: web.BaseRequest, response: Response) -> web.StreamResponse:
        """Send a body slowly."""
        stream = await _begin(request, response)
        pieces = max(2, int(response.drip * _DRIPS_A_SECOND))
        size = -(-len(response.body) // pieces)
        with suppress(ConnectionError):  # the client had enough of it
            for start in range(0, len(response.body), size):
                await asyncio.sleep(response.drip / pieces)
                await stream.write(response.body[start : start + size])
            await stream.write_eof()
        return stream

    def _close_for(self, seconds: float) -> None:
        """Refuse connections for a while."""
        if self._listener is None or self._reopening:
            return
        self._listener.close()
        # Kept for as long: another program would take the port, and the API be gone for good.
        bound = ports.bind(self.host, self.port)
        self._reopening = asyncio.create_task(self._reopen(bound, seconds))

    async def _reopen(self, bound: socket.socket, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            bound.close()
            raise
        self._reopening = None
        await self._listen(bound)


async def _begin(request: web.BaseRequest, response: Response) -> web.StreamResponse:
    """Send status and headers of an answer whose body follows in pieces."""
    stream = web.StreamResponse(status=response.status, headers=response.headers)
    stream.content_length = len(response.body)
    await stream.prepare(request)
    return stream


def _reset(request: web.BaseRequest) -> None:
    """Reset the connection, as a process does that dies."""
    transport = request.transport
    if transport is None:
        return
    raw = transport.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
