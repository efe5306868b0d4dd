"""Every fault, with one line for people and what it does to a page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from datasync_sandbox import strikes
from datasync_sandbox.answers import gateway
from datasync_sandbox.outcomes import NoReply, Outcome, Refused, Reset

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasync_sandbox.draft import Draft


@dataclass(frozen=True)
class FaultKind:
    """One entry of the catalogue.

    Attributes:
        help: One line for people.
        strike: From the page and the fault's value to what becomes of the request.
        default: Value when none is given, mostly seconds; ``None`` when the fault takes no value.
    """

    help: str
    strike: Callable[[Draft, float], Outcome]
    default: float | None = None


FAULTS: dict[str, FaultKind] = {
    "500": FaultKind(
        "500 with the API's own error in JSON",
        lambda d, _v: d.error(500, "INTERNAL_ERROR", "An unexpected error occurred"),
    ),
    "502": FaultKind(
        "502 from the gateway, in HTML, without rate limit headers",
        lambda d, _v: gateway(502, d.delay),
    ),
    "503": FaultKind(
        "503 from the gateway, in HTML, without rate limit headers",
        lambda d, _v: gateway(503, d.delay),
    ),
    "504": FaultKind(
        "504 from the gateway, in HTML, without rate limit headers",
        lambda d, _v: gateway(504, d.delay),
    ),
    "refused": FaultKind(
        "connection refused: reset, then nobody listens for VALUE seconds; spends no budget",
        lambda _d, v: Refused(v),
        default=1.0,
    ),
    "reset": FaultKind(
        "connection reset before the first byte of the answer", lambda d, _v: Reset(d.delay)
    ),
    "reset-body": FaultKind(
        "connection reset within the body, behind the share VALUE of it",
        strikes.reset_body,
        default=0.5,
    ),
    "hang": FaultKind("no reply, ever", lambda _d, _v: NoReply()),
    "drip-body": FaultKind(
        "the body drips in over VALUE seconds", lambda d, v: replace(d.page(), drip=v), default=30.0
    ),
    "late-reply": FaultKind(
        "the whole answer comes VALUE seconds late",
        lambda d, v: replace(d.page(), delay=d.delay + v),
        default=10.0,
    ),
    "truncated": FaultKind(
        "200, JSON cut off behind the share VALUE of it, lengths agree",
        strikes.truncated,
        default=0.5,
    ),
    "null": FaultKind("200 with the body null", lambda d, _v: d.page(b"null")),
    "list": FaultKind("200 with a list instead of an object", lambda d, _v: d.page(b"[]")),
    "empty": FaultKind("200 with an empty body", lambda d, _v: d.page(b"")),
    "html": FaultKind("200 with an HTML page", strikes.html_page),
    "nan": FaultKind("200 with NaN in an event", strikes.with_number("NaN")),
    "infinity": FaultKind("200 with Infinity in an event", strikes.with_number("Infinity")),
    "bad-utf8": FaultKind("200 with bytes that are not UTF-8", strikes.bad_utf8),
    "no-data": FaultKind(
        "200 without data",
        lambda d, _v: d.page(b'{"pagination"' + d.body(data="").split(b'"pagination"', 1)[1]),
    ),
    "null-data": FaultKind(
        "200 with data: null",
        lambda d, _v: d.page(d.body(data="").replace(b'"data":[]', b'"data":null', 1)),
    ),
    "no-pagination": FaultKind(
        "200 without pagination", lambda d, _v: d.page(d.body(pagination=...))
    ),
    "null-pagination": FaultKind(
        "200 with pagination: null", lambda d, _v: d.page(d.body(pagination=None))
    ),
    "no-meta": FaultKind("200 without meta", lambda d, _v: d.page(d.body(meta=...))),
    "null-meta": FaultKind("200 with meta: null", lambda d, _v: d.page(d.body(meta=None))),
    "empty-page": FaultKind(
        "no events, hasMore, and a new cursor to the same place",
        lambda d, _v: strikes.empty_page(d, d.here, d.cursor_lifetime),
    ),
    "empty-same-cursor": FaultKind(
        "no events, hasMore, and the cursor that was sent",
        lambda d, _v: strikes.empty_page(d, d.requested or d.here, d.requested_left),
    ),
    "false-end": FaultKind(
        "the page's events, but hasMore: false and no cursor, short of meta.total",
        lambda d, _v: strikes.other_end(d, hasMore=False, nextCursor=None, cursorExpiresIn=...),
    ),
    "false-end-bare": FaultKind(
        "the page's events, but neither hasMore nor a cursor",
        lambda d, _v: strikes.other_end(d, hasMore=..., nextCursor=..., cursorExpiresIn=...),
    ),
    "false-end-empty": FaultKind(
        "no events, hasMore: false, no cursor, short of meta.total", strikes.false_end_empty
    ),
    "no-cursor": FaultKind(
        "hasMore: true without nextCursor",
        lambda d, _v: strikes.other_end(d, nextCursor=..., cursorExpiresIn=...),
    ),
    "repeat-cursor": FaultKind(
        "the page's events, and a cursor that leads to the same page again",
        lambda d, _v: strikes.other_end(
            d, **strikes.onward(d, d.requested or d.here, d.requested_left)
        ),
    ),
    "cursor-expired": FaultKind(
        "400 CURSOR_EXPIRED, before its time",
        lambda d, _v: d.error(400, "CURSOR_EXPIRED", "Cursor expired 1 minute(s) ago"),
    ),
    "cursor-malformed": FaultKind(
        "400 CURSOR_INVALID_FORMAT for a good cursor",
        lambda d, _v: d.error(400, "CURSOR_INVALID_FORMAT", "Invalid cursor format"),
    ),
    "400": FaultKind(
        "400 with another code", lambda d, _v: d.error(400, "BAD_REQUEST", "Bad request")
    ),
    "401": FaultKind(
        "401, as when the key has died",
        lambda d, _v: d.error(401, "UNAUTHORIZED", "Invalid API key"),
    ),
    "403": FaultKind(
        "403, as when the key has died", lambda d, _v: d.error(403, "FORBIDDEN", "API key expired")
    ),
    "404": FaultKind(
        "404 ENDPOINT_NOT_FOUND",
        lambda d, _v: d.error(404, "ENDPOINT_NOT_FOUND", "Endpoint not found"),
    ),
    "redirect": FaultKind(
        "302 to another host name, where the stats notice a key that followed",
        strikes.to_other_host,
    ),
    "429": FaultKind(
        "429 with Retry-After in seconds (VALUE), enforced", strikes.seconds_429, default=2.0
    ),
    "429-date": FaultKind(
        "429 with Retry-After as a date VALUE seconds ahead, enforced",
        strikes.date_429,
        default=2.0,
    ),
    "429-bare": FaultKind(
        "429 with neither Retry-After nor rate limit headers",
        lambda d, _v: strikes.refuse(d, 0, retry_after=None, told=None, enforced=False),
    ),
    "429-long": FaultKind(
        "429 with Retry-After VALUE seconds longer than a cursor lives, enforced",
        strikes.long_429,
        default=5.0,
    ),
}
"""Every fault, by name."""
