"""The API as a function of a request and the time, without sockets, clock or threads.

A server puts it behind HTTP (`datasync_sandbox.api.server`); a simulation calls it with a clock of
its own. Everything random follows from the seed of the feed.
"""

from __future__ import annotations

import math
import random
import uuid
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasync_sandbox.api.access import Access, RateLimitStatus, Request
from datasync_sandbox.api.config import BASE, ApiConfig
from datasync_sandbox.api.cursors import Cursor, CursorCodec
from datasync_sandbox.api.fault_catalog import FAULTS
from datasync_sandbox.api.faults import Fault, Faults
from datasync_sandbox.api.responses import (
    JSON_TYPE,
    NoReply,
    Outcome,
    PageResponse,
    Refused,
    Reset,
    Response,
    json_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from datasync_sandbox.data.feed import Feed

DEFAULT_PAGE = 100
"""Events of a page without a valid ``limit``."""

_EVENTS = f"{BASE}/events"
_LOG_ENTRIES = 100_000
_LIMIT_DIGITS = 9
_MANIFEST = json_bytes(
    {
        "name": "DataSync API",
        "version": "1.0.0",
        "status": "operational",
        "endpoints": {"events": f"GET {_EVENTS}", "bulk": f"POST {_EVENTS}/bulk"},
        "authentication": "X-API-Key header",
    }
)


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
        feed: Its events.
        config: Its rules.
        faults: Its faults; another object may be assigned at any time.
        log: The last 100,000 requests.
        requests: All requests so far.
        started_at: When arrivals began, in seconds of the clock; ``None`` before the first request.
    """

    def __init__(
        self,
        feed: Feed,
        config: ApiConfig | None = None,
        faults: Faults | Iterable[Fault | str] = (),
        *,
        started_at: float | None = None,
    ) -> None:
        """Create the API.

        Args:
            feed: The events.
            config: The rules.
            faults: What goes wrong.
            started_at: When arrivals begin, in seconds of the clock; by default with the first
                request.
        """
        self.feed = feed
        self.config = config or ApiConfig()
        self.faults = faults if isinstance(faults, Faults) else Faults(faults)
        self.log: deque[RequestLogEntry] = deque(maxlen=_LOG_ENTRIES)
        self.requests = 0
        self.started_at = started_at
        self._access = Access(self.config)
        self._cursors = CursorCodec(f"datasync-sandbox:{feed.seed}")
        self._draw = random.Random(f"{feed.seed}:api")  # noqa: S311 - repeatable on purpose

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
        if self.feed.arrival_rate.rate:
            self.feed.arrive(math.floor((now - self.started_at) * self.feed.arrival_rate.rate))
        request = Request(
            now,
            self._draw.uniform(*self.config.latency),
            query or {},
            {name.lower(): value for name, value in (headers or {}).items()},
            str(uuid.UUID(int=self._draw.getrandbits(128), version=4)),
        )
        entry = RequestLogEntry(now, method, path)
        self.requests += 1
        self.log.append(entry)
        outcome = self._route(method, path.rstrip("/"), request, entry)
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
            headers = {"Content-Type": JSON_TYPE, **request.reply_headers}
            return Response(200, headers, _MANIFEST, request.delay)
        if method == "GET" and path == _EVENTS:
            return self._get_page(request, entry)
        if method == "GET" and parent == _EVENTS:
            return self._get_event(name, request)
        if method == "POST" and path == f"{_EVENTS}/bulk":
            return self._access.authenticate(request) or request.error(
                500, "INTERNAL_ERROR", "An unexpected error occurred"
            )
        return request.error(404, "ENDPOINT_NOT_FOUND", f"Endpoint not found: {method} {path}")

    def _get_page(self, request: Request, entry: RequestLogEntry) -> Outcome:
        """``GET /events``."""
        text = request.query.get("cursor")
        cursor = self._cursors.decode(text) if text else Cursor(1, None, math.inf)
        entry.page = cursor.page if cursor else None
        fault = self.faults.next(entry.page)
        if fault and fault.name == "refused":  # before the request reaches the API
            entry.fault = fault.name
            self.faults.consume(fault)
            return Refused(fault.argument)
        if refusal := self._access.authenticate(request):
            return refusal
        status = self._access.consume(request)
        if isinstance(status, Response):
            return status
        if cursor is None:
            return request.error(
                400, "CURSOR_INVALID_FORMAT", "Invalid cursor format", status.headers
            )
        if request.now >= cursor.expires:
            minutes = math.ceil((request.now - cursor.expires) / 60)
            message = f"Cursor expired {minutes} minute(s) ago"
            return request.error(400, "CURSOR_EXPIRED", message, status.headers)
        page = self._page(request, status, cursor)
        if fault is None:
            return page.respond()
        entry.fault = fault.name
        self.faults.consume(fault)
        return FAULTS[fault.name].apply(page, fault.argument)

    def _get_event(self, name: str, request: Request) -> Outcome:
        """``GET /events/{id}``: counted, and always unknown. Any name is an id, ``bulk`` too."""
        if refusal := self._access.authenticate(request):
            return refusal
        status = self._access.consume(request)
        if isinstance(status, Response):
            return status
        message = f"Event with id '{name}' not found"
        return request.error(404, "EVENT_NOT_FOUND", message, status.headers)

    def _page(
        self, request: Request, status: RateLimitStatus, cursor: Cursor, overlap: int = 0
    ) -> PageResponse:
        """Build the page of a cursor, with an overlap of so many events with the page before."""
        limit = self._page_size(request.query.get("limit"))
        repeated = self.feed.events_before(cursor.after, min(overlap, limit - 1))
        page = self.feed.page(cursor.after, limit - len(repeated))
        events = repeated + page.events
        has_more = page.has_more or (self.config.last_page == "empty" and bool(page.events))
        lifetime = self.config.cursor_lifetime
        expires = request.now + lifetime
        pagination: dict[str, Any] = {"limit": limit, "hasMore": has_more, "nextCursor": None}
        if has_more:
            following = Cursor(cursor.page + 1, page.end, expires)
            pagination["nextCursor"] = self._cursors.encode(following)
            pagination["cursorExpiresIn"] = math.floor(max(0.0, lifetime - request.delay))
        meta = {
            "total": self.feed.total,
            "returned": len(events),
            "requestId": request.request_id,
        }
        cache = {"X-Cache": "MISS", "X-Cache-TTL": "30"}
        return PageResponse(
            request=request,
            headers={**request.reply_headers, **status.headers, **cache},
            events=events,
            pagination=pagination,
            meta=meta,
            cursor_sent_left=min(lifetime, cursor.expires - request.now),
            cursor_here=self._cursors.encode(Cursor(cursor.page, cursor.after, expires)),
            cursor_to_start=self._cursors.encode(Cursor(1, None, expires)),
            cursor_lifetime=lifetime,
            access=self._access,
            with_overlap=lambda count: self._page(request, status, cursor, count),
        )

    def _page_size(self, text: str | None) -> int:
        """Return the ``limit`` of a request: capped, or the default if it is not positive."""
        is_number = text and text.isascii() and text.isdigit() and len(text) <= _LIMIT_DIGITS
        return min((int(text) if text and is_number else 0) or DEFAULT_PAGE, self.config.max_page)
