"""Pagination: which page comes next, which page is fetched again, when a run has to end.

The loop that uses it is :meth:`tap_datasync.streams.EventsStream.sync_pages`.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from tap_datasync.client import CLOCK_GRACE
from tap_datasync.errors import (
    ApiChangedError,
    IncompleteFeedError,
    NoProgressError,
)
from tap_datasync.scan import Scan
from tap_datasync.state import ORDER_TOLERANCE, ScanState
from tap_datasync.verification import PageAnomaly

if TYPE_CHECKING:
    import logging
    from collections import Counter
    from datetime import datetime, timedelta

    from tap_datasync.parsing import FetchedPage
    from tap_datasync.verification import PageCheck

MAX_REFETCHES = 4
"""Times one page is fetched again because of anomalies."""

MAX_STALLED_SCANS = 3
"""Scans in a row that may be interrupted without getting further than the one before."""

MAX_IDLE_PAGES = 3
"""Pages in a row that may hold no new event although more are announced."""

MIN_SAMPLE = 20
"""Events that a page must have before most of them being invalid means anything."""

REFETCH_DELAY_SECONDS = 2.0
"""Pause before a page is fetched again."""

# A repeated page is more likely the fault of its cursor, which a refetch does not change.
_MAX_REFETCHES_OF = {PageAnomaly.REPEATED_PAGE: 1, PageAnomaly.SHORT_PAGE: 1}

# Refetches of an anomaly once a page has kept it: a feed that is always like this would cost
# five requests a page.
_REFETCHES_OF_PERSISTENT = {
    PageAnomaly.CORRUPTED_PAGE: 1,
    PageAnomaly.TOTAL_DROP: 0,
    PageAnomaly.SHORT_PAGE: 0,
}


class PageDecision(Enum):
    """What to do with a page that was fetched."""

    ACCEPT = "process it"
    REFETCH = "fetch it again"
    COUNT_ARRIVALS = "fetch the newest page: events missing here may have arrived there"
    FAIL = "emit its events, and end the run: there is no way on"
    ABANDON = "likewise, and leave the scan: its position or its counts are of no use"


class EventPaginator:
    """Pagination of one run: resumes a scan or starts one, until a scan is finished.

    Attributes:
        scan: The scan in progress.
    """

    def __init__(  # noqa: PLR0913 - what a run consists of
        self,
        state: ScanState,
        *,
        source: str,
        lookback: timedelta,
        full: bool,
        now: datetime,
        logger: logging.Logger,
    ) -> None:
        """Resume the scan of a state, or start a new one.

        Args:
            state: State that the last run has left.
            source: Configured ``api_url``, without trailing slash.
            lookback: How late events may arrive.
            full: Read to the oldest event, whatever is loaded.
            now: Wall clock.
            logger: Receives a warning for every irregularity.
        """
        self._lookback = max(lookback, ORDER_TOLERANCE)
        self._full = full
        self._logger = logger
        self._fewest_missing: int | None = None
        self._stalled_scans = 0
        self._idle_pages = 0
        self._refetches = 0
        self._persistent: set[PageAnomaly] = set()
        self._reported_fields = False
        self._counted_arrivals = False
        self._failure = ""
        state = self._of_source(state, source)
        expires_at = state.cursor_expires_at
        if state.cursor and expires_at is not None and now - expires_at > CLOCK_GRACE:
            self.scan = self._new_scan(state, "its cursor has expired")
        else:
            self.scan = self._scan(state)

    def restart(self, reason: str) -> None:
        """Interrupt the scan, whose cursor has expired, and start a new one.

        Raises:
            NoProgressError: Several scans in a row did not get further.
        """
        state = self.scan.state
        missing = (
            None if state.events_expected is None else state.events_expected - state.events_seen
        )
        if missing is not None and (self._fewest_missing is None or missing < self._fewest_missing):
            self._fewest_missing = missing
            self._stalled_scans = 0
        else:
            self._stalled_scans += 1
        if self._stalled_scans >= MAX_STALLED_SCANS:
            message = (
                f"{self._stalled_scans} scans in a row were interrupted at the same position: "
                f"{reason}. No event is lost; try again later."
            )
            raise NoProgressError(message)
        self._refetches = 0
        self._counted_arrivals = False
        self.scan = self._new_scan(state, reason)

    def decide(self, check: PageCheck, retries: Counter[str]) -> PageDecision:
        """Decide whether a page is used.

        Args:
            check: The page, compared with what is known of the feed.
            retries: Retries by cause; a refetch is counted here.

        Raises:
            ApiChangedError: Most events of the page are invalid.
        """
        _check_events(check.page)
        self._report_unknown_fields(check.page)
        if check.exceeds_total:
            return self._fail(check, "more events were read than the feed holds")
        for anomaly in self.scan.anomalies(check):
            max_refetches = self._max_refetches(anomaly)
            if self._refetches < max_refetches:
                self._refetches += 1
                retries[anomaly.cause] += 1
                self._logger.warning(
                    "Fetching a page again (%d of %d): %s",
                    self._refetches,
                    max_refetches,
                    anomaly.value,
                )
                return PageDecision.REFETCH
            if self._accepts(anomaly, check):
                continue
            if check.is_revisited:
                return self._fail(check, "its cursors lead in a circle")
            if not self._counted_arrivals:
                self._counted_arrivals = True
                return PageDecision.COUNT_ARRIVALS
            return self._fail(check, anomaly.value)
        self._refetches = 0
        if check.new:
            self._idle_pages = 0
        return PageDecision.ACCEPT

    def error(self) -> IncompleteFeedError:
        """Return the error that ends the run after :attr:`PageDecision.FAIL`."""
        return IncompleteFeedError(self._failure)

    def _fail(self, check: PageCheck, reason: str) -> PageDecision:
        hint = (
            "An earlier scan read that many: if events were deleted, or the key is of another "
            "account, use --full-refresh. "
            if check.expected == check.reference_total
            else ""
        )
        self._failure = (
            f"The scan is incomplete: {reason} "
            f"({self.scan.state.events_seen:,} events read before this page of "
            f"{check.page.returned:,}, {check.expected:,} expected, {self._refetches} refetches). "
            f"{hint}No event is lost; try again later."
        )
        is_useless = check.is_revisited or check.exceeds_total or self.scan.is_stuck_at(check)
        self.scan.mark_incomplete()
        return PageDecision.ABANDON if is_useless else PageDecision.FAIL

    def _max_refetches(self, anomaly: PageAnomaly) -> int:
        if anomaly in self._persistent:
            return _REFETCHES_OF_PERSISTENT.get(anomaly, MAX_REFETCHES)
        return _MAX_REFETCHES_OF.get(anomaly, MAX_REFETCHES)

    def _accepts(self, anomaly: PageAnomaly, check: PageCheck) -> bool:
        """Return whether a page is used although its anomaly has not gone away."""
        if anomaly in _REFETCHES_OF_PERSISTENT:
            if anomaly not in self._persistent:
                self._persistent.add(anomaly)
                self._logger.warning("Continuing although it persists: %s", anomaly.value)
            if anomaly is PageAnomaly.SHORT_PAGE:
                self.scan.mark_incomplete()
            return True
        if check.is_revisited:
            return False
        if anomaly in {PageAnomaly.EMPTY_PAGE, PageAnomaly.REPEATED_PAGE} and check.leads_on:
            self._idle_pages += 1
            self.scan.mark_incomplete()
            self.scan.has_stalled = self._idle_pages > MAX_IDLE_PAGES
            return not self.scan.has_stalled or check.may_end
        if anomaly is PageAnomaly.FALSE_END and check.leads_on:
            self._logger.warning("Continuing with the next cursor: %s", anomaly.value)
            return True
        # Nothing was read although pages have announced more events.
        is_empty = anomaly is PageAnomaly.FALSE_END and not check.seen
        return check.may_end and not is_empty

    def _new_scan(self, state: ScanState, reason: str) -> Scan:
        self._logger.warning(
            "Scan interrupted: %s. Starting a new one at the newest event; events that are "
            "loaded are skipped.",
            reason,
        )
        return self._scan(state.interrupt(self._lookback))

    def _scan(self, state: ScanState) -> Scan:
        return Scan(state, lookback=self._lookback, full=self._full, logger=self._logger)

    def _of_source(self, state: ScanState, source: str) -> ScanState:
        if state.source not in {None, source}:
            self._logger.warning(
                "The state belongs to %s, but api_url is %s: ignoring the state and loading "
                "the whole feed.",
                state.source,
                source,
            )
            return ScanState(source=source)
        return replace(state, source=source)

    def _report_unknown_fields(self, page: FetchedPage) -> None:
        if page.unknown_fields and not self._reported_fields:
            self._reported_fields = True
            self._logger.warning(
                "Ignoring undocumented fields of events: %s", ", ".join(sorted(page.unknown_fields))
            )


def _check_events(page: FetchedPage) -> None:
    """Refuse a page of which most events are invalid, before any of it is emitted."""
    if page.returned < MIN_SAMPLE or page.invalid_events * 2 <= page.returned:
        return
    errors = [error for rejection in page.rejections for error in rejection.errors]
    example = next((e for e in errors if not e.endswith((": missing", ": null"))), errors[0])
    message = (
        f"{page.invalid_events} of {page.returned} events on a page are invalid ({example}). "
        "The API has changed."
    )
    raise ApiChangedError(message)
