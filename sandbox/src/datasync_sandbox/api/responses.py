"""A request to the API, and what may become of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON_TYPE = "application/json; charset=utf-8"
HTML_TYPE = "text/html; charset=utf-8"


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


@dataclass(frozen=True)
class Request:
    """A request to the API.

    Attributes:
        now: Arrival, in seconds of the clock.
        delay: Seconds until its reply is due.
        query: Parameters, decoded.
        headers: Headers, their names in lower case.
        reply_headers: Headers of the reply: ``X-Request-ID``, and those of the rate limit as soon
            as the request is counted.
    """

    now: float
    delay: float
    query: Mapping[str, str]
    headers: Mapping[str, str]
    reply_headers: dict[str, str]

    def reply(
        self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Return a reply in JSON, with further headers."""
        all_headers = {"Content-Type": JSON_TYPE, **self.reply_headers, **(headers or {})}
        return Response(status, all_headers, body)

    def error(self, status: int, code: str, message: str, **more: Any) -> Response:
        """Return an error of the API as the reply, with further fields of its body."""
        phrase = HTTPStatus(status).phrase
        document = {"error": phrase, "message": message, "code": code, **more}
        return self.reply(to_json(document).encode(), status)


def to_json(document: Any) -> str:
    """Return JSON as the API writes it."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)
