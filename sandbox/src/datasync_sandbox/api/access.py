"""Access to the API: the key, the rate limit, and cursors.

Pure objects: the clock is an argument, in seconds, and must not go backwards. The recordings of
the API fit a sliding window; fixed ones are not ruled out, so clients are tested with each.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from itsdangerous import BadData, URLSafeSerializer

from datasync_sandbox.data.feed import Place

if TYPE_CHECKING:
    from datasync_sandbox.api.responses import Request, Response
    from datasync_sandbox.options import ApiOptions, WindowKind


class RateLimitStatus(NamedTuple):
    """The rate limit after a request.

    Attributes:
        allowed: Whether the request is within the limit; a refused one is not counted.
        remaining: Requests that are left.
        reset: Whole seconds until a counted request leaves the window, at least 1.
    """

    allowed: bool
    remaining: int
    reset: int


class RateLimit:
    """At most so many requests per window.

    The windows: ``sliding``: the last ``limit`` requests, each of which leaves one window later;
    ``fixed``: from the first request after the previous window; ``aligned``: from multiples of
    the window on the clock.
    """

    def __init__(self, kind: WindowKind, limit: int, window: float) -> None:
        self._kind = kind
        self._limit = limit
        self._window = window
        self._ends: deque[float] = deque()

    def consume(self, now: float) -> RateLimitStatus:
        """Count a request that arrives at ``now``, if the limit allows it."""
        while self._ends and is_over(self._ends[0], now):
            self._ends.popleft()
        allowed = len(self._ends) < self._limit
        if allowed:
            self._ends.append(self._end(now))
        reset = whole_seconds(self._ends[0] - now)
        return RateLimitStatus(allowed, self._limit - len(self._ends), reset)

    def _end(self, now: float) -> float:
        """Return when a request that is counted now leaves its window."""
        if self._kind != "sliding" and self._ends:
            return self._ends[0]
        if self._kind != "aligned":
            return now + self._window
        end = (math.floor(now / self._window) + 1) * self._window
        return end + self._window if is_over(end, now) else end


# Clock arithmetic leaves remainders (60.00000000004), which must not cost a second.
def is_over(end: float, now: float) -> bool:
    """Return whether the time until ``end`` has passed, to the microsecond."""
    return round(end - now, 6) <= 0


def whole_seconds(seconds: float) -> int:
    """Round up, as the API does: a client that waits so long is let in."""
    return max(1, math.ceil(round(seconds, 6)))


class Access:
    """State of the API key and its rate limit.

    Attributes:
        blocked_until: All requests before it are refused, in seconds of the clock.
    """

    def __init__(self, options: ApiOptions) -> None:
        self.blocked_until = -math.inf
        self._options = options
        self._rate_limit = RateLimit(options.window_kind, options.limit, options.window)
        self._first_use: float | None = None
        self._requests = 0

    def authenticate(self, request: Request) -> Response | None:
        """Return a refusal, or ``None`` for a valid key. A refusal does not count."""
        options = self._options
        key = request.headers.get("x-api-key", request.query.get("api_key"))
        if key != options.key:
            problem = "Missing" if key is None else "Invalid"
            return request.error(401, "UNAUTHORIZED", f"{problem} API key")
        if self._first_use is None:
            self._first_use = request.now
        outlived = options.key_lifetime and request.now - self._first_use >= options.key_lifetime
        if outlived or (options.key_requests and self._requests >= options.key_requests):
            return request.error(401, "API_KEY_EXPIRED", "API key expired")
        self._requests += 1
        return None

    def admit(self, request: Request) -> Response | None:
        """Return a refusal, or ``None`` for a valid key within the limit, which is counted."""
        if refusal := self.authenticate(request):
            return refusal
        if not is_over(self.blocked_until, request.now):
            return self.rate_limited(request, whole_seconds(self.blocked_until - request.now))
        status = self._rate_limit.consume(request.now)
        if not status.allowed:
            return self.rate_limited(request, status.reset)
        self._set_headers(request, status.remaining, status.reset)
        return None

    def rate_limited(self, request: Request, reset: int) -> Response:
        """Return the API's 429, for so many whole seconds until a request is allowed."""
        self._set_headers(request, 0, reset)
        request.reply_headers["Retry-After"] = str(reset)
        return request.error(
            429,
            "RATE_LIMIT_EXCEEDED",
            f"Rate limit exceeded. Try again in {reset} seconds.",
            rateLimit={
                "limit": self._options.limit,
                "remaining": 0,
                "reset": reset,
                "retryAfter": reset,
            },
        )

    def _set_headers(self, request: Request, remaining: int, reset: int) -> None:
        request.reply_headers["X-RateLimit-Limit"] = str(self._options.limit)
        request.reply_headers["X-RateLimit-Remaining"] = str(remaining)
        request.reply_headers["X-RateLimit-Reset"] = str(reset)


class Cursor(NamedTuple):
    """What a cursor stands for.

    Attributes:
        page: Number of the page that it leads to; the request without a cursor gets page 1.
        after: End of the page before; ``None`` is the start of the feed.
        expires: When it expires, in seconds of the clock.
    """

    page: int
    after: Place | None
    expires: float


class CursorCodec:
    """Encodes and decodes cursors: signed, so that a client cannot make, change or extend one.

    A server with the same secret accepts cursors that an earlier process issued, as a real
    service does after a deployment.
    """

    def __init__(self, secret: str) -> None:
        """Derive the signing key from any text."""
        self._serializer = URLSafeSerializer(
            secret, salt="cursor", signer_kwargs={"digest_method": hashlib.sha256}
        )

    def encode(self, cursor: Cursor) -> str:
        """Return the text of a cursor; the same cursor always has the same text."""
        return str(self._serializer.dumps(cursor))

    def decode(self, text: str) -> Cursor | None:
        """Return the cursor, expired or not; ``None`` if it was not issued with this secret."""
        try:
            page, after, expires = self._serializer.loads(text)
        except (BadData, ValueError):
            return None
        place = Place(after[0], tuple(after[1])) if after else None
        return Cursor(page, place, expires)
