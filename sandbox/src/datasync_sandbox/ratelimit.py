"""Request budgets: how many requests a key may make in a window.

Pure objects. The clock is an argument, in seconds; it must not go backwards.
The recordings of the service fit the sliding list; a fixed window is not ruled
out, so a client has to be right under each of them.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol

WindowKind = Literal["sliding", "fixed", "aligned"]


@dataclass(frozen=True)
class Verdict:
    """What a bucket says about one request.

    Attributes:
        allowed: Whether the request may go on. A refused one is not counted.
        limit: Requests a window.
        remaining: Free requests after this one.
        reset: Whole seconds until a counted request leaves the window, at least 1
            when the request is refused.
    """

    allowed: bool
    limit: int
    remaining: int
    reset: int

    def headers(self) -> dict[str, str]:
        """Return the ``X-RateLimit-*`` headers of the answer."""
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(self.reset),
        }


class Bucket(Protocol):
    """A budget of requests."""

    def take(self, now: float) -> Verdict:
        """Count a request that arrives at ``now``, if there is room for it."""


class SlidingBucket:
    """The list of the last ``limit`` requests: each frees its slot one window later."""

    def __init__(self, limit: int, window: float) -> None:
        """Start with an empty list.

        Args:
            limit: Requests a window, at least 1.
            window: Length of the window in seconds.
        """
        self._limit = limit
        self._window = window
        self._taken: deque[float] = deque()

    def take(self, now: float) -> Verdict:
        """Count a request that arrives at ``now``, if there is room for it."""
        while self._taken and is_over(self._taken[0] + self._window, now):
            self._taken.popleft()
        allowed = len(self._taken) < self._limit
        if allowed:
            self._taken.append(now)
        left = self._taken[0] + self._window - now
        return Verdict(allowed, self._limit, self._limit - len(self._taken), whole_seconds(left))


class FixedBucket:
    """A counter that is emptied when its window is over.

    The window starts with the first request after the former one has ended, or, when
    ``aligned``, at whole multiples of the window on the clock.
    """

    def __init__(self, limit: int, window: float, *, aligned: bool = False) -> None:
        """Start before the first window.

        Args:
            limit: Requests a window, at least 1.
            window: Length of the window in seconds.
            aligned: Whether windows start at multiples of ``window``.
        """
        self._limit = limit
        self._window = window
        self._aligned = aligned
        self._start = -math.inf
        self._count = 0

    def take(self, now: float) -> Verdict:
        """Count a request that arrives at ``now``, if there is room for it."""
        if is_over(self._start + self._window, now):
            self._start = self._aligned_start(now) if self._aligned else now
            self._count = 0
        allowed = self._count < self._limit
        if allowed:
            self._count += 1
        left = self._start + self._window - now
        return Verdict(allowed, self._limit, self._limit - self._count, whole_seconds(left))

    def _aligned_start(self, now: float) -> float:
        """Return the multiple of the window at which the present one has begun."""
        start = math.floor(now / self._window) * self._window
        return start + self._window if is_over(start + self._window, now) else start


def make_bucket(kind: WindowKind, limit: int, window: float) -> Bucket:
    """Build the bucket of the given kind.

    Args:
        kind: ``sliding``, ``fixed`` or ``aligned``.
        limit: Requests a window.
        window: Length of the window in seconds.

    Returns:
        An empty bucket.
    """
    if kind == "sliding":
        return SlidingBucket(limit, window)
    return FixedBucket(limit, window, aligned=kind == "aligned")


def is_over(end: float, now: float) -> bool:
    """Tell whether the time until an instant has passed, as `whole_seconds` counts it."""
    return round(end - now, 6) <= 0


def whole_seconds(seconds: float) -> int:
    """Round up, as the service does: a client that waits so long is let in."""
    # Clock arithmetic leaves crumbs (60.00000000004); they must not cost a second.
    return max(1, math.ceil(round(seconds, 6)))
