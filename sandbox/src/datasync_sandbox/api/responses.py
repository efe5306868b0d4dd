"""What may become of a request, and the pages and errors that the API replies with."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasync_sandbox.api.access import Access, Request
    from datasync_sandbox.data.events import Event

JSON_TYPE = "application/json; charset=utf-8"
HTML_TYPE = "text/html; charset=utf-8"
MIB = 1024 * 1024

OMIT: Any = object()
"""Leaves a field of a page out."""


@dataclass(frozen=True)
class Response:
    """A reply.

    Attributes:
        status: HTTP status.
        headers: Headers.
        body: Body.
        delay: Seconds until its first byte.
        drip: Seconds over which the body is sent, in small pieces.
        header_drip: Seconds over which the headers are sent, in small pieces.
        padding: Bytes of blanks that follow the body.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    delay: float = 0.0
    drip: float = 0.0
    header_drip: float = 0.0
    padding: int = 0


@dataclass(frozen=True)
class Reset:
    """The connection is reset.

    Attributes:
        delay: Seconds until then.
        partial: A reply that is sent first; ``None`` resets before the first byte.
        sent: Bytes of its body that are sent.
    """

    delay: float = 0.0
    partial: Response | None = None
    sent: int = 0


@dataclass(frozen=True)
class NoReply:
    """The connection stays open without a reply."""


@dataclass(frozen=True)
class Refused:
    """The server refuses this and all new connections.

    Attributes:
        seconds: For how long.
    """

    seconds: float


Outcome = Response | Reset | NoReply | Refused


@dataclass
class PageResponse:
    """A page that is about to be sent, with what a fault needs in order to change it.

    Attributes:
        request: What asked for it.
        headers: Headers of the reply, without content type and entity tag.
        events: The events.
        pagination: The object of that name.
        meta: The object of that name.
        cursor_sent_left: Seconds that the cursor of the request has left; the full lifetime
            without a cursor.
        cursor_here: A new cursor that leads to this page.
        cursor_to_start: A new cursor that leads to page 1.
        cursor_lifetime: Seconds that a new cursor lives.
        access: The key and the rate limit.
        with_overlap: Returns the page that repeats so many events of the page before.
    """

    request: Request
    headers: dict[str, str]
    events: list[Event]
    pagination: dict[str, Any]
    meta: dict[str, Any]
    cursor_sent_left: float
    cursor_here: str
    cursor_to_start: str
    cursor_lifetime: float
    access: Access
    with_overlap: Callable[[int], PageResponse]

    @property
    def now(self) -> float:
        """Arrival of the request, in seconds of the clock."""
        return self.request.now

    @property
    def delay(self) -> float:
        """Seconds until the reply is due."""
        return self.request.delay

    @property
    def data(self) -> str:
        """The events as JSON; timestamps at places 0, 3, 6 and so on are numbers."""
        return ",".join(
            event.to_json(as_millis=place % 3 == 0) for place, event in enumerate(self.events)
        )

    def body(self, *, data: str | None = None, **changes: Any) -> bytes:
        """Return the page as JSON.

        Args:
            data: Other value of that name, as JSON; empty leaves it out.
            **changes: Other values of ``pagination`` and ``meta``; `OMIT` leaves one out.
        """
        data = f"[{self.data}]" if data is None else data
        parts = [f'"data":{data}'] if data else []
        for name, value in {"pagination": self.pagination, "meta": self.meta, **changes}.items():
            if value is not OMIT:
                parts.append(f'"{name}":{_dumps(value)}')
        return f"{{{','.join(parts)}}}".encode()

    def respond(self, body: bytes | None = None, **changes: Any) -> Response:
        """Return the reply with status 200, with another body or other parts, as for `body`."""
        body = self.body(**changes) if body is None else body
        headers = {"Content-Type": JSON_TYPE, **self.headers, "ETag": _etag(body)}
        return Response(200, headers, body, self.delay)

    def error(self, status: int, code: str, message: str) -> Response:
        """Return an error of the API instead of the page."""
        return error_response(status, code, message, self.headers_without_cache, self.delay)

    @property
    def headers_without_cache(self) -> dict[str, str]:
        """Headers of a reply that is not a page."""
        return {
            name: value for name, value in self.headers.items() if not name.startswith("X-Cache")
        }


def json_bytes(document: Any) -> bytes:
    """Return JSON as the API writes it."""
    return _dumps(document).encode()


def error_response(
    status: int,
    code: str,
    message: str,
    headers: dict[str, str],
    delay: float,
    **more: Any,
) -> Response:
    """Return an error of the API, with further fields of its body."""
    phrase = HTTPStatus(status).phrase
    body = json_bytes({"error": phrase, "message": message, "code": code, **more})
    return Response(status, {"Content-Type": JSON_TYPE, **headers}, body, delay)


def rate_limited_response(
    reset: int, limit: int, headers: dict[str, str], delay: float
) -> Response:
    """Return the API's 429, for so many whole seconds until a request is allowed."""
    return error_response(
        429,
        "RATE_LIMIT_EXCEEDED",
        f"Rate limit exceeded. Try again in {reset} seconds.",
        headers,
        delay,
        rateLimit={"limit": limit, "remaining": 0, "reset": reset, "retryAfter": reset},
    )


def gateway_response(status: int, delay: float) -> Response:
    """Return the HTML that a gateway sends when it cannot reach the API."""
    title = f"{status} {HTTPStatus(status).phrase}"
    body = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    return Response(status, {"Content-Type": HTML_TYPE}, body.encode(), delay)


def _dumps(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def _etag(body: bytes) -> str:
    """Return the weak entity tag of a body, in the form of the API's framework."""
    digest = base64.b64encode(hashlib.sha1(body, usedforsecurity=False).digest())[:27].decode()
    return f'W/"{len(body):x}-{digest}"'
