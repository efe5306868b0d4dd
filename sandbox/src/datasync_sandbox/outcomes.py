"""What can become of a request: an answer, or one of the ways not to answer.

A transport carries these out; a simulation reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

JSON_TYPE = "application/json; charset=utf-8"
HTML_TYPE = "text/html; charset=utf-8"


@dataclass(frozen=True)
class Response:
    """An answer over HTTP.

    Attributes:
        status: HTTP status.
        headers: Headers, without ``Content-Length``.
        body: Bytes of the body.
        delay: Seconds from the arrival of the request to the first byte of the answer.
        drip: Seconds that the body takes on its way, in small pieces; 0 is at once.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay: float = 0.0
    drip: float = 0.0


@dataclass(frozen=True)
class Reset:
    """The connection is reset.

    Attributes:
        delay: Seconds from the arrival of the request to the reset.
        partial: Answer that is cut off, or ``None`` when not a byte of it is sent.
        sent: Bytes of its body that are sent before the reset.
    """

    delay: float = 0.0
    partial: Response | None = None
    sent: int = 0


@dataclass(frozen=True)
class NoReply:
    """The connection stays open and nothing ever comes."""


@dataclass(frozen=True)
class Refused:
    """Nobody listens: the connection is refused.

    Attributes:
        seconds: How long a transport keeps its socket closed. A simulation takes one
            outcome as one refused connection.
    """

    seconds: float = 1.0


Outcome = Response | Reset | NoReply | Refused
