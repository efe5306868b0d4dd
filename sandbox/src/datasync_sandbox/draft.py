"""A page before it is sent: what a fault needs to know to spoil it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasync_sandbox.answers import error, etag
from datasync_sandbox.outcomes import JSON_TYPE, Response

if TYPE_CHECKING:
    from collections.abc import Callable

_KEEP: Any = object()


@dataclass
class Draft:
    """A page that is about to be sent, and its circumstances.

    Attributes:
        now: Arrival of the request, in seconds of the clock.
        delay: Seconds until the answer is due.
        headers: Headers of the answer, without the content type and the entity tag.
        data: The events, as JSON text without the outer brackets.
        pagination: The object of that name.
        meta: The object of that name.
        requested: Text of the cursor that was sent, if any.
        here: A fresh cursor that leads to this very page.
        host: The ``Host`` header of the request.
        cursor_lifetime: Seconds that a fresh cursor lives.
        requested_left: Seconds that the cursor which was sent has left; the full lifetime when
            none was.
        block_until: Refuses all requests before an instant with 429.
    """

    now: float
    delay: float
    headers: dict[str, str]
    data: str
    pagination: dict[str, Any]
    meta: dict[str, Any]
    requested: str | None
    here: str
    host: str
    cursor_lifetime: float
    requested_left: float
    block_until: Callable[[float], None]

    def body(self, *, data: str | None = None, pagination: Any = _KEEP, meta: Any = _KEEP) -> bytes:
        """Write the page's JSON.

        Args:
            data: Other events, as JSON text without the outer brackets.
            pagination: Another value, or ``...`` to leave the field out.
            meta: Another value, or ``...`` to leave the field out.

        Returns:
            Bytes of the body.
        """
        parts = [f'"data":[{self.data if data is None else data}]']
        for name, own, other in (
            ("pagination", self.pagination, pagination),
            ("meta", self.meta, meta),
        ):
            value = own if other is _KEEP else other
            if value is not ...:
                parts.append(f'"{name}":{json.dumps(value, separators=(",", ":"))}')
        return f"{{{','.join(parts)}}}".encode()

    def page(self, body: bytes | None = None) -> Response:
        """Answer 200 with a body, by default the page as it should be."""
        body = self.body() if body is None else body
        return Response(
            200, {"Content-Type": JSON_TYPE, **self.headers, "ETag": etag(body)}, body, self.delay
        )

    def error(self, status: int, code: str, message: str) -> Response:
        """Answer with an error of the API; see `error`."""
        return error(status, code, message, self.plain_headers(), self.delay)

    def plain_headers(self) -> dict[str, str]:
        """Return the headers of an answer that is no page."""
        return {
            name: value for name, value in self.headers.items() if not name.startswith("X-Cache")
        }
