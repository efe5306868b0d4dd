"""The API as a function of a request and the time: no socket, no clock, no threads.

A server transports it over HTTP (`datasync_sandbox.server`); a simulation calls it with
a clock of its own. Everything random in it follows from the seed of its feed.
"""

from __future__ import annotations

import json
import math
import random
import re
import uuid
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Literal

from datasync_sandbox.answers import dump, error
from datasync_sandbox.cursors import Cursor, CursorExpiredError, CursorMalformedError, CursorMint
from datasync_sandbox.draft import Draft
from datasync_sandbox.faults import Fault, Faults
from datasync_sandbox.gate import Call, Gate
from datasync_sandbox.outcomes import JSON_TYPE, NoReply, Outcome, Refused, Reset, Response
from datasync_sandbox.policy import BASE, ApiConfig, Exchange, count_exchanges

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from datasync_sandbox.blocks import Key
    from datasync_sandbox.feed import Feed
    from datasync_sandbox.ratelimit import Verdict

DEFAULT_PAGE = 100
_LIMIT = re.compile(r"[0-9]{1,9}")
_LOGGED = 100_000
_CACHED = 16
_CACHE_TTL = 30
_BULK_ERROR = 'Request body must contain an "ids" array'


class ApiModel:
    """The DataSync API."""

    def __init__(
        self,
        feed: Feed,
        policy: ApiConfig | None = None,
        faults: Faults | Iterable[Fault | str] = (),
        *,
        started: float | None = None,
    ) -> None:
        """Put the service together.

        Args:
            feed: The events.
            policy: The rules.
            faults: What goes wrong; see `datasync_sandbox.faults`.
            started: Instant from which the feed grows; by default the first request.
        """
        self.feed = feed
        self.policy = policy or ApiConfig()
        self.faults = faults if isinstance(faults, Faults) else Faults(faults)
        self.log: deque[Exchange] = deque(maxlen=_LOGGED)
        self.requests = 0
        self._started = started
        self._gate = Gate(self.policy)
        self._mint = CursorMint(f"datasync-sandbox:{feed.seed}")
        self._draw = random.Random(f"{feed.seed}:service")  # noqa: S311 - repeatable on purpose
        self._cache: OrderedDict[tuple[int, Key | None], tuple[float, int]] = OrderedDict()

    def handle(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        now: float,
    ) -> Outcome:
        """Take one request.

        Args:
            method: HTTP method.
            path: Path, starting with `BASE`.
            query: Parameters, decoded.
            headers: Headers; the case of their names does not matter.
            body: Bytes of the body.
            now: Arrival, in seconds; never less than before. Read as seconds since 1970 for dates.

        Returns:
            What becomes of it.
        """
        self._grow(now)
        exchange = Exchange(now, method, path)
        low, high = self.policy.latency
        call = Call(
            now,
            low + (high - low) * self._draw.random(),
            query or {},
            {name.lower(): value for name, value in (headers or {}).items()},
            body,
            exchange,
            str(uuid.UUID(int=self._draw.getrandbits(128), version=4)),
        )
        self.requests += 1
        self.log.append(exchange)
        outcome = self._route(method, path.rstrip("/"), call)
        exchange.result = _result(outcome)
        return outcome

    def stats(self) -> dict[str, Any]:
        """Return what happened so far, as JSON values.

        Returns:
            ``requests`` and the counters of faults are over all requests to the API; the other
            counters, like the log itself, are over the last 100,000.
        """
        return {
            "requests": self.requests,
            "total": self.feed.total,
            "faults": dict(self.faults.served),
            "faults_served": sum(self.faults.served.values()),
            **count_exchanges(self.log),
        }

    def _grow(self, now: float) -> None:
        """Let the events arrive that are due."""
        if self._started is None:
            self._started = now
        if self.feed.arrival_rate.rate:
            self.feed.arrive(math.floor((now - self._started) * self.feed.arrival_rate.rate))

    def _route(self, method: str, path: str, call: Call) -> Outcome:
        """Find the endpoint."""
        reading = method in {"GET", "HEAD"}
        if reading and path == BASE:
            return Response(
                200,
                {"Content-Type": JSON_TYPE, "X-Request-ID": call.request_id},
                _MANIFEST,
                call.delay,
            )
        if reading and path == f"{BASE}/events":
            return self._get_page(call)
        if method == "POST" and path == f"{BASE}/events/bulk":
            return self._post_bulk(call)
        ident = path.removeprefix(f"{BASE}/events/")
        if reading and ident != path and "/" not in ident:
            return self._get_event(ident, call)
        headers = call.answer_headers(None)
        return error(
            404, "ENDPOINT_NOT_FOUND", f"Endpoint not found: {method} {path}", headers, call.delay
        )

    def _get_page(self, call: Call) -> Outcome:
        """``GET /events``: a page of the feed."""
        cursor = self._read_cursor(call.query.get("cursor"))
        page = cursor.page if cursor else None
        call.exchange.page = page
        fault = self.faults.next(page)
        if fault and fault.name == "refused":
            # Nobody took the request, so nobody counted it.
            call.exchange.fault = fault.name
            self.faults.spend(fault)
            return Refused(fault.argument)
        denied = self._gate.authenticate(call)
        if denied:
            return denied
        verdict = self._gate.spend(call)
        if isinstance(verdict, Response):
            return verdict
        headers = call.answer_headers(verdict)
        if cursor is None:
            return error(400, "CURSOR_INVALID_FORMAT", "Invalid cursor format", headers, call.delay)
        try:
            cursor.check(call.now)
        except CursorExpiredError as expired:
            return error(400, "CURSOR_EXPIRED", str(expired), headers, call.delay)
        draft = self._draft(call, verdict, cursor)
        if fault is None:
            return draft.page()
        call.exchange.fault = fault.name
        self.faults.spend(fault)
        return fault.strike(draft)

    def _get_event(self, ident: str, call: Call) -> Outcome:
        """``GET /events/{id}``: one event. Any word is an id, ``bulk`` too."""
        denied = self._gate.authenticate(call)
        if denied:
            return denied
        verdict = self._gate.spend(call)
        if isinstance(verdict, Response):
            return verdict
        headers = call.answer_headers(verdict)
        text = self.feed.find(ident)
        if text is None:
            return error(
                404, "EVENT_NOT_FOUND", f"Event with id '{ident}' not found", headers, call.delay
            )
        return Response(
            200, {"Content-Type": JSON_TYPE, **headers}, f'{{"data":{text}}}'.encode(), call.delay
        )

    def _post_bulk(self, call: Call) -> Outcome:
        """``POST /events/bulk``: broken, with a budget of its own."""
        denied = self._gate.authenticate(call)
        if denied:
            return denied
        verdict = self._gate.spend_bulk(call)
        if isinstance(verdict, Response):
            return verdict
        headers = call.answer_headers(verdict)
        try:
            document = json.loads(call.body)
        except ValueError:
            document = None
        if not isinstance(document, dict) or not isinstance(document.get("ids"), list):
            return error(400, "INVALID_BODY", _BULK_ERROR, headers, call.delay)
        return error(500, "INTERNAL_ERROR", "An unexpected error occurred", headers, call.delay)

    def _read_cursor(self, text: str | None) -> Cursor | None:
        """Read a cursor; no cursor leads to the head, a malformed one is ``None``."""
        if not text:
            return Cursor(1, None, math.inf)
        try:
            return self._mint.open(text)
        except CursorMalformedError:
            return None

    def _draft(self, call: Call, verdict: Verdict, cursor: Cursor) -> Draft:
        """Cut the page that a cursor leads to."""
        limit = self._page_size(call.query.get("limit"))
        page = self.feed.page(cursor.after, limit)
        more = page.more or (self.policy.last_page == "empty" and len(page.texts) > 0)
        expires = call.now + self.policy.cursor_lifetime
        pagination: dict[str, Any] = {"limit": limit, "hasMore": more}
        if more:
            pagination["nextCursor"] = self._mint.seal(Cursor(cursor.page + 1, page.last, expires))
            pagination["cursorExpiresIn"] = math.floor(
                max(0.0, self.policy.cursor_lifetime - call.delay)
            )
        else:
            pagination["nextCursor"] = None
        headers = {
            **call.answer_headers(verdict),
            "X-Cache": self._look_up(limit, cursor.after, call.now),
            "X-Cache-TTL": str(_CACHE_TTL),
        }
        return Draft(
            now=call.now,
            delay=call.delay,
            headers=headers,
            data=",".join(page.texts),
            pagination=pagination,
            meta={
                "total": self.feed.total,
                "returned": len(page.texts),
                "requestId": call.request_id,
            },
            requested=call.query.get("cursor") or None,
            here=self._mint.seal(Cursor(cursor.page, cursor.after, expires)),
            host=call.headers.get("host", "127.0.0.1"),
            cursor_lifetime=self.policy.cursor_lifetime,
            requested_left=min(self.policy.cursor_lifetime, cursor.expires - call.now),
            block_until=self._gate.block_until,
        )

    def _page_size(self, text: str | None) -> int:
        """Read ``limit``: capped in silence, the default when it is no positive number."""
        known = text is not None and _LIMIT.fullmatch(text)
        size = int(text) if text and known else 0
        return min(size or DEFAULT_PAGE, self.policy.max_page)

    def _look_up(self, limit: int, after: Key | None, now: float) -> Literal["HIT", "MISS"]:
        """Tell whether a page was served within the last TTL, and remember that it is now.

        A feed that has grown since makes it a miss: a cached head would hide new events.
        """
        until, total = self._cache.get((limit, after), (-math.inf, 0))
        if now < until and total == self.feed.total:
            return "HIT"
        self._cache[limit, after] = (now + _CACHE_TTL, self.feed.total)
        self._cache.move_to_end((limit, after))
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
        return "MISS"


_MANIFEST = dump(
    {
        "name": "DataSync API",
        "version": "1.0.0",
        "status": "operational",
        "endpoints": {
            "events": f"GET {BASE}/events",
            "event": f"GET {BASE}/events/{{id}}",
            "bulk": f"POST {BASE}/events/bulk",
        },
        "authentication": "X-API-Key header",
    }
)


def _result(outcome: Outcome) -> int | str:
    """Name an outcome for the log."""
    if isinstance(outcome, Response):
        return outcome.status
    return {Reset: "reset", NoReply: "no-reply", Refused: "refused"}[type(outcome)]
