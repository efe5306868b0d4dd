"""The log lines that tell how far the walk is and when it ends."""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

    from tap_datasync.budget import RateLimit
    from tap_datasync.extraction import ExtractedPage

_RECENT_PAGES = 30


class ProgressLog:
    """Writes one INFO line a page, and a summary."""

    def __init__(self, logger: logging.Logger, started: float) -> None:
        """Begin to count.

        Args:
            logger: Where the lines go.
            started: Seconds of a monotonic clock.
        """
        self._logger = logger
        self._started = started
        self._recent: deque[tuple[float, int]] = deque([(started, 0)], maxlen=_RECENT_PAGES)
        self.pages = 0
        self.seen = 0
        self.emitted = 0
        self.rejected = 0
        self.waited = 0.0
        self.retries = 0

    def page(self, page: ExtractedPage, now: float, window: float | None) -> None:
        """Write the line of one page.

        Args:
            page: The page, emitted.
            now: Seconds of the monotonic clock.
            window: The rate limit's window in seconds, if it is known.
        """
        exchange, bookmark = page.exchange, page.taken.bookmark
        self.pages += 1
        self.seen += exchange.page.returned
        self.emitted += len(page.taken.emit)
        self.rejected += len(exchange.page.rejections)
        self.waited += page.effort.waited
        self.retries += sum(page.effort.retries.values())
        self._recent.append((now, self.seen))
        total = bookmark.total_events or 0
        rate = self._rate(exchange.budget, window, exchange.page.returned)
        left = max(0, total - bookmark.events_seen) if bookmark.cursor else 0
        self._logger.info(
            "Page %d: %d events (%d new to this walk, %d skipped, %d rejected), "
            "%s of %s (%.1f %%), %.0f events/s, budget %s, cursor lives %s, done in %s",
            page.number,
            exchange.page.returned,
            len(page.taken.emit),
            page.taken.skipped,
            len(exchange.page.rejections),
            f"{bookmark.events_seen:,}",
            f"{total:,}",
            100 * bookmark.events_seen / total if total else 100,
            rate,
            _budget(exchange.budget),
            _cursor_life(page),
            _duration(left / rate) if rate else "?",
        )

    def summary(self, now: float, *, finished: bool) -> None:
        """Write the last line of a run."""
        self._logger.info(
            "%s: %d pages, %s events seen, %s emitted, %d rejected in %s "
            "(%s waited for the API's limit, %d retries)",
            "Walk finished" if finished else "Walk not finished",
            self.pages,
            f"{self.seen:,}",
            f"{self.emitted:,}",
            self.rejected,
            _duration(now - self._started),
            _duration(self.waited),
            self.retries,
        )

    def _rate(self, budget: RateLimit | None, window: float | None, size: int) -> float:
        (then, before), (now, seen) = self._recent[0], self._recent[-1]
        rate = (seen - before) / (now - then) if now > then else 0.0
        if budget is not None and window:
            # The first pages come in a burst that the limit will not allow again.
            rate = min(rate, budget.limit * size / window) if size else rate
        return rate


def _budget(budget: RateLimit | None) -> str:
    if budget is None:
        return "not told"
    return f"{budget.remaining}/{budget.limit}, next in {budget.reset} s"


def _cursor_life(page: ExtractedPage) -> str:
    expires_at = page.taken.bookmark.cursor_expires_at
    if expires_at is None:
        return "-"
    return f"{(expires_at - page.exchange.received_at).total_seconds():.0f} s"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
