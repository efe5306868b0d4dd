"""One scan through the feed, newest to oldest: what to emit, and when it is finished.

Neither clock nor network. It takes pages, returns the events to emit and has the state that
is valid once they are emitted. Order, totals, cursors and the end of the feed are verified;
an event is left out only where it is certain to be loaded.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from tap_datasync.state import ORDER_TOLERANCE, ScanState
from tap_datasync.verification import MAX_OUTLIERS, PageAnomaly, PageCheck, PageHistory

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator
    from datetime import datetime

    from tap_datasync.parsing import EventRecord, FetchedPage

MIN_EVENTS_BELOW = 3
"""Consecutive events below the bound of an incremental scan that end it."""

HEAD_GAP = timedelta(hours=1)
"""A newest event that is further ahead of the rest than this, or than the lookback, does
not become the high watermark."""

CURSOR_LIFETIME = timedelta(seconds=120)
"""Lifetime of a cursor, from the start of its request, where the API does not name it."""

_SUDDEN_FALL = 10


class Scan:
    """A scan in progress.

    Attributes:
        state: State after the last page.
        is_finished: Whether the last page has ended the scan.
        has_stalled: Whether another page without a new event is the end, if it may be one.
        incremental_to: Where an incremental scan ends; ``None`` for a scan to the oldest event.
    """

    def __init__(
        self, state: ScanState, *, lookback: timedelta, full: bool, logger: logging.Logger
    ) -> None:
        """Start a scan, or resume the one that the state's cursor belongs to.

        Args:
            state: State of the scan, or of the interrupted or finished scan before it.
            lookback: How late events may arrive, at least :data:`ORDER_TOLERANCE`.
            full: Read to the oldest event and ignore the high watermark.
            logger: Receives a warning for each irregularity of the feed, once per scan.
        """
        self._was_resumed = state.cursor is not None
        self.state = state if self._was_resumed else state.start_scan()
        self.is_finished = False
        self.has_stalled = False
        self.incremental_to: datetime | None = None
        self._lookback = lookback
        self._full = full
        self._logger = logger
        self._history = PageHistory(
            self.state, lookback=lookback, reference_total=0 if full else state.known_total or 0
        )
        self._warned: set[str] = set()

    def check(self, page: FetchedPage) -> PageCheck:
        """Compare the page that the cursor of the state leads to with what is known."""
        return self._history.check(page, self.state)

    def anomalies(self, check: PageCheck) -> Iterator[PageAnomaly]:
        """Yield why the page should be fetched again; each further one if it is used anyway."""
        page = check.page
        if page.corrupted:
            yield PageAnomaly.CORRUPTED_PAGE
        if check.is_short:
            yield PageAnomaly.SHORT_PAGE
        if (
            self._may_stop(page)
            and self._reaches_loaded(check)
            and not self._misses_arrivals(check)
        ):
            return
        if check.total_drops:
            yield PageAnomaly.TOTAL_DROP
        # In a circle, a process may count again what the one before it has counted.
        is_end = check.is_complete and check.is_revisited and not self._was_resumed
        if page.records and not check.new and not is_end:
            yield PageAnomaly.REPEATED_PAGE
        elif (anomaly := self._end_anomaly(check)) is not None:
            yield anomaly

    def mark_incomplete(self) -> None:
        """Record that events may be missing between those that this scan has read.

        Then only the count at the end of the feed proves completeness: the scan does not
        stop before, skips nothing, and leaves no loaded range when it is interrupted.
        """
        self.state = replace(self.state, scan_has_gaps=True)

    def is_stuck_at(self, check: PageCheck) -> bool:
        """Return whether the scan ended here for the process before as well, near its end.

        Then the missing events are more likely further up than behind this page.
        """
        is_first = self._was_resumed and not self._history.pages
        return is_first and self.state.scan_has_gaps and check.missing * 10 <= check.expected

    def note_arrivals(self, newest: FetchedPage) -> None:
        """Correct the number of expected events by those that arrived during the scan.

        A large rise of ``meta.total`` counts as a correction. It may have been a burst of
        arrivals: then they stand on the newest page, above the first event of the scan.

        Args:
            newest: The page without a cursor.
        """
        state = self.state
        ids = [record.id for record in newest.records]
        if state.total_events is None or state.scan_newest_id not in ids:
            return
        ahead = newest.records[: ids.index(state.scan_newest_id)]
        arrivals = sum(
            record.timestamp is not None and record.timestamp <= newest.received_at
            for record in ahead
        )
        total = max(state.total_events, newest.total)
        self.state = replace(state, total_events=total, events_expected=max(0, total - arrivals))

    def process_page(self, check: PageCheck) -> list[EventRecord]:
        """Move the state behind a page, and return its events that are to be emitted."""
        page = check.page
        self._warn_of_order(check)
        self.state = replace(self.state, scan_anchors=self._anchors_met(page))
        if self._may_stop(page) and self._misses_arrivals(check):
            self._warn_once(
                "The feed has grown by more events than were found above the last loaded ones: "
                "reading to the oldest event."
            )
            self.mark_incomplete()
        reaches_loaded = self._may_stop(page) and self._reaches_loaded(check)
        skipped = self._loaded(check, to_the_end=reaches_loaded) | check.repeated
        emit = [record for index, record in enumerate(page.records) if index not in skipped]
        ends = check.may_end and self._leads_nowhere(check)
        self.state = self._state_after(check, emitted=len(emit))
        self._history.add(check)
        self._drop_foreign_anchors()
        self.incremental_to = self._stop_at()
        self.is_finished = reaches_loaded or ends
        if self.is_finished:
            if ends and not reaches_loaded and check.missing > 0:
                self._warn_once(
                    f"The feed ended after {check.seen:,} of {check.expected:,} events, which "
                    "is within the tolerance for deletions during a scan."
                )
            self.state = self.state.finish(at_oldest_event=not reaches_loaded)
        return emit

    def interrupt(self) -> ScanState:
        """Close the scan before its end; see :meth:`ScanState.interrupt`."""
        return self.state.interrupt(self._lookback)

    def _warn_of_order(self, check: PageCheck) -> None:
        if 0 < len(check.repeated) < check.page.returned:
            self._warn_once(
                "Pages overlap: events that an earlier page held are not counted again."
            )
        if self.state.in_order and not check.is_sorted:
            self._warn_once(
                "The events are not sorted by timestamp: nothing is skipped, and scans read to "
                "the oldest event until one has found the whole feed sorted."
            )

    def _anchors(self) -> dict[str | None, datetime]:
        """Return the events that prove a loaded range or the watermark: id to timestamp."""
        anchors: dict[str | None, datetime] = {
            loaded.newest_id: loaded.newest_at for loaded in self.state.loaded_ranges
        }
        if self.state.high_watermark is not None:
            anchors[self.state.high_watermark_id] = self.state.high_watermark
        return anchors

    def _anchors_met(self, page: FetchedPage) -> tuple[str, ...]:
        """Return the anchors that the scan has met, those on the page among them."""
        met = self.state.scan_anchors
        missing = self._anchors().keys() - set(met)
        if not missing:
            return met
        return (*met, *(record.id for record in page.records if record.id in missing))

    def _drop_foreign_anchors(self) -> None:
        """Remove ranges and watermark whose newest event is not where it should be.

        They are of another feed, or that event was deleted: what is loaded is not known.
        """
        state, minima = self.state, self._history.minima
        if not (state.in_order and minima):
            return
        foreign = {
            anchor_id
            for anchor_id, at in self._anchors().items()
            if anchor_id not in state.scan_anchors and at - minima[0] > ORDER_TOLERANCE
        }
        if not foreign:
            return
        kept = tuple(one for one in state.loaded_ranges if one.newest_id not in foreign)
        self.state = replace(state, loaded_ranges=kept)
        if state.high_watermark is not None and state.high_watermark_id in foreign:
            self.state = replace(self.state, high_watermark=None, high_watermark_id=None)
        self._warn_once(
            "The newest loaded event is no longer in the feed: it was deleted, or the state "
            "belongs to another feed. Nothing is skipped on the strength of it."
        )

    def _loaded(self, check: PageCheck, *, to_the_end: bool) -> set[int]:
        """Return the indices of events that are certain to be loaded.

        Args:
            check: The page.
            to_the_end: Whether the last events of the page are confirmed too.
        """
        page, state = check.page, self.state
        if not (check.is_sorted and state.in_order) or state.scan_has_gaps:
            return set()
        may_stop = self._may_stop(page)
        ranges = [one for one in state.loaded_ranges if one.newest_id in state.scan_anchors]
        if not ranges and not may_stop:
            return set()
        loaded: set[int] = set()
        for index in check.positions if to_the_end else check.positions[:-MAX_OUTLIERS]:
            at = page.records[index].timestamp
            if at is not None and (
                (may_stop and self._is_below(at))
                or any(one.contains(at, self._lookback) for one in ranges)
            ):
                loaded.add(index)
        return loaded

    def _may_stop(self, page: FetchedPage) -> bool:
        """Return whether the scan may end at the high watermark: its event has been met."""
        return (
            not (self._full or self.state.scan_has_gaps)
            and self.state.high_watermark is not None
            and self.state.high_watermark_id in self._anchors_met(page)
        )

    def _is_below(self, at: datetime) -> bool:
        watermark = self.state.high_watermark
        return watermark is not None and watermark - at > self._lookback

    def _misses_arrivals(self, check: PageCheck) -> bool:
        """Return whether the feed has grown by more events than an incremental scan has read.

        Then events have arrived elsewhere than above the high watermark and in the lookback
        below it, or the API has left some out.
        """
        below = 0
        for record in reversed(check.page.records):
            if record.timestamp is not None and not self._is_below(record.timestamp):
                break
            below += 1
        growth = check.expected - check.reference_total
        return below > 0 and check.reference_total > 0 and growth > check.seen - below

    def _reaches_loaded(self, check: PageCheck) -> bool:
        """Return whether an incremental scan ends with this page.

        More than ten events below its bound end it. Fewer do if timestamps lead down to
        them steadily: after a sudden fall they may be outliers, and the next page decides.
        """
        if not (check.is_sorted and self.state.in_order):
            return False
        below = sum(map(self._is_below, check.minima))
        if below > MAX_OUTLIERS or below < MIN_EVENTS_BELOW:
            return below > MAX_OUTLIERS
        records = check.page.records
        times = [at for i in check.positions if (at := records[i].timestamp) is not None]
        above = times[:-below] or list(self._history.minima)[-1:]
        gaps = sorted(high - low for high, low in pairwise(above)) or [timedelta(0)]
        median_gap = gaps[len(gaps) // 2]
        allowed = max(self._lookback / _SUDDEN_FALL, _SUDDEN_FALL * median_gap)
        falling = [*above[-1:], *times[-below:]]
        return all(high - low <= allowed for high, low in pairwise(falling))

    def _stop_at(self) -> datetime | None:
        watermark = self.state.high_watermark
        if self._full or watermark is None or not self.state.in_order:
            return None
        try:
            return watermark - self._lookback
        except OverflowError:
            return None

    def _end_anomaly(self, check: PageCheck) -> PageAnomaly | None:
        page = check.page
        if page.has_more is False or (page.next_cursor is None and page.has_more is None):
            announced = self.state.scan_has_gaps and not check.seen
            return None if check.may_end and not announced else PageAnomaly.FALSE_END
        if check.leads_on:
            # Arrivals may have been read in place of older events: then more may follow.
            is_end = check.seen and check.is_complete and check.seen >= check.total
            return None if page.returned or is_end else PageAnomaly.EMPTY_PAGE
        if check.is_complete and check.seen:
            return None
        has_cursor = page.next_cursor is not None
        return PageAnomaly.REPEATED_CURSOR if has_cursor else PageAnomaly.MISSING_CURSOR

    def _leads_nowhere(self, check: PageCheck) -> bool:
        return (
            check.page.has_more is False
            or not check.leads_on
            or (not check.page.returned and check.seen > 0)
            or (not check.new and (self.has_stalled or check.is_revisited))
        )

    def _state_after(self, check: PageCheck, *, emitted: int) -> ScanState:
        page, state = check.page, self.state
        newest_at, newest_id = self._newest(check)
        in_order = check.is_sorted and state.in_order
        return replace(
            state,
            cursor=page.next_cursor,
            cursor_expires_at=_expiry(page),
            scan_newest_at=newest_at,
            scan_newest_id=newest_id,
            # The ten events after it are not confirmed yet: they may be outliers.
            scan_oldest_at=check.minima[0] if check.minima else None,
            scan_last_id=page.records[-1].id if page.records else state.scan_last_id,
            scan_sorted=check.is_sorted,
            feed_sorted=state.feed_sorted and check.is_sorted,
            loaded_ranges=state.loaded_ranges if in_order else (),
            events_seen=check.seen,
            # An event without an id is emitted as well, to rejected_events.
            events_emitted=state.events_emitted + emitted + page.returned - len(page.records),
            events_expected=check.expected,
            total_events=check.total,
        )

    def _newest(self, check: PageCheck) -> tuple[datetime | None, str | None]:
        """Return the newest event of the scan, future ones and outliers at the head aside."""
        newest_at, newest_id = self.state.scan_newest_at, self.state.scan_newest_id
        before = self._history.minima[-1] if self._history.minima else None
        gap = max(self._lookback, HEAD_GAP)
        judged = max(0, MAX_OUTLIERS - self.state.events_seen)
        for number, index in enumerate(check.positions[: judged + 1]):
            record = check.page.records[index]
            at = record.timestamp
            leads = number < judged and before is not None and at is not None and before - at > gap
            if newest_at is None or leads:
                newest_at, newest_id = at, record.id
            before = at
        return newest_at, newest_id

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self._logger.warning(message)


def _expiry(page: FetchedPage) -> datetime | None:
    if page.next_cursor is None:
        return None
    if page.expires_in is None:
        return page.requested_at + CURSOR_LIFETIME
    return page.received_at + timedelta(seconds=page.expires_in)
