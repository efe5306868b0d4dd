"""One walk through the feed, newest to oldest: what to emit, and when it is over.

Pure: no clock, no network. It is fed pages and gives events to emit and a bookmark. The
API's order and its word that the feed ends are checked, not believed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate
from typing import TYPE_CHECKING

from tap_datasync.bookmark import ORDER_SLACK, Bookmark, Span

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from tap_datasync.events import EventRecord
    from tap_datasync.pages import Page

EVENTS_BELOW = 3
"""Events in a row that must lie below what is loaded before a walk ends there: a single
absurd timestamp must not end it."""


class Doubt(Enum):
    """Why a page is not taken at its word, and asked for again."""

    DAMAGED = "the reply holds what is neither text nor JSON"
    PAGE_REPEATS = "the page is the one before, under another cursor"
    EMPTY = "the page is empty, although more are to come"
    CURSOR_REPEATS = "the next cursor has been used before"
    CURSOR_MISSING = "more is to come, but there is no cursor"
    FALSE_END = "the API says that the feed ends, short of the events it counts"


@dataclass(frozen=True, slots=True)
class Taken:
    """What one page came to.

    Attributes:
        emit: Rows to emit, newest first.
        bookmark: Where the walk stands once they are emitted.
        skipped: Rows not emitted, because they are loaded.
        newest: Newest timestamp on the page.
        oldest: Oldest timestamp on the page.
        lost_order: Whether this page showed that the feed is not sorted.
    """

    emit: list[EventRecord]
    bookmark: Bookmark
    skipped: int
    newest: datetime | None
    oldest: datetime | None
    lost_order: bool


class Walk:
    """A walk that is open. Make one with :meth:`start` or :meth:`resume`."""

    def __init__(
        self, bookmark: Bookmark, *, lookback: timedelta, full: bool, sorted_so_far: bool
    ) -> None:
        """Begin at a bookmark.

        Args:
            bookmark: Where the walk stands.
            lookback: How late events may arrive.
            full: Walk to the end, whatever earlier walks have loaded.
            sorted_so_far: Whether the walk's order can still be trusted.
        """
        self.bookmark = bookmark
        self.finished = False
        self._lookback = lookback
        self._sorted = sorted_so_far
        self._oldest = bookmark.walk.oldest if bookmark.walk else None
        self._below = 0
        self._used: set[int] = {hash(bookmark.cursor)}
        self._ids: tuple[str, ...] = ()
        complete_to = None if full else bookmark.complete_to
        self._bound = None if complete_to is None else complete_to - max(lookback, ORDER_SLACK)

    @classmethod
    def start(cls, bookmark: Bookmark, *, lookback: timedelta, full: bool) -> Walk:
        """Start at the newest event; the bookmark holds what earlier walks loaded."""
        fresh = replace(bookmark, events_seen=0, events_emitted=0, total_events=None)
        return cls(fresh, lookback=lookback, full=full, sorted_so_far=True)

    @classmethod
    def resume(cls, bookmark: Bookmark, *, lookback: timedelta, full: bool) -> Walk:
        """Go on at the bookmark's cursor."""
        trusted = bookmark.walk is not None or not bookmark.events_seen
        return cls(bookmark, lookback=lookback, full=full, sorted_so_far=trusted)

    @property
    def has_skipped(self) -> bool:
        """Whether this walk, over all its runs, has not emitted something it has seen."""
        return self.bookmark.events_seen > self.bookmark.events_emitted

    def doubt(self, page: Page) -> Doubt | None:
        """Say why the page should be asked for again, if it should.

        A page that reaches what is loaded is the last one, whatever follows it.
        """
        if page.damaged:
            return Doubt.DAMAGED
        if self._repeats(page):
            return Doubt.PAGE_REPEATS
        if self._reaches_loaded(page):
            return None
        cursor = page.next_cursor
        if self._holds_all(page):
            return None
        if page.has_more is False or (cursor is None and page.has_more is None):
            return Doubt.FALSE_END
        if cursor is None:
            return Doubt.CURSOR_MISSING
        if self.has_used(cursor):
            return Doubt.CURSOR_REPEATS
        return None if page.returned else Doubt.EMPTY

    def has_used(self, cursor: str) -> bool:
        """Say whether this walk, since it was opened, has been at that cursor."""
        return hash(cursor) in self._used

    def take(self, page: Page, *, expires_at: datetime | None, now: datetime) -> Taken:
        """Take a page in: decide what to emit and move the bookmark.

        Args:
            page: The page that :attr:`cursor` led to.
            expires_at: Until when its next cursor lives.
            now: The wall clock: no event is newer than this.
        """
        if self._repeats(page):
            page = replace(page, records=[], returned=0)
        was_sorted = self._sorted
        moments: list[datetime] = []
        emit: list[EventRecord] = []
        for record in page.records:
            moment = record.timestamp
            if moment is None:
                emit.append(record)
                continue
            moments.append(moment)
            if self._oldest is None or moment < self._oldest:
                self._oldest = moment
            elif moment > self._oldest + ORDER_SLACK:
                self._sorted = False
            self._below = self._below + 1 if self._is_below(moment) else 0
            if not (self._sorted and self._is_loaded(moment)):
                emit.append(record)
        self._move(page, moments, len(emit), expires_at=expires_at, now=now)
        return Taken(
            emit=emit,
            bookmark=self.bookmark,
            skipped=len(page.records) - len(emit),
            newest=max(moments, default=None),
            oldest=min(moments, default=None),
            lost_order=was_sorted and not self._sorted,
        )

    def cut_off(self) -> Bookmark:
        """Close the walk before its end; see :meth:`Bookmark.cut_off`."""
        return self.bookmark.cut_off(self._lookback)

    def _move(
        self,
        page: Page,
        moments: list[datetime],
        emitted: int,
        *,
        expires_at: datetime | None,
        now: datetime,
    ) -> None:
        before = self.bookmark
        total = self._total(page)
        newest = before.walk.newest if before.walk else before.unsorted_newest
        if newest is None and moments:
            newest = min(moments[0] if self._sorted else max(moments), now)
        span = before.walk
        if not self._sorted:
            span = None
        elif newest is not None and self._oldest is not None:
            span = Span(newest, self._oldest)
        over = (self._sorted and self._below >= EVENTS_BELOW) or page.next_cursor is None
        if self._holds_all(page):
            used = page.next_cursor is not None and self.has_used(page.next_cursor)
            over = over or page.has_more is False or not page.returned or used
        self.bookmark = replace(
            before,
            cursor=page.next_cursor,
            cursor_expires_at=expires_at if page.next_cursor else None,
            walk=span,
            unsorted_newest=None if self._sorted else newest,
            # Neither holds where the order does not.
            loaded=before.loaded if self._sorted else (),
            complete_to=before.complete_to if self._sorted else None,
            events_seen=before.events_seen + page.returned,
            # An event without an id is emitted too, to the rejected ones.
            events_emitted=before.events_emitted + emitted + page.returned - len(page.records),
            total_events=total,
        )
        self._used.add(hash(page.next_cursor))
        self._ids = _ids(page) or self._ids
        if over:
            self.finished = True
            self.bookmark = self.bookmark.finished()

    def _total(self, page: Page) -> int:
        # What arrives during the walk is not part of it; what is deleted neither.
        known = self.bookmark.total_events
        return page.total if known is None else min(known, page.total)

    def _holds_all(self, page: Page) -> bool:
        """Say whether the walk, with this page, has seen as many events as the API counts."""
        return self.bookmark.events_seen + page.returned >= self._total(page)

    def _is_below(self, moment: datetime) -> bool:
        return self._bound is not None and moment < self._bound

    def _is_loaded(self, moment: datetime) -> bool:
        if self._is_below(moment):
            return True
        return any(s.covers(moment, self._lookback) for s in self.bookmark.loaded)

    def _repeats(self, page: Page) -> bool:
        return bool(page.records) and _ids(page) == self._ids

    def _reaches_loaded(self, page: Page) -> bool:
        if self._bound is None or not self._sorted:
            return False
        moments = [r.timestamp for r in page.records if r.timestamp is not None]
        lowest = accumulate(moments if self._oldest is None else [self._oldest, *moments], min)
        if any(moment > low + ORDER_SLACK for low, moment in zip(lowest, moments, strict=False)):
            return False
        last = moments[-EVENTS_BELOW:]
        return len(last) == EVENTS_BELOW and all(map(self._is_below, last))


def _ids(page: Page) -> tuple[str, ...]:
    return tuple(record.id for record in page.records)
