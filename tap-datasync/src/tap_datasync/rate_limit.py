"""The request budget: how long to wait before the next request may go out.

The API allows N requests per window and says in every answer how many are left and in
how many whole seconds the oldest counted one leaves. Whole seconds are coarse: taken as
they are, they cost up to a second, and with slow replies several, in every window. But
whoever sent the requests knows when each slot comes back: one window after the request
that took it. So the budget remembers its own last N requests, learns the window from
the headers, and uses the headers' seconds to check that memory:

- the two agree: wait until the own slot comes back, to the millisecond;
- they do not (another client shares the key, a fixed window, requests of a run before
  this one): believe the headers, and take the later end of what they leave open.

A sliding list and a fixed window both come out right: in either, the next slot comes
back one window after the oldest of the last N requests, or when the headers say so.

Should the API still answer 429, it is waited out as long as it says, and for some
windows the headers' later end is used: either somebody else took the slot, or this
server counts in some other way.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import backoff

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BLIND_WAIT = 60.0
"""Longest pause, in seconds, after a 429 that does not say how long to wait."""

_JITTER = 0.05
"""Seconds by which the way to the server may differ between two requests."""

_CAUTIOUS_WINDOWS = 10
"""Windows for which a 429 makes the budget distrust its own memory."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The limit as one answer's headers tell it.

    Attributes:
        limit: Requests per window.
        remaining: Requests left at the moment of the answer.
        reset: Whole seconds until the oldest counted request leaves.
    """

    limit: int
    remaining: int
    reset: int

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> RateLimit | None:
        """Read ``X-RateLimit-*``; ``None`` where one is missing or no whole number."""
        try:
            limit, remaining, reset = (
                int(headers[f"X-RateLimit-{name}"]) for name in ("Limit", "Remaining", "Reset")
            )
        except (KeyError, ValueError):
            return None
        if limit < 1 or remaining < 0 or reset < 0:
            return None
        return cls(limit, remaining, reset)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Read ``Retry-After``, in seconds from now; it may be a number or a date.

    Args:
        headers: The answer's headers.
        now: The wall clock, aware.

    Returns:
        Seconds, at least 0; ``None`` where there is none that can be read.
    """
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            until = parsedate_to_datetime(value)
        except ValueError:
            return None
        if until.tzinfo is None:
            until = until.replace(tzinfo=timezone.utc)
        seconds = (until - now).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


class RequestBudget:
    """Says when the next request may be sent. Times are seconds of a monotonic clock.

    Call :meth:`delay` before a request, :meth:`sent` when it goes out, and one of
    :meth:`answered`, :meth:`refused` or :meth:`unanswered` after it. Never sleeps itself.
    """

    def __init__(self) -> None:
        """Know nothing: the first request is free."""
        self._remaining: int | None = None
        self._sends: deque[float] = deque(maxlen=1)
        self._free_at = -math.inf
        self._whole_window: int | None = None
        self._window_range = (0.0, math.inf)
        self._cautious_until = -math.inf
        self._refused_in_a_row = 0
        self._rounding = 0.0
        self._blind = backoff.expo(base=2, factor=5, max_value=MAX_BLIND_WAIT)
        next(self._blind)

    @property
    def window(self) -> float | None:
        """The window's length in whole seconds; ``None`` until it is learnt."""
        if self._whole_window is not None:
            return float(self._whole_window)
        longest = self._window_range[1]
        return None if math.isinf(longest) else float(math.floor(longest))

    def delay(self, now: float) -> float:
        """Return the seconds to wait before the next request; 0 while one is free."""
        return max(0.0, self._free_at - now)

    def sent(self, now: float) -> None:
        """Note that a request goes out."""
        self._sends.append(now)

    def answered(self, facts: RateLimit | None, now: float) -> None:
        """Take in an answer's headers.

        Args:
            facts: The headers; ``None`` without any.
            now: When the answer was complete.
        """
        self._blind = backoff.expo(base=2, factor=5, max_value=MAX_BLIND_WAIT)
        next(self._blind)
        self._refused_in_a_row = 0
        if facts is None:
            # A gateway's page, or an API that never tells: then nothing is waited for.
            self.unanswered(counted=True)
            return
        self._learn(facts)
        self._remaining = facts.remaining
        self._free_at = -math.inf if facts.remaining else self._next_slot(facts, now)

    def refused(self, facts: RateLimit | None, wait: float | None, now: float) -> float:
        """Take in a 429.

        Args:
            facts: The headers, where there are any.
            wait: Seconds of ``Retry-After``, where there is one.
            now: When the answer was complete.

        Returns:
            Seconds until the next request may go out.
        """
        self._sends.pop()  # It took no slot.
        if facts is not None:
            # Nothing is learnt of the window: this request is not in it.
            self._resize(facts.limit)
            if wait is None:
                wait = float(facts.reset)
        self._cautious_until = now + _CAUTIOUS_WINDOWS * (self.window or 0.0)
        self._remaining = 0
        self._refused_in_a_row += 1
        if wait is None:
            wait = next(self._blind)
        elif self._refused_in_a_row > 1:
            # What it said was too short. A server that rounds down ends with "0 seconds",
            # which would be asked again and again for the rest of that second.
            self._rounding = 1.0
            wait += min(self._refused_in_a_row - 1.0, MAX_BLIND_WAIT)
        else:
            wait += self._rounding
        self._free_at = now + wait
        return wait

    def unanswered(self, *, counted: bool) -> None:
        """Note that a request got no headers.

        Args:
            counted: Whether the API may have counted it. It is then taken off the
                budget, since a 429 costs more than the wait.
        """
        if not counted:
            self._sends.pop()
        elif self._remaining is not None:
            self._remaining = max(0, self._remaining - 1)
            own = self._own_slot
            if not self._remaining and own is not None:
                self._free_at = max(self._free_at, own)

    @property
    def _own_slot(self) -> float | None:
        """When the oldest of the last N requests leaves the window, if that is known."""
        window = self.window
        if window is None or len(self._sends) != self._sends.maxlen:
            return None
        # The margin is for the way there, which differs from request to request.
        return self._sends[0] + window + 0.02 + 0.002 * window

    def _resize(self, limit: int) -> None:
        if limit != self._sends.maxlen:
            self._sends = deque(self._sends, maxlen=limit)

    def _learn(self, facts: RateLimit) -> None:
        self._resize(facts.limit)
        if facts.remaining == facts.limit - 1:
            # Only this request is counted, so its whole window lies ahead; a fixed
            # window may have begun before it, so the longest is the true one.
            self._whole_window = max(self._whole_window or 0, facts.reset)
        elif not facts.remaining and len(self._sends) == facts.limit:
            # The last N requests are the counted ones: the oldest leaves in `reset`.
            seen = self._sends[-1] - self._sends[0] + facts.reset
            shortest = max(self._window_range[0], seen - 1 - _JITTER)
            longest = min(self._window_range[1], seen + _JITTER)
            if math.floor(longest) < shortest:
                # Another client, or another window: forget what was learnt before.
                shortest, longest = seen - 1 - _JITTER, seen + _JITTER
            self._window_range = (shortest, longest)

    def _next_slot(self, facts: RateLimit, now: float) -> float:
        earliest = self._sends[-1] + facts.reset - 1
        latest = now + facts.reset + self._rounding
        own = self._own_slot
        if own is None or now < self._cautious_until or own < earliest:
            return latest
        return min(own, latest)
