"""Rate limiter: how long to wait before the next request may be sent.

The API allows N requests per window. Every response states how many are left and in how
many whole seconds the oldest counted request leaves the window. Whole seconds are coarse:
taken literally they cost up to a second, and with slow responses several, per window. The
client knows more: each slot becomes free one window after the request that used it. So the
limiter remembers its own last N requests, learns the window's length from the headers and
compares the two:

- They agree: wait until the slot of the own request becomes free, to the millisecond.
- They differ (another client uses the key, a fixed window, requests of an earlier
  process): the headers decide, at the later end of what they leave open.

This is right for a sliding and for a fixed window: in either, the next slot becomes free
one window after the oldest of the last N requests, or when the headers state.

After a 429 the limiter waits as long as the response states, and for some windows it uses
the headers' later end: another client took the slot, or the server counts differently.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import TYPE_CHECKING

import backoff

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_UNSPECIFIED_WAIT_SECONDS = 60.0
"""Longest wait after a 429 that does not state how long to wait."""

MAX_WINDOW_SECONDS = 3600
"""Longest window that is learned from the headers."""

_NETWORK_JITTER_SECONDS = 0.05
"""By how much the time to the server may differ between two requests."""

_CAUTIOUS_WINDOWS = 10
"""Windows after a 429 in which the own memory is not relied on."""

_MAX_DIGITS = 15
_MAX_LIMIT = 10**6
_EPOCH_SECONDS = 10**9
_EPOCH_MILLISECONDS = 10**12


@dataclass(frozen=True, slots=True)
class RateLimitHeaders:
    """``X-RateLimit-*`` of one response.

    Attributes:
        limit: Requests per window.
        remaining: Requests left when the response was sent.
        reset: Whole seconds until the oldest counted request leaves the window.
    """

    limit: int
    remaining: int
    reset: int

    @classmethod
    def from_headers(cls, headers: Mapping[str, str], now: datetime) -> RateLimitHeaders | None:
        """Read the headers; a reset given as Unix time is converted to seconds from now.

        Args:
            headers: Headers of the response.
            now: The wall clock, aware; used where the response has no ``Date``.

        Returns:
            The headers; ``None`` where one is missing or not a number in its range.
        """
        values = [headers.get(f"X-RateLimit-{n}", "") for n in ("Limit", "Remaining", "Reset")]
        if not all(v.isascii() and v.isdigit() and len(v) <= _MAX_DIGITS for v in values):
            return None
        limit, remaining, reset = map(int, values)
        if not 1 <= limit <= _MAX_LIMIT:
            return None
        if reset >= _EPOCH_SECONDS:
            epoch = reset / 1000 if reset >= _EPOCH_MILLISECONDS else reset
            reset = max(0, math.ceil(epoch - _server_time(headers, now).timestamp()))
        return cls(limit, remaining, reset)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Read ``Retry-After``: a number of seconds, or a date relative to the response's ``Date``.

    Args:
        headers: Headers of the response.
        now: The wall clock, aware; used where the response has no ``Date``.

    Returns:
        Seconds, at least 0; ``None`` where there is no usable value.
    """
    value = headers.get("Retry-After", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        date = _parse_date(value)
        if date is None:
            return None
        seconds = (date - _server_time(headers, now)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _server_time(headers: Mapping[str, str], now: datetime) -> datetime:
    return _parse_date(headers.get("Date", "")) or now


def _parse_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:
            return date.replace(tzinfo=timezone.utc)
        return date.astimezone(timezone.utc)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


class RateLimiter:
    """Tracks the rate limit. Times are seconds of a monotonic clock; it never sleeps.

    Call :meth:`delay` before a request, :meth:`on_request` when it is sent, and one of
    :meth:`on_response`, :meth:`on_429` or :meth:`on_no_response` after it.
    """

    def __init__(self) -> None:
        self._remaining: int | None = None
        self._sent_at: deque[float] = deque(maxlen=1)
        self._free_at = -math.inf
        self._whole_window: int | None = None
        self._window_range = (0.0, math.inf)
        self._cautious_until = -math.inf
        self._consecutive_429s = 0
        self._rounding = 0.0
        self._unspecified_waits = exponential_backoff(5, MAX_UNSPECIFIED_WAIT_SECONDS)

    @property
    def window(self) -> float | None:
        """Length of the window in whole seconds; ``None`` until it is learned."""
        if self._whole_window is not None:
            return float(self._whole_window)
        longest = self._window_range[1]
        return None if math.isinf(longest) else float(math.floor(longest))

    def delay(self, now: float) -> float:
        """Return the seconds to wait before the next request; 0 while one is free."""
        return max(0.0, self._free_at - now)

    def on_request(self, now: float) -> None:
        """Record that a request is sent."""
        self._sent_at.append(now)

    def on_response(self, headers: RateLimitHeaders | None, now: float) -> None:
        """Record a response other than a 429.

        Args:
            headers: Its rate limit headers, if it has them.
            now: When the response was complete.
        """
        self._unspecified_waits = exponential_backoff(5, MAX_UNSPECIFIED_WAIT_SECONDS)
        self._consecutive_429s = 0
        if headers is None:
            # An error page of a gateway, or an API without these headers.
            self.on_no_response(counted=True)
            return
        self._learn_window(headers)
        self._remaining = headers.remaining
        self._free_at = -math.inf if headers.remaining else self._next_slot(headers, now)

    def on_429(self, headers: RateLimitHeaders | None, wait: float | None, now: float) -> float:
        """Record a 429.

        Args:
            headers: Its rate limit headers, if it has them.
            wait: Seconds of ``Retry-After``, if it has one.
            now: When the response was complete.

        Returns:
            Seconds until the next request may be sent.
        """
        self._sent_at.pop()  # It used no slot.
        if headers is not None:
            # The window is not learned from it: this request is not part of the window.
            self._resize(headers.limit)
            if wait is None:
                wait = float(headers.reset)
        self._cautious_until = now + _CAUTIOUS_WINDOWS * (self.window or 0.0)
        self._remaining = 0
        self._consecutive_429s += 1
        if wait is None:
            wait = next(self._unspecified_waits)
        elif self._consecutive_429s > 1:
            # The stated wait was too short. A server that rounds down ends with "0 seconds"
            # and would otherwise be requested repeatedly for the rest of that second.
            self._rounding = 1.0
            wait += min(self._consecutive_429s - 1.0, MAX_UNSPECIFIED_WAIT_SECONDS)
        else:
            wait += self._rounding
        self._free_at = now + wait
        return wait

    def on_no_response(self, *, counted: bool) -> None:
        """Record a request without response, or with one that has no rate limit headers.

        Args:
            counted: Whether the API may have counted it. The limiter then assumes that it
                did, because a 429 costs more than the wait.
        """
        if not counted:
            self._sent_at.pop()
        elif self._remaining is not None:
            self._remaining = max(0, self._remaining - 1)
            own_slot = self._own_slot
            if not self._remaining and own_slot is not None:
                self._free_at = max(self._free_at, own_slot)

    def pause(self, seconds: float, now: float) -> None:
        """Send nothing for a number of seconds: ``Retry-After`` of another error than a 429."""
        self._free_at = max(self._free_at, now + seconds)

    @property
    def _own_slot(self) -> float | None:
        """When the oldest of the last N requests leaves the window; ``None`` if unknown."""
        window = self.window
        if window is None or len(self._sent_at) != self._sent_at.maxlen:
            return None
        # The margin covers the time to the server, which differs between requests.
        return self._sent_at[0] + window + 0.02 + 0.002 * window

    def _resize(self, limit: int) -> None:
        if limit != self._sent_at.maxlen:
            self._sent_at = deque(self._sent_at, maxlen=limit)

    def _learn_window(self, headers: RateLimitHeaders) -> None:
        self._resize(headers.limit)
        if headers.reset > MAX_WINDOW_SECONDS:
            return
        if headers.remaining == headers.limit - 1:
            # Only this request is counted, so a whole window lies ahead. A fixed window may
            # have begun before it: the longest reset is the window's length.
            self._whole_window = max(self._whole_window or 0, headers.reset)
        elif not headers.remaining and len(self._sent_at) == headers.limit:
            # The last N requests are the counted ones: the oldest leaves in `reset`.
            window = self._sent_at[-1] - self._sent_at[0] + headers.reset
            shortest = max(self._window_range[0], window - 1 - _NETWORK_JITTER_SECONDS)
            longest = min(self._window_range[1], window + _NETWORK_JITTER_SECONDS)
            if math.floor(longest) < shortest:
                # Another client or another window: discard what was learned before.
                shortest = window - 1 - _NETWORK_JITTER_SECONDS
                longest = window + _NETWORK_JITTER_SECONDS
            self._window_range = (shortest, longest)

    def _next_slot(self, headers: RateLimitHeaders, now: float) -> float:
        earliest = self._sent_at[-1] + headers.reset - 1
        latest = now + headers.reset + self._rounding
        own_slot = self._own_slot
        if own_slot is None or now < self._cautious_until or own_slot < earliest:
            return latest
        return min(own_slot, latest)


def exponential_backoff(first: float, longest: float) -> Iterator[float]:
    """Return endless pauses in seconds, each twice the one before, up to the longest."""
    # The first value of the library's generators is a primer.
    return islice(backoff.expo(base=2, factor=first, max_value=longest), 1, None)
