"""Faults: a table of all, each with its effect on a page, and those that are to happen.

The request without a cursor asks for page 1, and the cursor that page n issued asks for page
n + 1. Asking again for a page does not change its number; a new scan counts from 1. A fault hits
as many requests for its page as its count says, over the life of the server; then the page is
served unchanged. Several faults on one page hit one after the other.
"""

from __future__ import annotations

import gzip
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from datasync_sandbox.api.responses import (
    HTML_TYPE,
    NoReply,
    Outcome,
    Refused,
    Reset,
    Response,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from datasync_sandbox.api.model import PageResponse

ELSEWHERE_PATH = "/__sandbox__/elsewhere"
"""Where redirects lead; the request log counts who follows them."""

MIB = 1024 * 1024

OMIT: Any = object()
"""Leaves a field of a page out."""

_NOTATION = re.compile(r"([a-z0-9-]+)(?:=(\d+(?:\.\d+)?))?@([1-9]\d*)(?:x([1-9]\d*|forever))?")

_Apply = Callable[["PageResponse", float], Outcome]


@dataclass(frozen=True)
class FaultKind:
    """A fault of the catalog.

    Attributes:
        help: One line for the user.
        apply: From the page and the fault's value to the outcome of the request.
        default: Value when none is given; ``None`` for a fault that takes no value and gets 0.
    """

    help: str
    apply: _Apply
    default: float | None = None


def _error(status: int, code: str, message: str) -> _Apply:
    return lambda page, _: page.request.error(status, code, message)


def _gateway(status: int) -> FaultKind:
    """The HTML that a gateway sends when it cannot reach the API."""
    title = f"{status} {HTTPStatus(status).phrase}"
    body = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    return FaultKind(
        f"{status} from the gateway: HTML without rate limit headers",
        lambda _page, _value: Response(status, {"Content-Type": HTML_TYPE}, body.encode()),
    )


def _page(body: bytes | None = None, **changes: Any) -> _Apply:
    """Reply with another body, or other parts of the page; see `PageResponse.respond`."""
    return lambda page, _: page.respond(body, **changes)


def _with_pagination(**changes: Any) -> _Apply:
    return lambda page, _: _pagination(page, **changes)


def _html_page(_page: PageResponse, _value: float) -> Outcome:
    body = b"<!DOCTYPE html><html><body>Checking your browser before continuing...</body></html>"
    return Response(200, {"Content-Type": HTML_TYPE}, body)


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


def _total(page: PageResponse, share: float) -> Outcome:
    """Multiply ``meta.total`` by a share."""
    return page.respond(meta={**page.meta, "total": int(page.meta["total"] * share)})


def _future(page: PageResponse, value: float) -> Outcome:
    """Show the first event later than now."""
    millis = int((page.request.now + value) * 1000)
    page.events[:1] = [event._replace(millis=millis) for event in page.events[:1]]
    return page.respond()


def _old_timestamps(page: PageResponse, value: float) -> Outcome:
    """Show the last events in January 1970."""
    first = max(0, len(page.events) - int(value))
    page.events[first:] = [
        event._replace(millis=place * 1000) for place, event in enumerate(page.events[first:])
    ]
    return page.respond()


def _redirect(page: PageResponse, padding: float) -> Response:
    """Redirect to the same server under its other name."""
    name, _, port = page.request.headers.get("host", "127.0.0.1").partition(":")
    other = "127.0.0.1" if name == "localhost" else "localhost"
    location = f"http://{other}{':' if port else ''}{port}{ELSEWHERE_PATH}"
    headers = {"Location": location, **page.request.reply_headers}
    return Response(302, headers, b"", padding=int(padding * MIB))


def _rate_limited(page: PageResponse, value: float) -> Response:
    """Refuse requests for some seconds, named in seconds."""
    seconds = math.ceil(value)
    page.model.access.blocked_until = page.request.now + seconds
    return page.model.access.rate_limited(page.request, seconds)


def _rate_limited_until_date(page: PageResponse, value: float) -> Outcome:
    """Refuse requests for some seconds, named by a date."""
    # A date has whole seconds: rounded up, or waiting until then would be too short.
    until = math.ceil(page.request.now + value)
    page.model.access.blocked_until = until
    headers = page.request.reply_headers
    headers |= {"X-RateLimit-Remaining": "0", "Retry-After": formatdate(until, usegmt=True)}
    del headers["X-RateLimit-Reset"]
    return page.request.error(429, "RATE_LIMIT_EXCEEDED", "Rate limit exceeded.")


def _rate_limited_bare(page: PageResponse, _value: float) -> Outcome:
    page.request.reply_headers.clear()
    return page.request.error(429, "RATE_LIMIT_EXCEEDED", "Rate limit exceeded.")


def _reset_epoch(page: PageResponse, _value: float) -> Outcome:
    headers = page.request.reply_headers
    reset = math.ceil(page.request.now + int(headers["X-RateLimit-Reset"]))
    headers["X-RateLimit-Reset"] = str(reset)
    return page.respond()


def _reset_body(page: PageResponse, value: float) -> Outcome:
    response = page.respond()
    return Reset(partial=response, sent=int(len(response.body) * min(value, 1.0)))


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
        lambda page, _: Response(204, page.request.reply_headers, b""),
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
        lambda page, value: _rate_limited(page, page.model.options.cursor_lifetime + value),
        5.0,
    ),
    "redirect": FaultKind(
        "302 to another host name, where the request log counts keys that follow",
        _redirect,
    ),
    "huge-redirect": FaultKind("302 with a body of VALUE MiB", _redirect, 1024.0),
    # Connections
    "refused": FaultKind(
        "reset, then connections are refused for VALUE seconds; not counted by the rate limit",
        lambda _, value: Refused(value),
        1.0,
    ),
    "reset": FaultKind(
        "connection reset before the first byte of the reply", lambda _page, _value: Reset()
    ),
    "reset-body": FaultKind(
        "connection reset within the body, after the share VALUE of it", _reset_body, 0.5
    ),
    "hang": FaultKind("no reply", lambda _page, _value: NoReply()),
    "late-reply": FaultKind(
        "the reply is VALUE seconds late",
        lambda page, value: replace(page.respond(), delay=value),
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
        lambda page, _: _empty(
            page, **page.leading_to(page.new_cursor(page.cursor.page, page.cursor.after))
        ),
    ),
    "empty-same-cursor": FaultKind(
        "no events, hasMore, and the cursor of the request",
        lambda page, _: _empty(page, **page.leading_to(page.cursor)),
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
        lambda page, _: _pagination(page, **page.leading_to(page.cursor)),
    ),
    "cycle": FaultKind(
        "the page's events, and a new cursor that leads to page 1",
        lambda page, _: _pagination(page, **page.leading_to(page.new_cursor(1, None))),
    ),
    "overlap": FaultKind(
        "the page begins with the last VALUE events of the page before",
        lambda page, value: page.overlapping(int(value)).respond(),
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
    "total-zero": FaultKind("meta.total is 0", _total),
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


@dataclass(frozen=True)
class Fault:
    """A fault that is to happen.

    Attributes:
        name: A name from `FAULTS`.
        page: Number of the page, from 1.
        count: How many requests it hits, from 1; ``None`` is every one.
        value: Its value, mostly seconds; ``None`` is the default of the catalog.
    """

    name: str
    page: int
    count: int | None = 1
    value: float | None = None

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Parse ``NAME[=VALUE]@PAGE[xCOUNT]``: ``503@3``, ``hang@2x3``, ``false-end@4xforever``.

        Raises:
            ValueError: If the text is not a fault, its name is unknown, or it takes no value.
        """
        match = _NOTATION.fullmatch(text.strip())
        if match is None:
            message = (
                f"{text!r} is not a fault: expected NAME[=VALUE]@PAGE[xCOUNT], "
                "with page and count from 1"
            )
            raise ValueError(message)
        name, value, page, count = match.groups()
        if name not in FAULTS:
            message = f"unknown fault {name!r}; --list-faults lists all"
            raise ValueError(message)
        if value and FAULTS[name].default is None:
            message = f"the fault {name!r} takes no value"
            raise ValueError(message)
        hits = None if count == "forever" else int(count or 1)
        return cls(name, int(page), hits, float(value) if value else None)

    def __str__(self) -> str:
        """Return the fault as `parse` reads it."""
        value = "" if self.value is None else f"={self.value:g}"
        count = {None: "xforever", 1: ""}.get(self.count, f"x{self.count}")
        return f"{self.name}{value}@{self.page}{count}"

    @property
    def argument(self) -> float:
        """The fault's value, or the default."""
        return (FAULTS[self.name].default or 0.0) if self.value is None else self.value


class Faults:
    """The faults that are still to happen.

    Attributes:
        pending: The faults.
        served: How many requests each fault has hit, by name.
    """

    def __init__(self, faults: Iterable[str] = ()) -> None:
        """Collect faults, in the notation of the command line.

        Raises:
            ValueError: If a text is not a fault.
        """
        self.pending = [Fault.parse(text) for text in faults]
        self.served: Counter[str] = Counter()

    def next(self, page: int | None) -> Fault | None:
        """Return the fault that the next request for a page meets, if any."""
        return next((fault for fault in self.pending if fault.page == page), None)

    def consume(self, fault: Fault) -> None:
        """Count a request that a fault has hit; the last one removes the fault."""
        self.served[fault.name] += 1
        if fault.count is not None:
            rest = [replace(fault, count=fault.count - 1)] if fault.count > 1 else []
            at = self.pending.index(fault)
            self.pending[at : at + 1] = rest
