"""Every fault: a name, one line for the user, and its effect on a page."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Any

from datasync_sandbox.api.responses import (
    HTML_TYPE,
    MIB,
    OMIT,
    NoReply,
    Outcome,
    PageResponse,
    Refused,
    Reset,
    Response,
    error_response,
    gateway_response,
    rate_limited_response,
)

ELSEWHERE_PATH = "/__sandbox__/elsewhere"
"""Where redirects lead; the request log counts who follows them."""

_Apply = Callable[[PageResponse, float], Outcome]


@dataclass(frozen=True)
class FaultKind:
    """A fault of the catalog.

    Attributes:
        help: One line for the user.
        apply: From the page and the fault's value to the outcome of the request.
        default: Value when none is given; ``None`` for a fault that takes no value.
    """

    help: str
    apply: _Apply
    default: float | None = None


def _error(status: int, code: str, message: str) -> _Apply:
    return lambda page, _: page.error(status, code, message)


def _gateway(status: int) -> FaultKind:
    return FaultKind(
        f"{status} from the gateway: HTML without rate limit headers",
        lambda page, _: gateway_response(status, page.delay),
    )


def _page(body: bytes | None = None, **changes: Any) -> _Apply:
    """Reply with another body, or other parts of the page; see `PageResponse.respond`."""
    return lambda page, _: page.respond(body, **changes)


def _with_pagination(**changes: Any) -> _Apply:
    return lambda page, _: _pagination(page, **changes)


def _html_page(page: PageResponse, _value: float) -> Outcome:
    body = b"<!DOCTYPE html><html><body>Checking your browser before continuing...</body></html>"
    return Response(200, {"Content-Type": HTML_TYPE}, body, page.delay)


def _number(literal: str) -> _Apply:
    """Put a number into the first event that JSON does not have."""

    def apply(page: PageResponse, _value: float) -> Outcome:
        data = page.data
        changed = data.replace('"properties":{', f'"properties":{{"value":{literal},', 1)
        if changed == data:  # a page without events has no properties
            return _pagination(page, limit=float(literal))
        return page.respond(data=f"[{changed}]")

    return apply


def _bad_utf8(page: PageResponse, _value: float) -> Outcome:
    # Inside strings only: decoded with replacement characters, it would pass for JSON.
    body = page.body().replace(b"event_", b"event_\xff\xfe", 1)
    return page.respond(body.replace(b'"requestId":"', b'"requestId":"\xc3', 1))


def _pagination(page: PageResponse, **changes: Any) -> Response:
    """Return the page with other fields of ``pagination``; `OMIT` leaves one out."""
    merged = {**page.pagination, **changes}
    return page.respond(pagination={k: v for k, v in merged.items() if v is not OMIT})


def _empty(page: PageResponse, **pagination: Any) -> Outcome:
    """Return a page without events."""
    return page.respond(
        data="[]",
        pagination={"limit": page.pagination["limit"], **pagination},
        meta={**page.meta, "returned": 0},
    )


def _leading_to(page: PageResponse, cursor: str, lifetime: float) -> dict[str, Any]:
    """Return fields of ``pagination`` that lead to a cursor."""
    expires_in = math.floor(max(0.0, lifetime - page.delay))
    return {"hasMore": True, "nextCursor": cursor, "cursorExpiresIn": expires_in}


def _same_cursor(page: PageResponse) -> dict[str, Any]:
    """Return fields of ``pagination`` that lead to the cursor of the request."""
    cursor = page.request.query.get("cursor") or page.cursor_here
    return _leading_to(page, cursor, page.cursor_sent_left)


def _total(page: PageResponse, share: float) -> Outcome:
    """Multiply ``meta.total`` by a share."""
    return page.respond(meta={**page.meta, "total": int(page.meta["total"] * share)})


def _future(page: PageResponse, value: float) -> Outcome:
    """Show the first event later than now."""
    millis = int((page.now + value) * 1000)
    events = [event._replace(millis=millis) for event in page.events[:1]] + page.events[1:]
    return replace(page, events=events).respond()


def _old_timestamps(page: PageResponse, value: float) -> Outcome:
    """Show the last events in January 1970."""
    first = max(0, len(page.events) - int(value))
    old = [event._replace(millis=place * 1000) for place, event in enumerate(page.events[first:])]
    return replace(page, events=page.events[:first] + old).respond()


def _redirect(page: PageResponse, padding: float = 0) -> Response:
    """Redirect to the same server under its other name."""
    name, _, port = page.request.headers.get("host", "127.0.0.1").partition(":")
    other = "127.0.0.1" if name == "localhost" else "localhost"
    location = f"http://{other}{':' if port else ''}{port}{ELSEWHERE_PATH}"
    headers = {"Location": location, **page.headers_without_cache}
    return Response(302, headers, b"", page.delay, padding=int(padding * MIB))


def _rate_limited(page: PageResponse, value: float) -> Response:
    """Refuse requests for some seconds, named in seconds."""
    seconds = math.ceil(value)
    page.access.blocked_until = page.now + seconds
    headers = {
        **page.headers_without_cache,
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(seconds),
        "Retry-After": str(seconds),
    }
    limit = int(page.headers["X-RateLimit-Limit"])
    return rate_limited_response(seconds, limit, headers, page.delay)


def _rate_limited_until_date(page: PageResponse, value: float) -> Outcome:
    """Refuse requests for some seconds, named by a date."""
    # A date has whole seconds: rounded up, or waiting until then would be too short.
    until = math.ceil(page.now + value)
    page.access.blocked_until = until
    headers = {
        **page.headers_without_cache,
        "X-RateLimit-Remaining": "0",
        "Retry-After": formatdate(until, usegmt=True),
    }
    del headers["X-RateLimit-Reset"]
    return error_response(429, "RATE_LIMIT_EXCEEDED", "Rate limit exceeded.", headers, page.delay)


def _rate_limited_bare(page: PageResponse, _value: float) -> Outcome:
    return error_response(429, "RATE_LIMIT_EXCEEDED", "Rate limit exceeded.", {}, page.delay)


def _reset_epoch(page: PageResponse, _value: float) -> Outcome:
    reset = math.ceil(page.now + int(page.headers["X-RateLimit-Reset"]))
    response = page.respond()
    return replace(response, headers={**response.headers, "X-RateLimit-Reset": str(reset)})


def _reset_body(page: PageResponse, value: float) -> Outcome:
    response = page.respond()
    return Reset(page.delay, response, int(len(response.body) * min(value, 1.0)))


def _truncated(page: PageResponse, value: float) -> Outcome:
    response = page.respond()
    return replace(response, body=response.body[: int(len(response.body) * min(value, 0.999))])


def _partial_content(page: PageResponse, _value: float) -> Outcome:
    response = page.respond()
    size, half = len(response.body), len(response.body) // 2
    headers = {**response.headers, "Content-Range": f"bytes 0-{half - 1}/{size}"}
    return replace(response, status=206, headers=headers, body=response.body[:half])


def _gzip_bomb(page: PageResponse, value: float) -> Outcome:
    """Return a small body that decompresses to many MiB."""
    # A gzip file may consist of several members, which decompress one after the other.
    response = page.respond(gzip.compress(b" " * MIB) * int(value))
    return replace(response, headers={**response.headers, "Content-Encoding": "gzip"})


FAULTS: dict[str, FaultKind] = {
    # Status codes
    "204": FaultKind(
        "204 without a body",
        lambda page, _: Response(204, page.headers_without_cache, b"", page.delay),
    ),
    "206": FaultKind("206 with half of the body", _partial_content),
    "400": FaultKind("400 with another code", _error(400, "BAD_REQUEST", "Bad request")),
    "401": FaultKind("401, as for an expired key", _error(401, "UNAUTHORIZED", "Invalid API key")),
    "403": FaultKind("403, as for an expired key", _error(403, "FORBIDDEN", "API key expired")),
    "404": FaultKind(
        "404 ENDPOINT_NOT_FOUND", _error(404, "ENDPOINT_NOT_FOUND", "Endpoint not found")
    ),
    "409": FaultKind("409 in JSON", _error(409, "CONFLICT", "Conflict")),
    "500": FaultKind("500 in JSON", _error(500, "INTERNAL_ERROR", "An unexpected error occurred")),
    "501": _gateway(501),
    "502": _gateway(502),
    "503": _gateway(503),
    "504": _gateway(504),
    "429": FaultKind("429 with Retry-After in seconds (VALUE), enforced", _rate_limited, 2.0),
    "429-date": FaultKind(
        "429 with Retry-After as a date VALUE seconds ahead, enforced",
        _rate_limited_until_date,
        2.0,
    ),
    "429-bare": FaultKind(
        "429 with neither Retry-After nor rate limit headers", _rate_limited_bare
    ),
    "429-long": FaultKind(
        "429 with Retry-After VALUE seconds longer than a cursor lives, enforced",
        lambda page, value: _rate_limited(page, page.cursor_lifetime + value),
        5.0,
    ),
    "redirect": FaultKind(
        "302 to another host name, where the request log counts keys that follow",
        lambda page, _: _redirect(page),
    ),
    "huge-redirect": FaultKind("302 with a body of VALUE MiB", _redirect, 1024.0),
    # Connections
    "refused": FaultKind(
        "reset, then connections are refused for VALUE seconds; not counted by the rate limit",
        lambda _, value: Refused(value),
        1.0,
    ),
    "reset": FaultKind(
        "connection reset before the first byte of the reply", lambda page, _: Reset(page.delay)
    ),
    "reset-body": FaultKind(
        "connection reset within the body, after the share VALUE of it", _reset_body, 0.5
    ),
    "hang": FaultKind("no reply", lambda _page, _value: NoReply()),
    "late-reply": FaultKind(
        "the reply is VALUE seconds late",
        lambda page, value: replace(page.respond(), delay=page.delay + value),
        10.0,
    ),
    "drip-headers": FaultKind(
        "the headers arrive byte by byte over VALUE seconds",
        lambda page, value: replace(page.respond(), header_drip=value),
        30.0,
    ),
    "drip-body": FaultKind(
        "the body arrives in pieces over VALUE seconds",
        lambda page, value: replace(page.respond(), drip=value),
        30.0,
    ),
    # Bodies
    "truncated": FaultKind(
        "200, JSON cut off after the share VALUE of it, lengths agree", _truncated, 0.5
    ),
    "null": FaultKind("200 with the body null", _page(b"null")),
    "list": FaultKind("200 with a list instead of an object", _page(b"[]")),
    "empty": FaultKind("200 with an empty body", _page(b"")),
    "html": FaultKind("200 with an HTML page", _html_page),
    "nan": FaultKind("200 with NaN in an event", _number("NaN")),
    "infinity": FaultKind("200 with Infinity in an event", _number("Infinity")),
    "bad-utf8": FaultKind("200 with bytes that are not UTF-8", _bad_utf8),
    "huge-body": FaultKind(
        "the page, followed by VALUE MiB of blanks",
        lambda page, value: replace(page.respond(), padding=int(value * MIB)),
        1024.0,
    ),
    "gzip-bomb": FaultKind("a gzip body that decompresses to VALUE MiB", _gzip_bomb, 1024.0),
    "no-data": FaultKind("200 without data", _page(data="")),
    "null-data": FaultKind("200 with data: null", _page(data="null")),
    "no-pagination": FaultKind("200 without pagination", _page(pagination=OMIT)),
    "null-pagination": FaultKind("200 with pagination: null", _page(pagination=None)),
    "no-meta": FaultKind("200 without meta", _page(meta=OMIT)),
    "null-meta": FaultKind("200 with meta: null", _page(meta=None)),
    # Pagination
    "empty-page": FaultKind(
        "no events, hasMore, and a new cursor to the same page",
        lambda page, _: _empty(page, **_leading_to(page, page.cursor_here, page.cursor_lifetime)),
    ),
    "empty-same-cursor": FaultKind(
        "no events, hasMore, and the cursor of the request",
        lambda page, _: _empty(page, **_same_cursor(page)),
    ),
    "false-end": FaultKind(
        "the page's events, but hasMore: false and no cursor, short of meta.total",
        _with_pagination(hasMore=False, nextCursor=None, cursorExpiresIn=OMIT),
    ),
    "false-end-bare": FaultKind(
        "the page's events, but neither hasMore nor a cursor",
        _with_pagination(hasMore=OMIT, nextCursor=OMIT, cursorExpiresIn=OMIT),
    ),
    "false-end-empty": FaultKind(
        "no events, hasMore: false, no cursor, short of meta.total",
        lambda page, _: _empty(page, hasMore=False, nextCursor=None),
    ),
    "no-cursor": FaultKind(
        "hasMore: true without nextCursor",
        _with_pagination(nextCursor=OMIT, cursorExpiresIn=OMIT),
    ),
    "repeat-cursor": FaultKind(
        "the page's events, and a cursor that leads to the same page",
        lambda page, _: _pagination(page, **_same_cursor(page)),
    ),
    "cycle": FaultKind(
        "the page's events, and a new cursor that leads to page 1",
        lambda page, _: _pagination(
            page, **_leading_to(page, page.cursor_to_start, page.cursor_lifetime)
        ),
    ),
    "overlap": FaultKind(
        "the page begins with the last VALUE events of the page before",
        lambda page, value: page.with_overlap(int(value)).respond(),
        10.0,
    ),
    "bad-expires": FaultKind("cursorExpiresIn is a text", _with_pagination(cursorExpiresIn="soon")),
    "cursor-expired": FaultKind(
        "400 CURSOR_EXPIRED for a live cursor",
        _error(400, "CURSOR_EXPIRED", "Cursor expired 1 minute(s) ago"),
    ),
    "cursor-malformed": FaultKind(
        "400 CURSOR_INVALID_FORMAT for a valid cursor",
        _error(400, "CURSOR_INVALID_FORMAT", "Invalid cursor format"),
    ),
    # Values
    "total-zero": FaultKind("meta.total is 0", lambda page, _: _total(page, 0.0)),
    "total-dip": FaultKind("meta.total is the share VALUE of the total", _total, 0.5),
    "reset-epoch": FaultKind("X-RateLimit-Reset is a Unix time instead of seconds", _reset_epoch),
    "future": FaultKind(
        "the first event of the page is VALUE seconds later than now", _future, 86_400.0
    ),
    "old-timestamps": FaultKind(
        "the last VALUE events of the page are of January 1970", _old_timestamps, 3.0
    ),
}
"""Every fault, by name."""
