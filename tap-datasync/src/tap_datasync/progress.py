"""Log lines about the progress of a scan: one for each page, and a summary."""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

    from tap_datasync.client import Clock, RequestStats
    from tap_datasync.parsing import FetchedPage
    from tap_datasync.rate_limit import RateLimitHeaders
    from tap_datasync.state import ScanState

_RECENT_PAGES = 30


class ProgressLog:
    """Writes one INFO line for each page, and a summary.

    Attributes:
        pages: Pages so far.
        emitted: Events emitted so far.
    """

    def __init__(self, logger: logging.Logger, clock: Clock) -> None:
        """Start at zero.

        Args:
            logger: Receives the lines.
            clock: Its monotonic time is measured.
        """
        self.pages = 0
        self.emitted = 0
        self._logger = logger
        self._clock = clock
        self._started = clock.monotonic()
        self._recent: deque[tuple[float, int]] = deque([(self._started, 0)], maxlen=_RECENT_PAGES)
        self._events = 0
        self._rejected = 0
        self._waited_seconds = 0.0
        self._retries = 0

    def log_page(
        self,
        page: FetchedPage,
        state: ScanState,
        stats: RequestStats,
        *,
        emitted: int,
        window: float | None,
    ) -> None:
        """Log one page that was emitted.

        Args:
            page: The page.
            state: State of the scan after it.
            stats: Retries and waits since the page before.
            emitted: Events of the page that were emitted.
            window: Window of the rate limit in seconds, if it is known.
        """
        self.pages += 1
        self.emitted += emitted
        self._events += page.returned
        self._rejected += len(page.rejections)
        self._waited_seconds += stats.rate_limit_wait_seconds
        self._retries += sum(stats.retries.values())
        self._recent.append((self._clock.monotonic(), self._events))
        expected = state.events_expected or 0
        rate = self._rate(page, window)
        left = max(0, expected - state.events_seen) if state.cursor else 0
        self._logger.info(
            "Page %d: %d events (%d emitted, %d skipped, %d rejected), "
            "%s of %s (%.1f %%), %.0f events/s, rate limit %s, cursor expires in %s, "
            "time left %s",
            self.pages,
            page.returned,
            emitted,
            len(page.records) - emitted,
            len(page.rejections),
            f"{state.events_seen:,}",
            f"{expected:,}",
            100 * state.events_seen / expected if expected else 100,
            rate,
            _rate_limit(page.rate_limit),
            _cursor_lifetime(page, state),
            _duration(left / rate) if rate else "unknown",
        )

    def log_summary(self, stats: RequestStats, *, finished: bool) -> None:
        """Log the last line of a run.

        Args:
            stats: Retries and waits since the last page.
            finished: Whether the scan is finished.
        """
        self._logger.info(
            "Scan %s: %d pages, %s events read, %s emitted, %d rejected in %s "
            "(%s waiting for the rate limit, %d retries)",
            "finished" if finished else "not finished",
            self.pages,
            f"{self._events:,}",
            f"{self.emitted:,}",
            self._rejected,
            _duration(self._clock.monotonic() - self._started),
            _duration(self._waited_seconds + stats.rate_limit_wait_seconds),
            self._retries + sum(stats.retries.values()),
        )

    def _rate(self, page: FetchedPage, window: float | None) -> float:
        (then, before), (now, events) = self._recent[0], self._recent[-1]
        rate = (events - before) / (now - then) if now > then else 0.0
        if page.rate_limit is not None and window and page.returned:
            # The first pages come in a burst that the rate limit does not permit again.
            rate = min(rate, page.rate_limit.limit * page.returned / window)
        return rate


def _rate_limit(headers: RateLimitHeaders | None) -> str:
    if headers is None:
        return "unknown"
    return f"{headers.remaining}/{headers.limit}, reset in {headers.reset} s"


def _cursor_lifetime(page: FetchedPage, state: ScanState) -> str:
    if state.cursor_expires_at is None:
        return "-"
    return f"{(state.cursor_expires_at - page.received_at).total_seconds():.0f} s"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(min(seconds, 10.0**9))))
