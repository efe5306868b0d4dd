"""One scan through the feed, newest to oldest: what to emit, and when it is finished.

Pure: neither clock nor network. It takes pages and returns the events to emit with the
state that is valid once they are emitted. Order, totals, cursors and the end of the feed
are verified; an event is left out only where it is certain to be loaded.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from tap_datasync.page_history import PageHistory
from tap_datasync.state import ORDER_TOLERANCE, ScanState, lookback_of
from tap_datasync.verification import (
    MAX_OUTLIERS,
    OUTLIER_GAP,
    Counts,
    Order,
    PageAnomaly,
    check_order,
    count_events,
    total_tolerance,
)

if TYPE_CHECKING:
    from collections.abc import Container
    from datetime import datetime

    from tap_datasync.parsing import EventRecord, FetchedPage

MIN_EVENTS_BELOW = 3
"""Consecutive events below the bound of an incremental scan that end it."""

HEAD_GAP = timedelta(hours=1)
"""A newest event that is further ahead of the rest than this, or than the lookback, does
not become the high watermark."""

CURSOR_LIFETIME = timedelta(seconds=120)
"""Lifetime of a cursor, from the start of its request, where the API does not name it."""

_MAX_CURSOR_LIFETIME_SECONDS = 86_400.0
_SUDDEN_FALL = 10


@dataclass(frozen=True, slots=True)
class PageResult:
    """What to do with one page.

    Attributes:
        emit: Events to emit, newest first.
        state: State that is valid once they are emitted.
        skipped: Events that are not emitted because they are loaded.
        newest_at: Newest timestamp on the page.
        oldest_at: Oldest timestamp on the page.
        incremental_to: Where an incremental scan ends; ``None`` for a scan to the oldest event.
        warnings: Messages about the feed, each once per scan.
    """

    emit: list[EventRecord]
    state: ScanState
    skipped: int
    newest_at: datetime | None
    oldest_at: datetime | None
    incremental_to: datetime | None
    warnings: list[str]


class Scan:
    """A scan in progress.

    Attributes:
        state: State after the last page.
        is_finished: Whether the last page has ended the scan.
        has_stalled: Whether another page without a new event is the end, if it may be one.
        reference_total: Events that the feed is known to have held; 0 if none are.
    """

    def __init__(self, state: ScanState, *, lookback: timedelta, full: bool) -> None:
        """Start a scan, or resume the one that the state's cursor belongs to.

        Args:
            state: State of the scan, or of the interrupted or finished scan before it.
            lookback: How late events may arrive.
            full: Read to the oldest event and ignore the high watermark.
        """
        resumed = state.cursor is not None
        self.state = state if resumed else state.start_scan()
        self.is_finished = False
        self.has_stalled = False
        self._was_resumed = resumed
        self._lookback = lookback_of(lookback)
        self._full = full
        self.reference_total = 0 if full else state.known_total or 0
        self._minima: deque[datetime] = deque(maxlen=MAX_OUTLIERS + 1)
        if self.state.scan_oldest_at is not None:
            self._minima.append(self.state.scan_oldest_at)
        in_order = resumed and state.in_order
        self._history = PageHistory(
            state.cursor,
            last_id=self.state.scan_last_id,
            counted_to=self.state.scan_oldest_at if in_order else None,
        )
        self._warned: set[str] = set()

    def detect_anomaly(
        self, page: FetchedPage, ignored: Container[PageAnomaly] = ()
    ) -> PageAnomaly | None:
        """Return why the page should be fetched again, if it should.

        Args:
            page: The page that the cursor of the state leads to.
            ignored: Anomalies of this page that have not gone away.
        """
        if page.corrupted and PageAnomaly.CORRUPTED_PAGE not in ignored:
            return PageAnomaly.CORRUPTED_PAGE
        repeated = self._history.compare(page).repeated
        counts = self.count(page)
        if self._is_short(page, counts) and PageAnomaly.SHORT_PAGE not in ignored:
            return PageAnomaly.SHORT_PAGE
        if (
            self._stops_with(page)
            and self._reaches_loaded(page, self._check_order(page, repeated))
            and not self._misses_arrivals(page, counts)
        ):
            return None
        if self._total_drops(page, counts) and PageAnomaly.TOTAL_DROP not in ignored:
            return PageAnomaly.TOTAL_DROP
        # In a circle, a process may count again what the one before it has counted.
        is_end = counts.is_complete and self.is_revisited(page) and not self._was_resumed
        if page.records and not counts.new and not is_end:
            anomaly: PageAnomaly | None = PageAnomaly.REPEATED_PAGE
        else:
            anomaly = self._end_anomaly(page, counts)
        return None if anomaly in ignored else anomaly

    def cursor_seen(self, cursor: str) -> bool:
        """Return whether this scan has used the cursor."""
        return self._history.has_cursor(cursor)

    def mark_incomplete(self) -> None:
        """Record that events may be missing between those that this scan has read.

        Then only the count at the end of the feed proves completeness: the scan does not
        stop before, skips nothing, and leaves no loaded range when it is interrupted.
        """
        self.state = replace(self.state, scan_has_gaps=True)

    def count(self, page: FetchedPage) -> Counts:
        """Return how many events were read with this page, and how many there are to read."""
        return count_events(
            self.state,
            page,
            new=self._history.compare(page).new,
            largest_page=self._history.largest_with(page),
            reference_total=self.reference_total,
        )

    def is_revisited(self, page: FetchedPage) -> bool:
        """Return whether the page lies where the scan has been long before: in a circle."""
        return self._history.compare(page).is_revisited

    def is_stuck_at(self, page: FetchedPage) -> bool:
        """Return whether the scan ended here for the process before as well, near its end.

        Then the missing events are more likely further up than behind this page.
        """
        counts = self.count(page)
        is_first = self._was_resumed and not self._history.pages
        return is_first and self.state.scan_has_gaps and counts.missing * 10 <= counts.expected

    def exceeds_total(self, page: FetchedPage) -> bool:
        """Return whether more events were read than the feed holds: its cursors repeat."""
        counts = self.count(page)
        excess = max(1000, counts.total // 100) + self._history.largest_with(page)
        return counts.seen > counts.total + excess

    def note_arrivals(self, newest: FetchedPage) -> None:
        """Correct the number of expected events by those that arrived during the scan.

        A large rise of ``meta.total`` counts as a correction, see :meth:`count`. It may have
        been a burst of arrivals: then they stand on the newest page, above the first event
        of the scan.

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

    def process_page(self, page: FetchedPage) -> PageResult:
        """Decide what to emit of a page, and move the state behind it."""
        repeated = self._history.compare(page).repeated
        order = self._check_order(page, repeated)
        warnings = self._order_warnings(page, order, repeated)
        self._meet_anchors(page)
        counts = self.count(page)
        if self._stops_with(page) and self._misses_arrivals(page, counts):
            warnings += self._once(
                "The feed has grown by more events than were found above the last loaded ones: "
                "reading to the oldest event."
            )
            self.mark_incomplete()
        reaches_loaded = self._stops_with(page) and self._reaches_loaded(page, order)
        skipped = self._loaded(page, order, to_the_end=reaches_loaded) | repeated
        emit = [record for index, record in enumerate(page.records) if index not in skipped]
        ends = counts.may_end and self._leads_nowhere(page, counts)
        self.state = self._state_after(page, order, counts, emitted=len(emit))
        self._minima = order.minima
        self._history.add(page)
        warnings += self._drop_foreign_anchors()
        incremental_to = self._incremental_to()
        self.is_finished = reaches_loaded or ends
        if self.is_finished:
            if ends and not reaches_loaded and counts.missing > 0:
                warnings += self._once(
                    f"The feed ended after {counts.seen:,} of {counts.expected:,} events, which "
                    "is within the tolerance for deletions during a scan."
                )
            self.state = self.state.finish(at_oldest_event=not reaches_loaded)
        timestamps = [record.timestamp for record in page.records if record.timestamp is not None]
        return PageResult(
            emit=emit,
            state=self.state,
            skipped=len(page.records) - len(emit),
            newest_at=max(timestamps, default=None),
            oldest_at=min(timestamps, default=None),
            incremental_to=incremental_to,
            warnings=warnings,
        )

    def interrupt(self) -> ScanState:
        """Close the scan before its end; see :meth:`ScanState.interrupt`."""
        return self.state.interrupt(self._lookback)

    def _order_warnings(self, page: FetchedPage, order: Order, repeated: set[int]) -> list[str]:
        warnings: list[str] = []
        if repeated and len(repeated) < page.returned:
            warnings += self._once(
                "Pages overlap: events that an earlier page held are not counted again."
            )
        if self.state.in_order and not order.is_sorted:
            warnings += self._once(
                "The events are not sorted by timestamp: nothing is skipped, and scans read to "
                "the oldest event until one has found the whole feed sorted."
            )
        return warnings

    def _anchors(self) -> dict[str | None, datetime]:
        """Return the events that prove a loaded range or the watermark: id to timestamp."""
        anchors: dict[str | None, datetime] = {
            loaded.newest_id: loaded.newest_at for loaded in self.state.loaded_ranges
        }
        if self.state.high_watermark is not None:
            anchors[self.state.high_watermark_id] = self.state.high_watermark
        return anchors

    def _meet_anchors(self, page: FetchedPage) -> None:
        anchors = self._anchors().keys() - set(self.state.scan_anchors)
        met = [record.id for record in page.records if record.id in anchors] if anchors else []
        if met:
            self.state = replace(self.state, scan_anchors=(*self.state.scan_anchors, *met))

    def _drop_foreign_anchors(self) -> list[str]:
        """Remove ranges and watermark whose newest event is not where it should be.

        They are of another feed, or that event was deleted: what is loaded is not known.
        """
        state = self.state
        if not (state.in_order and self._minima):
            return []
        foreign = {
            anchor_id
            for anchor_id, at in self._anchors().items()
            if anchor_id not in state.scan_anchors and at - self._minima[0] > ORDER_TOLERANCE
        }
        if not foreign:
            return []
        kept = tuple(one for one in state.loaded_ranges if one.newest_id not in foreign)
        self.state = replace(state, loaded_ranges=kept)
        if state.high_watermark is not None and state.high_watermark_id in foreign:
            self.state = replace(self.state, high_watermark=None, high_watermark_id=None)
        return self._once(
            "The newest loaded event is no longer in the feed: it was deleted, or the state "
            "belongs to another feed. Nothing is skipped on the strength of it."
        )

    def _loaded(self, page: FetchedPage, order: Order, *, to_the_end: bool) -> set[int]:
        """Return the indices of events that are certain to be loaded.

        Args:
            page: The page.
            order: Its order.
            to_the_end: Whether the last events of the page are confirmed too.
        """
        if not (order.is_sorted and self.state.in_order) or self.state.scan_has_gaps:
            return set()
        ranges = [
            one for one in self.state.loaded_ranges if one.newest_id in self.state.scan_anchors
        ]
        if not ranges and not self._may_stop:
            return set()
        loaded: set[int] = set()
        for index in order.positions if to_the_end else order.positions[:-MAX_OUTLIERS]:
            at = page.records[index].timestamp
            if at is not None and (
                (self._may_stop and self._is_below(at))
                or any(one.contains(at, self._lookback) for one in ranges)
            ):
                loaded.add(index)
        return loaded

    @property
    def _may_stop(self) -> bool:
        """Whether the scan may end at the high watermark: its event has been met."""
        return (
            not (self._full or self.state.scan_has_gaps)
            and self.state.high_watermark is not None
            and self.state.high_watermark_id in self.state.scan_anchors
        )

    def _is_below(self, at: datetime) -> bool:
        watermark = self.state.high_watermark
        return watermark is not None and watermark - at > self._lookback

    def _misses_arrivals(self, page: FetchedPage, counts: Counts) -> bool:
        """Return whether the feed has grown by more events than an incremental scan has read.

        Then events have arrived elsewhere than above the high watermark and in the lookback
        below it, or the API has left some out.
        """
        below = 0
        for record in reversed(page.records):
            if record.timestamp is not None and not self._is_below(record.timestamp):
                break
            below += 1
        growth = counts.expected - self.reference_total
        return below > 0 and self.reference_total > 0 and growth > counts.seen - below

    def _reaches_loaded(self, page: FetchedPage, order: Order) -> bool:
        """Return whether an incremental scan ends with this page.

        More than ten events below its bound end it. Fewer do if timestamps lead down to
        them steadily: after a sudden fall they may be outliers, and the next page decides.
        """
        if not (order.is_sorted and self.state.in_order):
            return False
        below = sum(map(self._is_below, order.minima))
        if below > MAX_OUTLIERS or below < MIN_EVENTS_BELOW:
            return below > MAX_OUTLIERS
        times = [at for i in order.positions if (at := page.records[i].timestamp) is not None]
        above = times[:-below] or list(self._minima)[-1:]
        gaps = sorted(high - low for high, low in pairwise(above)) or [timedelta(0)]
        median_gap = gaps[len(gaps) // 2]
        allowed = max(self._lookback / _SUDDEN_FALL, _SUDDEN_FALL * median_gap)
        falling = [*above[-1:], *times[-below:]]
        return all(high - low <= allowed for high, low in pairwise(falling))

    def _stops_with(self, page: FetchedPage) -> bool:
        """Whether the scan may end at the high watermark once this page was processed."""
        anchor = self.state.high_watermark_id
        return self._may_stop or (
            not (self._full or self.state.scan_has_gaps)
            and self.state.high_watermark is not None
            and any(record.id == anchor for record in page.records)
        )

    def _incremental_to(self) -> datetime | None:
        watermark = self.state.high_watermark
        if self._full or watermark is None or not self.state.in_order:
            return None
        try:
            return watermark - self._lookback
        except OverflowError:
            return None

    def _check_order(self, page: FetchedPage, repeated: set[int]) -> Order:
        return check_order(
            page,
            self._minima,
            is_sorted=self.state.scan_sorted,
            ignored=repeated,
            outlier_gap=max(self._lookback, OUTLIER_GAP),
        )

    def _total_drops(self, page: FetchedPage, counts: Counts) -> bool:
        highest = max(counts.total, counts.seen, self.reference_total)
        return highest - page.total > total_tolerance(highest)

    def _end_anomaly(self, page: FetchedPage, counts: Counts) -> PageAnomaly | None:
        cursor = page.next_cursor
        if page.has_more is False or (cursor is None and page.has_more is None):
            announced = self.state.scan_has_gaps and not counts.seen
            return None if counts.may_end and not announced else PageAnomaly.FALSE_END
        if cursor is not None and not self.cursor_seen(cursor):
            # Arrivals may have been read in place of older events: then more may follow.
            is_end = counts.seen and counts.is_complete and counts.seen >= counts.total
            return None if page.returned or is_end else PageAnomaly.EMPTY_PAGE
        if counts.is_complete and counts.seen:
            return None
        return PageAnomaly.MISSING_CURSOR if cursor is None else PageAnomaly.REPEATED_CURSOR

    def _is_short(self, page: FetchedPage, counts: Counts) -> bool:
        twice = len(page.records) - len({record.id for record in page.records})
        largest = self._history.largest_with(page)
        return (
            0 < page.returned - twice < largest
            and page.has_more is not False
            and page.next_cursor is not None
            and not counts.is_complete
        )

    def _leads_nowhere(self, page: FetchedPage, counts: Counts) -> bool:
        return (
            page.has_more is False
            or page.next_cursor is None
            or (not page.returned and counts.seen > 0)
            or (not counts.new and (self.has_stalled or self.is_revisited(page)))
            or self.cursor_seen(page.next_cursor)
        )

    def _state_after(
        self, page: FetchedPage, order: Order, counts: Counts, *, emitted: int
    ) -> ScanState:
        state = self.state
        newest_at, newest_id = self._newest(page, order)
        in_order = order.is_sorted and state.in_order
        return replace(
            state,
            cursor=page.next_cursor,
            cursor_expires_at=_expiry(page),
            scan_newest_at=newest_at,
            scan_newest_id=newest_id,
            # The ten events after it are not confirmed yet: they may be outliers.
            scan_oldest_at=order.minima[0] if order.minima else None,
            scan_last_id=page.records[-1].id if page.records else state.scan_last_id,
            scan_sorted=order.is_sorted,
            feed_sorted=state.feed_sorted and order.is_sorted,
            loaded_ranges=state.loaded_ranges if in_order else (),
            events_seen=counts.seen,
            # An event without an id is emitted as well, to rejected_events.
            events_emitted=state.events_emitted + emitted + page.returned - len(page.records),
            events_expected=counts.expected,
            total_events=counts.total,
        )

    def _newest(self, page: FetchedPage, order: Order) -> tuple[datetime | None, str | None]:
        """Return the newest event of the scan, future ones and outliers at the head aside."""
        newest_at, newest_id = self.state.scan_newest_at, self.state.scan_newest_id
        before = self._minima[-1] if self._minima else None
        gap = max(self._lookback, HEAD_GAP)
        judged = max(0, MAX_OUTLIERS - self.state.events_seen)
        for number, index in enumerate(order.positions[: judged + 1]):
            record = page.records[index]
            at = record.timestamp
            leads = number < judged and before is not None and at is not None and before - at > gap
            if newest_at is None or leads:
                newest_at, newest_id = at, record.id
            before = at
        return newest_at, newest_id

    def _once(self, message: str) -> list[str]:
        is_new = message not in self._warned
        self._warned.add(message)
        return [message] if is_new else []


def _expiry(page: FetchedPage) -> datetime | None:
    if page.next_cursor is None:
        return None
    if page.expires_in is None:
        return page.requested_at + CURSOR_LIFETIME
    return page.received_at + timedelta(
        seconds=min(max(page.expires_in, 0.0), _MAX_CURSOR_LIFETIME_SECONDS)
    )
