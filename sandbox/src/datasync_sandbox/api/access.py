"""Access to the API: the key and the rate limit.

Pure objects: the clock is an argument, in seconds, and must not go backwards. The recordings of
the API fit a sliding window; fixed ones are not ruled out, so clients are tested with each.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasync_sandbox.api.responses import Response, error_response, rate_limited_response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasync_sandbox.api.config import ApiConfig, WindowKind


@dataclass(frozen=True)
class Request:
    """A request to the API.

    Attributes:
        now: Arrival, in seconds of the clock.
        delay: Seconds until its reply is due.
        query: Parameters, decoded.
        headers: Headers, their names in lower case.
        request_id: UUID.
    """

    now: float
    delay: float
    query: Mapping[str, str]
    headers: Mapping[str, str]
    request_id: str

    @property
    def reply_headers(self) -> dict[str, str]:
        """Headers of every reply to it."""
        return {"X-Request-ID": self.request_id}

    def error(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Return an error of the API as the reply."""
        return error_response(
            status, code, message, {**self.reply_headers, **(headers or {})}, self.delay
        )


@dataclass(frozen=True)
class RateLimitStatus:
    """The rate limit after a request.

    Attributes:
        allowed: Whether the request is within the limit; a refused one is not counted.
        limit: Requests per window.
        remaining: Requests that are left.
        reset: Whole seconds until a counted request leaves the window, at least 1.
    """

    allowed: bool
    limit: int
    remaining: int
    reset: int

    @property
    def headers(self) -> dict[str, str]:
        """The ``X-RateLimit-*`` headers of the reply."""
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(self.reset),
        }


class RateLimit:
    """At most so many requests per window; see `datasync_sandbox.api.config.ApiConfig`."""

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
        return RateLimitStatus(allowed, self._limit, self._limit - len(self._ends), reset)

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

    def __init__(self, config: ApiConfig) -> None:
        self.blocked_until = -math.inf
        self._config = config
        self._rate_limit = RateLimit(config.window_kind, config.limit, config.window)
        self._first_use: float | None = None
        self._requests = 0

    def authenticate(self, request: Request) -> Response | None:
        """Return a refusal, or ``None`` for a valid key. A refusal does not count."""
        config = self._config
        key = request.headers.get("x-api-key", request.query.get("api_key"))
        if key != config.key:
            problem = "Missing" if key is None else "Invalid"
            return request.error(401, "UNAUTHORIZED", f"{problem} API key")
        if self._first_use is None:
            self._first_use = request.now
        age = request.now - self._first_use
        outlived = config.key_lifetime is not None and age >= config.key_lifetime
        if outlived or (config.key_requests is not None and self._requests >= config.key_requests):
            return request.error(401, "API_KEY_EXPIRED", "API key expired")
        self._requests += 1
        return None

    def consume(self, request: Request) -> RateLimitStatus | Response:
        """Count a request, or refuse it with 429."""
        if is_over(self.blocked_until, request.now):
            status = self._rate_limit.consume(request.now)
            if status.allowed:
                return status
        else:
            reset = whole_seconds(self.blocked_until - request.now)
            status = RateLimitStatus(False, self._config.limit, 0, reset)  # noqa: FBT003
        headers = {**request.reply_headers, **status.headers, "Retry-After": str(status.reset)}
        return rate_limited_response(status.reset, status.limit, headers, request.delay)
