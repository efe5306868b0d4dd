"""Verification of pages: their order, their totals, and why one is fetched again."""

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
"""How far below their neighbours such events lie, at least, or as far as the lookback."""


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
class Order:
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
class Counts:
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


def check_order(
    page: FetchedPage,
    before: deque[datetime],
    *,
    is_sorted: bool,
    ignored: set[int],
    outlier_gap: timedelta,
) -> Order:
    """Check that timestamps do not rise, outliers aside.

    An event far below the ones before it is an outlier if what follows returns to them
    within ten events: then it is left out of the order. Any other rise is a violation.

    Args:
        page: The page.
        before: :attr:`Order.minima` of the page before.
        is_sorted: Whether the scan was sorted so far.
        ignored: Indices of repeated events.
        outlier_gap: How far below its neighbours an outlier lies.
    """
    minima = before.copy()
    positions: list[int] = []
    for index, record in enumerate(page.records):
        at = record.timestamp
        if at is None or at > page.received_at or index in ignored:
            continue
        if minima and at - minima[-1] > ORDER_TOLERANCE and is_sorted:
            kept = [lowest for lowest in minima if at - lowest <= ORDER_TOLERANCE]
            # One after the other in 1970, and not a shard that ends.
            if kept and kept[-1] - minima[len(kept)] > outlier_gap:
                outliers = len(minima) - len(kept)
                del positions[max(0, len(positions) - outliers) :]
                minima = deque(kept, maxlen=minima.maxlen)
            else:
                is_sorted = False
        minima.append(min(at, minima[-1]) if minima else at)
        positions.append(index)
    return Order(positions, minima, is_sorted)


def count_events(
    state: ScanState, page: FetchedPage, *, new: int, largest_page: int, reference_total: int
) -> Counts:
    """Count distinct events, and how many the scan has to read.

    A small rise of ``meta.total`` is arrivals at the head, which this scan does not read. A
    large one means that the earlier total was too low, as does a total below the events
    already read. A fall changes nothing.

    Args:
        state: State before the page.
        page: The page.
        new: Events of the page that no earlier page has held.
        largest_page: Most events on one page, this one among them.
        reference_total: Events that the feed is known to have held; 0 if none are.
    """
    seen = state.events_seen + new
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
    # Less than a page, so that a whole page is never missing. Deletions that the page's
    # own total confirms may be more.
    confirmed = 0 <= seen - page.total <= expected // 100
    share = 100 if confirmed else 1000
    tolerance = min(1000, expected // share, max(0, largest_page - 1))
    return Counts(new, seen, expected, total, tolerance)


def total_tolerance(total: int) -> int:
    """Return how far ``meta.total`` may move between two pages.

    One percent of a large feed, up to a thousand of a smaller one, and at most a twentieth
    of a small one: what arrives or is deleted in the two minutes that a cursor lives.
    """
    return max(10, min(1000, total // 20), total // 100)
