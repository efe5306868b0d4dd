"""Throughput and time left, computed from the newest pages and the API's rate limit."""

from __future__ import annotations

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
        window_seconds: see `snapshot.Snapshot`.
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
    """Return how long the remaining requests take from `now`, waits for the rate limit included.

    The requests left are sent at once, a full limit in each window after the next reset, and the
    rest after the last one. The result differs from the truth by at most one window.
    """
    seconds = _seconds_per_page(pages)
    if seconds is None:
        return None
    unlimited = timedelta(seconds=pages_left * seconds)
    if rate_limit is None or pages_left <= rate_limit.remaining:
        return unlimited
    windows, last = divmod(pages_left - rate_limit.remaining - 1, rate_limit.limit)
    wait = max(timedelta(0), rate_limit.reset_at - now)
    wait += timedelta(seconds=windows * rate_limit.window_seconds + (last + 1) * seconds)
    return max(unlimited, wait)


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
