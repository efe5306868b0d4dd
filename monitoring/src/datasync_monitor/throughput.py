"""Throughput and time left, computed from the newest pages and the API's rate limit."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasync_monitor.snapshot import Page

RATE_WINDOW = timedelta(minutes=5)
_SAMPLED_PAGES = 30
_SIMULATED_PAGES = 20_000


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The API's rate limit after its last reply."""

    limit: int
    remaining: int
    reset_at: datetime
    window_seconds: float

    def wait(self, now: datetime) -> timedelta | None:
        """Return how long no request is allowed, in whole seconds; None when one is."""
        if self.remaining > 0 or now >= self.reset_at:
            return None
        return timedelta(seconds=ceil((self.reset_at - now).total_seconds()))


def latest_rate_limit(pages: Sequence[Page], window_seconds: float | None) -> RateLimit | None:
    """Return the rate limit of the newest page; None where the API names none.

    Args:
        pages: oldest first.
        window_seconds: see `snapshot.ScanTotals`.
    """
    if not pages:
        return None
    page = pages[-1]
    limit, remaining, reset = (
        page.rate_limit,
        page.rate_limit_remaining,
        page.rate_limit_reset_seconds,
    )
    if limit is None or remaining is None or reset is None:
        return None
    return RateLimit(
        limit=max(limit, 1),
        remaining=remaining,
        reset_at=page.received_at + timedelta(seconds=reset),
        window_seconds=float(max(window_seconds or 0, reset)),
    )


def events_per_second(pages: Sequence[Page], until: datetime) -> float | None:
    """Return the mean over the five minutes before `until`, waits included.

    Under a rate limit ten fast pages are followed by a long wait: without it the result would be
    ten times too high.
    """
    recent = [page for page in pages if page.received_at > until - RATE_WINDOW]
    if not recent:
        return None
    elapsed = (until - recent[0].requested_at).total_seconds()
    return sum(page.events for page in recent) / elapsed if elapsed > 0 else None


def time_left(
    pages: Sequence[Page], pages_left: int, now: datetime, rate_limit: RateLimit | None
) -> timedelta | None:
    """Simulate the remaining requests against the rate limit; return how long they take from `now`.

    A sliding window is assumed: a request counts for one window after it was sent. With a fixed
    window the result differs by at most one window.
    """
    seconds = _seconds_per_page(pages)
    if seconds is None:
        return None
    if pages_left <= 0:
        return timedelta(0)
    if rate_limit is None or rate_limit.window_seconds <= 0:
        return timedelta(seconds=pages_left * seconds)
    window = rate_limit.window_seconds
    if pages_left > _SIMULATED_PAGES:
        return timedelta(seconds=pages_left * max(seconds, window / rate_limit.limit))
    counted = deque(_counted_requests(pages, rate_limit))
    at = max(now.timestamp(), pages[-1].received_at.timestamp())
    for _ in range(pages_left):
        if len(counted) >= rate_limit.limit:
            at = max(at, counted.popleft() + window)
        counted.append(at)
        at += seconds
    return timedelta(seconds=at - now.timestamp())


def _seconds_per_page(pages: Sequence[Page]) -> float | None:
    """Mean time of a page without the waits for the rate limit: reply, retries, loading."""
    sample = pages[-_SAMPLED_PAGES:]
    seconds = [
        max(
            0.0,
            (page.received_at - before.received_at).total_seconds() - page.rate_limit_wait_seconds,
        )
        for before, page in pairwise(sample)
        if page.sync_id == before.sync_id
    ]
    if not seconds and sample:
        seconds = [(sample[-1].received_at - sample[-1].requested_at).total_seconds()]
    return sum(seconds) / len(seconds) if seconds else None


def _counted_requests(pages: Sequence[Page], rate_limit: RateLimit) -> list[float]:
    """When the requests were sent that the API still counts: Unix seconds, oldest first.

    The header's count is the right one: retries and other clients of the same key use up requests
    that no page shows. They are assumed to be as old as the oldest counted request, which leaves
    the window `rate_limit_reset_seconds` after the last request arrived.
    """
    last, window = pages[-1], rate_limit.window_seconds
    used = max(0, rate_limit.limit - rate_limit.remaining)
    sent = last.requested_at.timestamp()
    known = [at for page in pages if (at := page.requested_at.timestamp()) > sent - window]
    known = known[-used:] if used else []
    oldest = sent + (last.rate_limit_reset_seconds or 0) - window
    return [oldest] * (used - len(known)) + known
