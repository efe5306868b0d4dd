"""The API as a function of a request and the time, without sockets, clock or threads.

A server puts it behind HTTP (`datasync_sandbox.api.server`); a simulation calls it with a clock of
its own. Everything random follows from the seed of the feed.
"""

from __future__ import annotations

import base64
import hashlib
import math
import random
import uuid
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from datasync_sandbox.api.access import Access, Cursor, CursorCodec
from datasync_sandbox.api.faults import FAULTS, OMIT, Faults
from datasync_sandbox.api.responses import (
    NoReply,
    Outcome,
    Refused,
    Request,
    Reset,
    Response,
    to_json,
)
from datasync_sandbox.data.feed import Feed
from datasync_sandbox.options import BASE, ApiOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasync_sandbox.data.feed import Place

DEFAULT_PAGE = 100
"""Events of a page without a valid ``limit``."""

_EVENTS = f"{BASE}/events"
_LOG_ENTRIES = 100_000
_LIMIT_DIGITS = 9
_MANIFEST = {
    "name": "DataSync API",
    "version": "1.0.0",
    "status": "operational",
    "endpoints": {"events": f"GET {_EVENTS}", "bulk": f"POST {_EVENTS}/bulk"},
    "authentication": "X-API-Key header",
}


@dataclass
class RequestLogEntry:
    """One request to the API.

    Attributes:
        at: Arrival, in seconds of the clock.
        method: HTTP method.
        path: Path without the query, which may hold a key.
        page: Number of the page asked for; see `datasync_sandbox.api.faults`.
        result: HTTP status, or ``reset``, ``no-reply`` or ``refused``.
        fault: Fault that it met.
    """

    at: float
    method: str
    path: str
    page: int | None = None
    result: int | str = 0
    fault: str | None = None


class ApiModel:
    """The DataSync API.

    Attributes:
        options: Its options.
        feed: Its events.
        faults: Its faults; another object may be assigned at any time.
        log: The last 100,000 requests.
        requests: All requests so far.
        started_at: When arrivals began, in seconds of the clock; ``None`` before the first request.
        access: State of the key and the rate limit.
        cursors: Encodes and decodes its cursors.
    """

    def __init__(
        self, options: ApiOptions | None = None, *, started_at: float | None = None
    ) -> None:
        """Create the API.

        Args:
            options: Its options; by default all defaults.
            started_at: When arrivals begin, in seconds of the clock; by default with the first
                request.

        Raises:
            ValueError: If an option is wrong; the message is for the user.
        """
        self.options: ApiOptions = options or ApiOptions()
        self.feed = Feed(self.options)
        self.faults = Faults(self.options.fault)
        self.log: deque[RequestLogEntry] = deque(maxlen=_LOG_ENTRIES)
        self.requests = 0
        self.started_at = started_at
        self.access = Access(self.options)
        self.cursors = CursorCodec(f"datasync-sandbox:{self.options.seed}")
        self._latency = self.options.latency_range
        self._draw = random.Random(f"{self.options.seed}:api")  # noqa: S311 - repeatable on purpose

    def handle(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        now: float,
    ) -> Outcome:
        """Return the outcome of a request.

        Args:
            method: HTTP method.
            path: Path, starting with `BASE`.
            query: Parameters, decoded.
            headers: Headers, in any case.
            now: Arrival, in seconds since 1970; never less than before.
        """
        if self.started_at is None:
            self.started_at = now
        if self.options.arrivals:
            self.feed.arrive(math.floor((now - self.started_at) * self.options.arrivals))
        request = Request(
            now,
            self._draw.uniform(*self._latency),
            query or {},
            {name.lower(): value for name, value in (headers or {}).items()},
            {"X-Request-ID": str(uuid.UUID(int=self._draw.getrandbits(128), version=4))},
        )
        entry = RequestLogEntry(now, method, path)
        self.requests += 1
        self.log.append(entry)
        outcome = self._route(method, path.rstrip("/"), request, entry)
        if isinstance(outcome, Response | Reset):
            outcome = replace(outcome, delay=outcome.delay + request.delay)
        names = {Reset: "reset", NoReply: "no-reply", Refused: "refused"}
        entry.result = outcome.status if isinstance(outcome, Response) else names[type(outcome)]
        return outcome

    def stats(self) -> dict[str, Any]:
        """Return what happened so far, as JSON values.

        ``requests``, ``faults`` and ``faults_served`` count all requests; ``pages``,
        ``rate_limited``, ``arrivals`` (times) and ``log`` cover the last 100,000.
        """
        log = list(self.log)
        return {
            "requests": self.requests,
            "total": self.feed.total,
            "faults": dict(self.faults.served),
            "faults_served": sum(self.faults.served.values()),
            "pages": sum(entry.result == 200 and entry.path == _EVENTS for entry in log),  # noqa: PLR2004
            "rate_limited": sum(entry.result == 429 for entry in log),  # noqa: PLR2004
            "arrivals": [entry.at for entry in log],
            "log": [vars(entry) for entry in log],
        }

    def _route(self, method: str, path: str, request: Request, entry: RequestLogEntry) -> Outcome:
        """Find the endpoint."""
        parent, _, name = path.rpartition("/")
        if method == "GET" and path == BASE:
            return request.reply(to_json(_MANIFEST).encode())
        if method == "GET" and path == _EVENTS:
            return self._get_page(request, entry)
        if method == "GET" and parent == _EVENTS:
            # Counted, and always unknown. Any name is an id, ``bulk`` too.
            return self.access.admit(request) or request.error(
                404, "EVENT_NOT_FOUND", f"Event with id '{name}' not found"
            )
        if method == "POST" and path == f"{_EVENTS}/bulk":
            return self.access.authenticate(request) or request.error(
                500, "INTERNAL_ERROR", "An unexpected error occurred"
            )
        return request.error(404, "ENDPOINT_NOT_FOUND", f"Endpoint not found: {method} {path}")

    def _get_page(self, request: Request, entry: RequestLogEntry) -> Outcome:
        """``GET /events``."""
        text = request.query.get("cursor")
        start = Cursor(1, None, request.now + self.options.cursor_lifetime)
        cursor = self.cursors.decode(text) if text else start
        entry.page = cursor.page if cursor else None
        fault = self.faults.next(entry.page)
        if fault and fault.name == "refused":  # before the request reaches the API
            entry.fault = fault.name
            self.faults.consume(fault)
            return Refused(fault.argument)
        if refusal := self.access.admit(request):
            return refusal
        if cursor is None:
            return request.error(400, "CURSOR_INVALID_FORMAT", "Invalid cursor format")
        if request.now >= cursor.expires:
            minutes = math.ceil((request.now - cursor.expires) / 60)
            message = f"Cursor expired {minutes} minute(s) ago"
            return request.error(400, "CURSOR_EXPIRED", message)
        page = PageResponse(self, request, cursor)
        if fault is None:
            return page.respond()
        entry.fault = fault.name
        self.faults.consume(fault)
        return FAULTS[fault.name].apply(page, fault.argument)


class PageResponse:
    """A page that is about to be sent, with what a fault needs in order to change it.

    Attributes:
        model: The API.
        request: What asked for it.
        cursor: The cursor of the request, or a new one to page 1.
        events: The events.
        pagination: The object of that name.
        meta: The object of that name.
    """

    def __init__(self, model: ApiModel, request: Request, cursor: Cursor, overlap: int = 0) -> None:
        """Build the page of a cursor, with an overlap of so many events with the page before."""
        self.model: ApiModel = model
        self.request: Request = request
        self.cursor: Cursor = cursor
        limit = _page_size(request.query.get("limit"), model.options.max_page)
        repeated = model.feed.events_before(cursor.after, min(overlap, limit - 1))
        page = model.feed.page(cursor.after, limit - len(repeated))
        self.events = repeated + page.events
        self.pagination: dict[str, Any] = {"limit": limit, "hasMore": False, "nextCursor": None}
        if page.has_more or (model.options.last_page == "empty" and page.events):
            self.pagination |= self.leading_to(self.new_cursor(cursor.page + 1, page.end))
        self.meta: dict[str, Any] = {
            "total": model.feed.total,
            "returned": len(self.events),
            "requestId": request.reply_headers["X-Request-ID"],
        }

    def overlapping(self, count: int) -> PageResponse:
        """Return the page that begins with so many events of the page before."""
        return PageResponse(self.model, self.request, self.cursor, count)

    def new_cursor(self, page: int, after: Place | None) -> Cursor:
        """Return a cursor that leads to a page, whose lifetime begins with this request."""
        return Cursor(page, after, self.request.now + self.model.options.cursor_lifetime)

    def leading_to(self, cursor: Cursor) -> dict[str, Any]:
        """Return fields of ``pagination`` that lead to a cursor."""
        left = cursor.expires - self.request.now - self.request.delay
        return {
            "hasMore": True,
            "nextCursor": self.model.cursors.encode(cursor),
            "cursorExpiresIn": math.floor(max(0.0, left)),
        }

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
                parts.append(f'"{name}":{to_json(value)}')
        return f"{{{','.join(parts)}}}".encode()

    def respond(self, body: bytes | None = None, **changes: Any) -> Response:
        """Return the reply with status 200, with another body or other parts, as for `body`."""
        body = self.body(**changes) if body is None else body
        cache = {"X-Cache": "MISS", "X-Cache-TTL": "30", "ETag": _etag(body)}
        return self.request.reply(body, headers=cache)


def _page_size(text: str | None, most: int) -> int:
    """Return the ``limit`` of a request: capped, or the default if it is not positive."""
    is_number = text and text.isascii() and text.isdigit() and len(text) <= _LIMIT_DIGITS
    return min((int(text) if text and is_number else 0) or DEFAULT_PAGE, most)


def _etag(body: bytes) -> str:
    """Return the weak entity tag of a body, in the form of the API's framework."""
    digest = base64.b64encode(hashlib.sha1(body, usedforsecurity=False).digest())[:27].decode()
    return f'W/"{len(body):x}-{digest}"'
