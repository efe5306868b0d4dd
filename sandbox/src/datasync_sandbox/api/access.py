"""Access to the API: the key and the rate limit.

Pure objects: the clock is an argument, in seconds, and must not go backwards. The recordings of
the API fit a sliding window; fixed ones are not ruled out, so clients are tested with each.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

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


class Window(Protocol):
    """A window of a rate limit."""

    def consume(self, now: float) -> RateLimitStatus:
        """Count a request that arrives at ``now``, if the limit allows it."""


class SlidingWindow:
    """The last ``limit`` requests: each leaves one window after its arrival."""

    def __init__(self, limit: int, window: float) -> None:
        """Start without requests."""
        self._limit = limit
        self._window = window
        self._arrivals: deque[float] = deque()

    def consume(self, now: float) -> RateLimitStatus:
        """Count a request that arrives at ``now``, if the limit allows it."""
        while self._arrivals and is_over(self._arrivals[0] + self._window, now):
            self._arrivals.popleft()
        allowed = len(self._arrivals) < self._limit
        if allowed:
            self._arrivals.append(now)
        reset = whole_seconds(self._arrivals[0] + self._window - now)
        return RateLimitStatus(allowed, self._limit, self._limit - len(self._arrivals), reset)


class FixedWindow:
    """A counter that is reset when its window is over."""

    def __init__(self, limit: int, window: float, *, aligned: bool) -> None:
        """Start before the first window.

        Args:
            limit: Requests per window, at least 1.
            window: Length of the window in seconds.
            aligned: Whether windows start at multiples of their length on the clock, instead
                of with the first request after the previous one.
        """
        self._limit = limit
        self._window = window
        self._aligned = aligned
        self._start = -math.inf
        self._count = 0

    def consume(self, now: float) -> RateLimitStatus:
        """Count a request that arrives at ``now``, if the limit allows it."""
        if is_over(self._start + self._window, now):
            self._start = self._aligned_start(now) if self._aligned else now
            self._count = 0
        allowed = self._count < self._limit
        if allowed:
            self._count += 1
        reset = whole_seconds(self._start + self._window - now)
        return RateLimitStatus(allowed, self._limit, self._limit - self._count, reset)

    def _aligned_start(self, now: float) -> float:
        start = math.floor(now / self._window) * self._window
        return start + self._window if is_over(start + self._window, now) else start


def make_window(kind: WindowKind, limit: int, window: float) -> Window:
    """Return a window without requests; see `datasync_sandbox.api.config.ApiConfig`."""
    if kind == "sliding":
        return SlidingWindow(limit, window)
    return FixedWindow(limit, window, aligned=kind == "aligned")


# Clock arithmetic leaves remainders (60.00000000004), which must not cost a second.
def is_over(end: float, now: float) -> bool:
    """Return whether the time until ``end`` has passed, to the microsecond."""
    return round(end - now, 6) <= 0


def whole_seconds(seconds: float) -> int:
    """Round up, as the API does: a client that waits so long is let in."""
    return max(1, math.ceil(round(seconds, 6)))


@dataclass
class Access:
    """State of the API key and its rate limit."""

    config: ApiConfig
    _blocked_until: float = -math.inf
    _first_use: float | None = None
    _requests: int = 0
    _window: Window = field(init=False)

    def __post_init__(self) -> None:
        """Start with an unused key."""
        config = self.config
        self._window = make_window(config.window_kind, config.limit, config.window)

    def authenticate(self, request: Request) -> Response | None:
        """Return a refusal, or ``None`` for a valid key. A refusal does not count."""
        key = request.headers.get("x-api-key", request.query.get("api_key"))
        if key != self.config.key:
            problem = "Missing" if key is None else "Invalid"
            return request.error(401, "UNAUTHORIZED", f"{problem} API key")
        if self._first_use is None:
            self._first_use = request.now
        lifetime, requests = self.config.key_lifetime, self.config.key_requests
        outlived = lifetime is not None and request.now >= self._first_use + lifetime
        if outlived or (requests is not None and self._requests >= requests):
            return request.error(401, "API_KEY_EXPIRED", "API key expired")
        self._requests += 1
        return None

    def consume(self, request: Request) -> RateLimitStatus | Response:
        """Count a request, or refuse it with 429."""
        if is_over(self._blocked_until, request.now):
            status = self._window.consume(request.now)
        else:
            reset = whole_seconds(self._blocked_until - request.now)
            status = RateLimitStatus(False, self.config.limit, 0, reset)  # noqa: FBT003
        if status.allowed:
            return status
        return rate_limited_response(
            status.reset,
            status.limit,
            {**request.reply_headers, **status.headers, "Retry-After": str(status.reset)},
            request.delay,
        )

    def block_until(self, end: float) -> None:
        """Refuse all requests before ``end``, in seconds of the clock."""
        self._blocked_until = max(self._blocked_until, end)
