"""Verification: a page compared with the pages before it and with what is known of the feed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING

from tap_datasync.state import ORDER_TOLERANCE

if TYPE_CHECKING:
    from datetime import datetime

    from tap_datasync.parsing import FetchedPage
    from tap_datasync.state import ScanState

MAX_OUTLIERS = 10
"""Consecutive events that may lie far below their neighbours, e.g. in 1970, without the
feed being unsorted. So the last ten events of a page are not confirmed by what follows:
they are always emitted."""

OUTLIER_GAP = timedelta(days=1)
"""How far below its neighbours such events lie, at least, or as far as the lookback."""

RECENT_PAGES = 3
"""Pages whose ids are kept to recognise events that a later page repeats."""


class PageAnomaly(Enum):
    """Why a page is fetched again before it is used. The name is the key of the retry."""

    CORRUPTED_PAGE = "the page holds text that is neither UTF-8 nor JSON"
    REPEATED_PAGE = "the page repeats events of this scan and has no new ones"
    TOTAL_DROP = "meta.total is far below its earlier values or the events read"
    SHORT_PAGE = "the page has fewer distinct events than others although more are announced"
    EMPTY_PAGE = "the page is empty although more events are announced"
    REPEATED_CURSOR = "the next cursor has been used before"
    MISSING_CURSOR = "more events are announced, but there is no next cursor"
    FALSE_END = "the feed ends before all of its events were read"

    @property
    def cause(self) -> str:
        """Key in ``pages.retries``."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class PageCheck:
    """A page compared with what a scan has read before it.

    Attributes:
        page: The page.
        repeated: Indices of events that an earlier page has held.
        is_revisited: Whether the page lies where the scan has been long before: in a circle.
            It is one of the scan's pages, or holds both events at the border of two of
            them, or all of it is above the position from which the scan was resumed.
        leads_on: Whether it has a next cursor that the scan has not used.
        largest_page: Most events on one page, this one among them.
        new: Events of the page that no earlier page has held.
        seen: Distinct events read with the page.
        expected: Events that the scan has to read.
        total: Highest ``meta.total`` of the scan.
        reference_total: Events that the feed is known to have held; 0 if none are.
        positions: Indices of the events that are in order: without outliers, repeated
            events, future ones, and those without a timestamp.
        minima: Lowest timestamp up to each of the last eleven events in order.
        is_sorted: Whether the scan is sorted so far.
    """

    page: FetchedPage
    repeated: set[int]
    is_revisited: bool
    leads_on: bool
    largest_page: int
    new: int
    seen: int
    expected: int
    total: int
    reference_total: int
    positions: list[int]
    minima: deque[datetime]
    is_sorted: bool

    @property
    def missing(self) -> int:
        """Events that remain to be read."""
        return self.expected - self.seen

    @property
    def tolerance(self) -> int:
        """Events that may be missing at the end, or be read beyond the total.

        Less than a page, so that a whole page is never missing. Deletions that the page's
        own total confirms may be more.
        """
        is_confirmed = 0 <= self.seen - self.page.total <= self.expected // 100
        share = 100 if is_confirmed else 1000
        return min(1000, self.expected // share, max(0, self.largest_page - 1))

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

    @property
    def exceeds_total(self) -> bool:
        """Whether more events were read than the feed holds: its cursors repeat."""
        return self.seen > self.total + max(1000, self.total // 100) + self.largest_page

    @property
    def total_drops(self) -> bool:
        """Whether the page's total is far below what is known."""
        highest = max(self.total, self.seen, self.reference_total)
        return highest - self.page.total > total_tolerance(highest)

    @property
    def is_short(self) -> bool:
        """Whether the page has fewer distinct events than others, and is not the last."""
        page = self.page
        twice = len(page.records) - len({record.id for record in page.records})
        return (
            0 < page.returned - twice < self.largest_page
            and page.has_more is not False
            and page.next_cursor is not None
            and not self.is_complete
        )


class PageHistory:
    """The pages of a scan, since this process started or resumed it.

    Memory is bounded: ids of the recent pages, and of earlier ones two ids and a hash.

    Attributes:
        pages: Number of pages.
        minima: :attr:`PageCheck.minima` of the last page.
    """

    def __init__(self, state: ScanState, *, lookback: timedelta, reference_total: int) -> None:
        """Start at the position of a scan.

        Args:
            state: State of the scan before its next page.
            lookback: How late events may arrive.
            reference_total: Events that the feed is known to have held; 0 if none are.
        """
        self.pages = 0
        self.minima: deque[datetime] = deque(maxlen=MAX_OUTLIERS + 1)
        if state.scan_oldest_at is not None:
            self.minima.append(state.scan_oldest_at)
        self._outlier_gap = max(lookback, OUTLIER_GAP)
        self._reference_total = reference_total
        self._last_id = state.scan_last_id
        # Events above it were counted by the process before this one. They are emitted all
        # the same: in an unsorted feed they may be new.
        self._counted_to = state.scan_oldest_at if state.in_order else None
        self._cursors = {hash(state.cursor)}
        self._recent_ids: deque[frozenset[str]] = deque(maxlen=RECENT_PAGES)
        self._recent_borders: deque[set[str]] = deque()
        self._borders: set[str] = set()
        self._fingerprints: set[int] = set()
        self._largest_page = 0

    def check(self, page: FetchedPage, state: ScanState) -> PageCheck:
        """Compare a page with those before it, and with the state before it."""
        ids = [record.id for record in page.records]
        recent = frozenset().union(*self._recent_ids)
        repeated = self._find_repeated(ids, recent)
        counted = self._find_counted(page)
        met_before = hash(tuple(ids)) in self._fingerprints or (
            len(self._borders.intersection(ids) - recent) > 1
        )
        is_revisited = bool(ids) and (
            len(counted) == len(ids) or (met_before and not recent.issuperset(ids))
        )
        new = 0 if is_revisited else page.returned - len(repeated | counted)
        expected, total = _expected_events(state, page, self._reference_total)
        positions, minima, is_sorted = self._check_order(page, repeated, state)
        cursor = page.next_cursor
        return PageCheck(
            page=page,
            repeated=repeated,
            is_revisited=is_revisited,
            leads_on=cursor is not None and hash(cursor) not in self._cursors,
            largest_page=max(self._largest_page, page.returned),
            new=new,
            seen=state.events_seen + new,
            expected=expected,
            total=total,
            reference_total=self._reference_total,
            positions=positions,
            minima=minima,
            is_sorted=is_sorted,
        )

    def add(self, check: PageCheck) -> None:
        """Add a page that was processed."""
        page = check.page
        self.pages += 1
        self.minima = check.minima
        self._largest_page = check.largest_page
        self._cursors.add(hash(page.next_cursor))
        if not page.records:
            return
        ids = [record.id for record in page.records]
        self._fingerprints.add(hash(tuple(ids)))
        if len(self._recent_ids) == RECENT_PAGES:
            self._borders |= self._recent_borders.popleft()
        self._recent_ids.append(frozenset(ids))
        self._recent_borders.append({ids[0], ids[-1]})

    def _find_repeated(self, ids: list[str], recent: frozenset[str]) -> set[int]:
        seen = set(recent)
        if not recent and self._last_id in ids:
            # The first page after a restart: what comes up to the last event was emitted.
            seen.update(ids[: ids.index(self._last_id) + 1])
        if seen.isdisjoint(ids) and len(set(ids)) == len(ids):
            return set()
        repeated = set()
        for index, one in enumerate(ids):
            if one in seen:
                repeated.add(index)
            seen.add(one)
        return repeated

    def _find_counted(self, page: FetchedPage) -> set[int]:
        if self._counted_to is None:
            return set()
        return {
            index
            for index, record in enumerate(page.records)
            if record.timestamp is not None
            and record.timestamp - self._counted_to > ORDER_TOLERANCE
            and record.timestamp <= page.received_at
        }

    def _check_order(
        self, page: FetchedPage, repeated: set[int], state: ScanState
    ) -> tuple[list[int], deque[datetime], bool]:
        """Check that timestamps do not rise, outliers aside.

        An event far below the ones before it is an outlier if what follows returns to them
        within ten events: then it is left out of the order. Any other rise is a violation.
        """
        is_sorted = state.scan_sorted
        minima = self.minima.copy()
        positions: list[int] = []
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
        return positions, minima, is_sorted


def _expected_events(state: ScanState, page: FetchedPage, reference_total: int) -> tuple[int, int]:
    """Return how many events the scan has to read, and the highest ``meta.total``.

    A small rise of ``meta.total`` is arrivals at the head, which this scan does not read. A
    large one means that the earlier total was too low, as does a total below the events
    already read. A fall changes nothing.
    """
    if state.total_events is None:
        total = expected = page.total
    else:
        rise = page.total - state.total_events
        total = max(page.total, state.total_events)
        expected = state.total_events if state.events_expected is None else state.events_expected
        if state.total_events < state.events_seen:
            expected = total
        elif rise > total_tolerance(state.total_events):
            expected += rise
    if reference_total - total > total_tolerance(reference_total):
        # A scan before has read far more: this feed is truncated, or its total is wrong.
        expected = max(expected, reference_total)
    return expected, total


def total_tolerance(total: int) -> int:
    """Return how far ``meta.total`` may move between two pages.

    One percent of a large feed, up to a thousand of a smaller one, and at most a twentieth
    of a small one: what arrives or is deleted in the two minutes that a cursor lives.
    """
    return max(10, min(1000, total // 20), total // 100)
