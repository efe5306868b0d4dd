"""How fast, and how long still: both measured from `pages`, and honest under the request limit."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasync_monitor.facts import Page

RATE_SPAN = timedelta(minutes=5)
_WORK_SAMPLE = 30
_SIMULATED_PAGES = 20_000


@dataclass(frozen=True, slots=True)
class Budget:
    """The API's request limit as its last answer told it. `window` is in seconds."""

    limit: int
    remaining: int
    reset_at: datetime
    window: float

    def wait(self, now: datetime) -> timedelta | None:
        """How long no request is allowed; None while one is."""
        if self.remaining > 0 or now >= self.reset_at:
            return None
        return self.reset_at - now


def budget(pages: Sequence[Page], window: float | None) -> Budget | None:
    """Read the budget from the newest page, or None where the API does not tell it.

    Args:
        pages: oldest first.
        window: the longest `budget_reset` of the last day. The API names the seconds until its
            oldest counted request leaves, so the first answer of a fresh budget names the whole
            window.
    """
    if not pages:
        return None
    last = pages[-1]
    if last.budget_limit is None or last.budget_remaining is None or last.budget_reset is None:
        return None
    return Budget(
        limit=max(last.budget_limit, 1),
        remaining=last.budget_remaining,
        reset_at=last.received_at + timedelta(seconds=last.budget_reset),
        window=float(max(window or 0, last.budget_reset)),
    )


def rate(pages: Sequence[Page], until: datetime) -> float | None:
    """Events per second over the five minutes before `until`, pauses included.

    A burst of ten pages followed by a pause is what the limit looks like: the pause counts, or the
    number would be ten times too good.
    """
    recent = [page for page in pages if page.received_at > until - RATE_SPAN]
    if not recent:
        return None
    elapsed = (until - recent[0].requested_at).total_seconds()
    return sum(page.events for page in recent) / elapsed if elapsed > 0 else None


def work(pages: Sequence[Page]) -> float | None:
    """Seconds that a page takes beside waiting for the limit: reply, retries, loading."""
    sample = pages[-_WORK_SAMPLE:]
    gaps = [
        max(0.0, (page.received_at - before.received_at).total_seconds() - page.waited)
        for before, page in pairwise(sample)
        if page.run_id == before.run_id
    ]
    if not gaps and sample:
        gaps = [(sample[-1].received_at - sample[-1].requested_at).total_seconds()]
    return sum(gaps) / len(gaps) if gaps else None


def eta(
    pages: Sequence[Page], pages_left: int, now: datetime, limit: Budget | None
) -> timedelta | None:
    """Play the pages that are left against the limit, and say how long they take from `now`.

    A sliding window is assumed: a request's place is free again one window after it was sent.
    Under a fixed window the answer differs by at most one window.
    """
    seconds = work(pages)
    if seconds is None:
        return None
    if pages_left <= 0:
        return timedelta(0)
    if limit is None or limit.window <= 0:
        return timedelta(seconds=pages_left * seconds)
    if pages_left > _SIMULATED_PAGES:
        return timedelta(seconds=pages_left * max(seconds, limit.window / limit.limit))
    taken = deque(_taken(pages, limit))
    at = max(now.timestamp(), pages[-1].received_at.timestamp())
    for _ in range(pages_left):
        if len(taken) >= limit.limit:
            at = max(at, taken.popleft() + limit.window)
        taken.append(at)
        at += seconds
    return timedelta(seconds=at - now.timestamp())


def _taken(pages: Sequence[Page], limit: Budget) -> list[float]:
    """When the requests were sent that the API still counts, as Unix seconds, oldest first.

    The header's count wins over our own: retries and other clients of the same key spend requests
    that no page tells of. They are taken to be as old as the oldest one. The API names the seconds
    until that one leaves as of the arrival of the request, not of its answer (the first answer of
    a fresh budget says 60, however late it comes).
    """
    last = pages[-1]
    used = max(0, limit.limit - limit.remaining)
    sent = last.requested_at.timestamp()
    known = [at for page in pages if (at := page.requested_at.timestamp()) > sent - limit.window]
    known = known[-used:] if used else []
    oldest = sent + (last.budget_reset or 0) - limit.window
    return [oldest] * (used - len(known)) + known
