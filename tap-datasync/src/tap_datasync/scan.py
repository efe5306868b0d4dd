"""One scan through the feed, newest to oldest: what to emit, and when it is finished.

Pure: neither clock nor network. It takes pages and returns the events to emit with the
state that is valid once they are emitted. Order, totals, cursors and the end of the feed
are verified; an event is left out only where it is certain to be loaded.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING

from tap_datasync.state import ORDER_TOLERANCE, ScanState, lookback_of

if TYPE_CHECKING:
    from collections.abc import Container
    from datetime import datetime

    from tap_datasync.events import EventRecord
    from tap_datasync.parsing import FetchedPage

MIN_EVENTS_BELOW = 3
"""Consecutive events below the bound of an incremental scan that end it."""

MAX_OUTLIERS = 10
"""Consecutive events that may lie far below their neighbours, e.g. in 1970, without the
feed being unsorted. So the last ten events of a page are not confirmed by what follows:
they are always emitted."""

OUTLIER_GAP = timedelta(days=1)
"""How far below their neighbours such events lie, at least, or as far as the lookback."""

HEAD_GAP = timedelta(hours=1)
"""A newest event that is further ahead of the rest than this, or than the lookback, does
not become the high watermark."""

RECENT_PAGES = 3
"""Pages whose ids are kept to recognise events that a later page repeats."""

CURSOR_LIFETIME = timedelta(seconds=120)
"""Lifetime of a cursor, from the start of its request, where the API does not name it."""

_MAX_CURSOR_LIFETIME_SECONDS = 86_400.0
_SUDDEN_FALL = 10


class PageAnomaly(Enum):
    """Why a page is fetched again before it is used. The name is the key of the retry."""

    CORRUPTED_PAGE = "the page holds text that is neither UTF-8 nor JSON"
    REPEATED_PAGE = "the page repeats events of this scan and has no new ones"
    TOTAL_DROP = "meta.total is far below its earlier values or the events read"
    SHORT_PAGE = "the page has fewer events than others although more are announced"
    EMPTY_PAGE = "the page is empty although more events are announced"
    REPEATED_CURSOR = "the next cursor has been used before"
    MISSING_CURSOR = "more events are announced, but there is no next cursor"
    FALSE_END = "the feed ends before all of its events were read"

    @property
    def cause(self) -> str:
        """Key in ``pages.retries``."""
        return self.name.lower()


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


@dataclass(frozen=True, slots=True)
class _Order:
    """The order of a page's events, after those before it.

    Attributes:
        positions: Indices of the events that are in order: without outliers, repeated
            events, future ones, and those without a timestamp.
        minima: Lowest timestamp up to each of the last eleven events in order.
        is_sorted: Whether the scan is sorted so far.
    """

    positions: list[int]
    minima: deque[datetime]
    is_sorted: bool


@dataclass(frozen=True, slots=True)
class _Counts:
    """Events read with a page, and how many there are to read."""

    new: int
    seen: int
    expected: int
    total: int
    tolerance: int

    @property
    def missing(self) -> int:
        """Events that remain to be read."""
        return self.expected - self.seen

    @property
    def is_consistent(self) -> bool:
        """Whether the totals of the scan agree with the events read."""
        return self.seen - self.total <= self.tolerance

    @property
    def is_complete(self) -> bool:
        """Whether everything was read."""
        return self.is_consistent and self.missing <= 0

    @property
    def may_end(self) -> bool:
        """Whether an end of the feed is plausible."""
        return self.is_consistent and self.missing <= self.tolerance


class Scan:
    """A scan in progress.

    Attributes:
        state: State after the last page.
        is_finished: Whether the last page has ended the scan.
        reference_total: Highest total of the last finished scan; 0 if there is none.
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
        self._lookback = lookback_of(lookback)
        self._outlier_gap = max(self._lookback, OUTLIER_GAP)
        self._full = full
        self.reference_total = 0 if full else state.finished_total or 0
        self._minima: deque[datetime] = deque(maxlen=MAX_OUTLIERS + 1)
        if self.state.scan_oldest_at is not None:
            self._minima.append(self.state.scan_oldest_at)
        self._recent_ids: deque[frozenset[str]] = deque(maxlen=RECENT_PAGES)
        self._fingerprints: set[int] = set()
        self._borders: set[str] = set()
        self._recent_borders: deque[set[str]] = deque()
        self._cursors: set[int] = {hash(state.cursor)}
        self._largest_page = 0
        self._warned: set[str] = set()
        # A scan that has emitted something has no lower end only after `mark_incomplete`.
        self._has_gaps = self.state.scan_newest_at is not None and self.state.scan_oldest_at is None

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
        repeated = self._repeated(page)
        counts = self._count(page, repeated)
        if self._is_short(page, counts) and PageAnomaly.SHORT_PAGE not in ignored:
            return PageAnomaly.SHORT_PAGE
        if self._stops_with(page) and self._reaches_loaded(page, self._check_order(page, repeated)):
            return None
        if self._total_drops(page, counts) and PageAnomaly.TOTAL_DROP not in ignored:
            return PageAnomaly.TOTAL_DROP
        if page.records and not counts.new and not counts.is_complete:
            anomaly: PageAnomaly | None = PageAnomaly.REPEATED_PAGE
        else:
            anomaly = self._end_anomaly(page, counts)
        return None if anomaly in ignored else anomaly

    def cursor_seen(self, cursor: str) -> bool:
        """Return whether this scan has used the cursor."""
        return hash(cursor) in self._cursors

    def mark_incomplete(self) -> None:
        """Record that events may be missing between those that this scan has read.

        Then only the count at the end of the feed proves completeness: the scan does not
        stop before, skips nothing, and leaves no loaded range when it is interrupted.
        """
        self._has_gaps = True
        self.state = replace(self.state, scan_oldest_at=None)

    def expected(self, page: FetchedPage) -> int:
        """Return how many events the scan has to read."""
        return self._count(page, self._repeated(page)).expected

    def is_revisited(self, page: FetchedPage) -> bool:
        """Return whether the page lies where the scan has been long before: in a circle.

        It is one of the scan's pages, or holds both events at the border of two of them.
        """
        ids = {record.id for record in page.records}.difference(*self._recent_ids)
        return bool(ids) and (
            _fingerprint(page) in self._fingerprints or len(self._borders & ids) > 1
        )

    def may_end(self, page: FetchedPage) -> bool:
        """Return whether the scan would be complete with this page, within the tolerance."""
        return self._count(page, self._repeated(page)).may_end

    def exceeds_total(self, page: FetchedPage) -> bool:
        """Return whether more events were read than the feed holds: its cursors repeat."""
        counts = self._count(page, self._repeated(page))
        excess = max(1000, counts.total // 100) + max(self._largest_page, page.returned)
        return counts.seen > counts.total + excess

    def note_arrivals(self, newest: FetchedPage) -> None:
        """Correct the number of expected events by those that arrived during the scan.

        A large rise of ``meta.total`` counts as a correction, see :meth:`_count`. It may have
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
        repeated = self._repeated(page)
        order = self._check_order(page, repeated)
        warnings = self._order_warnings(page, order, repeated)
        self._meet_anchors(page)
        reaches_loaded = self._stops_with(page) and self._reaches_loaded(page, order)
        skipped = self._loaded(page, order, to_the_end=reaches_loaded) | repeated
        emit = [record for index, record in enumerate(page.records) if index not in skipped]
        counts = self._count(page, repeated)
        ends = counts.may_end and self._leads_nowhere(page, counts)
        self.state = self._state_after(page, order, counts, emitted=len(emit))
        self._remember(page, order)
        warnings += self._drop_foreign_anchors()
        incremental_to = self._incremental_to()
        if reaches_loaded:
            self._finish(at_oldest_event=False)
        elif ends:
            if counts.missing > 0:
                warnings += self._once(
                    f"The feed ended after {counts.seen:,} of {counts.expected:,} events, which "
                    "is within the tolerance for deletions during a scan."
                )
            self._finish(at_oldest_event=True)
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

    # ---------------------------------------------------------------- identity

    def _repeated(self, page: FetchedPage) -> set[int]:
        """Return the indices of events that an earlier page of the scan has held."""
        ids = [record.id for record in page.records]
        recent = set().union(*self._recent_ids)
        last_id = self.state.scan_last_id
        if not recent and last_id in ids:
            # The first page after a restart: what comes up to the last event was emitted.
            recent.update(ids[: ids.index(last_id) + 1])
        if recent.isdisjoint(ids) and len(set(ids)) == len(ids):
            return set()
        repeated = set()
        for index, one in enumerate(ids):
            if one in recent:
                repeated.add(index)
            recent.add(one)
        return repeated

    def _remember(self, page: FetchedPage, order: _Order) -> None:
        self._minima = order.minima
        self._cursors.add(hash(page.next_cursor))
        self._largest_page = max(self._largest_page, page.returned)
        if not page.records:
            return
        self._fingerprints.add(_fingerprint(page))
        if len(self._recent_ids) == RECENT_PAGES:
            self._borders |= self._recent_borders.popleft()
        self._recent_ids.append(frozenset(record.id for record in page.records))
        self._recent_borders.append({page.records[0].id, page.records[-1].id})

    # ------------------------------------------------------------------- order

    def _check_order(self, page: FetchedPage, repeated: set[int]) -> _Order:
        """Check that timestamps do not rise, outliers aside.

        An event far below the ones before it is an outlier if what follows returns to them
        within ten events: then it is left out of the order. Any other rise is a violation.
        """
        minima = self._minima.copy()
        positions: list[int] = []
        is_sorted = self.state.scan_sorted
        for index, record in enumerate(page.records):
            at = record.timestamp
            if at is None or at > page.received_at or index in repeated:
                continue
            if minima and at - minima[-1] > ORDER_TOLERANCE and is_sorted:
                kept = [lowest for lowest in minima if at - lowest <= ORDER_TOLERANCE]
                # One after the other in 1970, and not a shard that ends.
                if kept and kept[-1] - minima[len(kept)] > self._outlier_gap:
                    outliers = len(minima) - len(kept)
                    del positions[max(0, len(positions) - outliers) :]
                    minima = deque(kept, maxlen=minima.maxlen)
                else:
                    is_sorted = False
            minima.append(min(at, minima[-1]) if minima else at)
            positions.append(index)
        return _Order(positions, minima, is_sorted)

    def _order_warnings(self, page: FetchedPage, order: _Order, repeated: set[int]) -> list[str]:
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

    # ------------------------------------------------------- what is loaded

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

    def _loaded(self, page: FetchedPage, order: _Order, *, to_the_end: bool) -> set[int]:
        """Return the indices of events that are certain to be loaded.

        Args:
            page: The page.
            order: Its order.
            to_the_end: Whether the last events of the page are confirmed too.
        """
        if not (order.is_sorted and self.state.in_order) or self._has_gaps:
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
            not (self._full or self._has_gaps)
            and self.state.high_watermark is not None
            and self.state.high_watermark_id in self.state.scan_anchors
        )

    def _is_below(self, at: datetime) -> bool:
        watermark = self.state.high_watermark
        return watermark is not None and watermark - at > self._lookback

    def _reaches_loaded(self, page: FetchedPage, order: _Order) -> bool:
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
            not (self._full or self._has_gaps)
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

    # ------------------------------------------------------------ completeness

    def _count(self, page: FetchedPage, repeated: set[int]) -> _Counts:
        """Count distinct events, and how many the scan has to see.

        A small rise of ``meta.total`` is arrivals at the head, which this scan does not
        read. A large one means that the earlier total was too low, as does a total below
        the events already read. A fall changes nothing.
        """
        state = self.state
        new = 0 if self.is_revisited(page) else page.returned - len(repeated)
        seen = state.events_seen + new
        if state.total_events is None:
            total = expected = page.total
        else:
            rise = page.total - state.total_events
            total = max(page.total, state.total_events)
            expected = (
                state.total_events if state.events_expected is None else state.events_expected
            )
            if state.total_events < state.events_seen:
                expected = total
            elif rise > _total_tolerance(state.total_events):
                expected += rise
        if self.reference_total - total > _total_tolerance(self.reference_total):
            # The last scan has read far more: this feed is truncated, or its total is wrong.
            expected = max(expected, self.reference_total)
        # Less than a page, so that a whole page is never missing. Deletions that the page's
        # own total confirms may be more.
        confirmed = 0 <= seen - page.total <= expected // 100
        share = 100 if confirmed else 1000
        largest = max(self._largest_page, page.returned)
        tolerance = min(1000, expected // share, max(0, largest - 1))
        return _Counts(new, seen, expected, total, tolerance)

    def _total_drops(self, page: FetchedPage, counts: _Counts) -> bool:
        highest = max(counts.total, counts.seen, self.reference_total)
        return highest - page.total > _total_tolerance(highest)

    def _end_anomaly(self, page: FetchedPage, counts: _Counts) -> PageAnomaly | None:
        cursor = page.next_cursor
        if page.has_more is False or (cursor is None and page.has_more is None):
            return None if counts.may_end else PageAnomaly.FALSE_END
        if counts.is_complete and counts.seen:
            return None
        if cursor is None:
            return PageAnomaly.MISSING_CURSOR
        if self.cursor_seen(cursor):
            return PageAnomaly.REPEATED_CURSOR
        return None if page.returned else PageAnomaly.EMPTY_PAGE

    def _is_short(self, page: FetchedPage, counts: _Counts) -> bool:
        return (
            0 < page.returned < self._largest_page
            and page.has_more is not False
            and page.next_cursor is not None
            and not counts.is_complete
        )

    def _leads_nowhere(self, page: FetchedPage, counts: _Counts) -> bool:
        return (
            page.has_more is False
            or page.next_cursor is None
            or (not counts.new and counts.seen > 0)
            or self.cursor_seen(page.next_cursor)
        )

    # ------------------------------------------------------------------- state

    def _state_after(
        self, page: FetchedPage, order: _Order, counts: _Counts, *, emitted: int
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
            scan_oldest_at=order.minima[0] if order.minima and not self._has_gaps else None,
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

    def _newest(self, page: FetchedPage, order: _Order) -> tuple[datetime | None, str | None]:
        """Return the newest event of the scan, future ones and outliers at the head aside."""
        newest_at, newest_id = self.state.scan_newest_at, self.state.scan_newest_id
        before = self._minima[-1] if self._minima else None
        gap = max(self._lookback, HEAD_GAP)
        judged = max(0, MAX_OUTLIERS - self.state.events_seen)
        for number, index in enumerate(order.positions[: judged + 1]):
            record = page.records[index]
            at = record.timestamp
            if at is None or before is None or (number < judged and before - at > gap):
                newest_at, newest_id = at, record.id
            before = at
        return newest_at, newest_id

    def _finish(self, *, at_oldest_event: bool) -> None:
        self.is_finished = True
        self.state = self.state.finish(at_oldest_event=at_oldest_event)

    def _once(self, message: str) -> list[str]:
        if message in self._warned:
            return []
        self._warned.add(message)
        return [message]


def _total_tolerance(total: int) -> int:
    """Return how far ``meta.total`` may move between two pages.

    One percent of a large feed, up to a thousand of a smaller one, and at most a twentieth
    of a small one: what arrives or is deleted in the two minutes that a cursor lives.
    """
    return max(10, min(1000, total // 20), total // 100)


def _fingerprint(page: FetchedPage) -> int:
    return hash(tuple(record.id for record in page.records))


def _expiry(page: FetchedPage) -> datetime | None:
    if page.next_cursor is None:
        return None
    if page.expires_in is None:
        return page.requested_at + CURSOR_LIFETIME
    return page.received_at + timedelta(
        seconds=min(max(page.expires_in, 0.0), _MAX_CURSOR_LIFETIME_SECONDS)
    )
