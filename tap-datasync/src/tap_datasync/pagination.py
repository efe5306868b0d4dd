"""Walks the feed with a client: from a bookmark to the end, page by page.

Yields each page's events together with the bookmark that may be saved once they are
emitted. Knows nothing of Singer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tap_datasync.bookmark import Bookmark
from tap_datasync.client import (
    CLOCK_GRACE,
    CursorRefusedError,
    Effort,
    Exchange,
    PageClient,
)
from tap_datasync.failures import (
    ApiChangedError,
    IncompleteFeedError,
    NoProgressError,
)
from tap_datasync.walk import Doubt, Taken, Walk

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator

    from tap_datasync.clock import Clock
    from tap_datasync.pages import Page

CURSOR_LIFE = timedelta(seconds=120)
"""How long a cursor lives, from the start of its request, where the API does not say."""

MAX_DOUBTS = 4
"""Times a doubtful page is asked for again."""

MAX_FRUITLESS_WALKS = 3
"""Walks in a row that may be cut off without getting further than the one before."""

MAX_DOUBTS_OF_DAMAGE = 1
"""The same for damage, once a page has stayed damaged however often it was asked for: such
a feed would cost five requests a page."""

MIN_SAMPLE = 20
"""Events that a page must have before most of them not fitting means anything."""

MAX_IDLE_PAGES = 3
"""Pages in a row that may hold nothing new although more is to come."""

_DOUBT_PAUSE = 2.0


@dataclass(frozen=True, slots=True)
class ExtractedPage:
    """One page, ready to be emitted.

    Attributes:
        number: 1 for the first page of this run.
        exchange: The page as it came.
        taken: What to emit, and the bookmark for afterwards.
        effort: Retries and waits since the page before.
    """

    number: int
    exchange: Exchange
    taken: Taken
    effort: Effort


class Extraction:
    """One run: goes on with an open walk, or starts one, until a walk is finished."""

    def __init__(  # noqa: PLR0913 - what a run is made of
        self,
        client: PageClient,
        bookmark: Bookmark,
        *,
        lookback: timedelta,
        full: bool,
        clock: Clock,
        logger: logging.Logger,
    ) -> None:
        """Prepare a run.

        Args:
            client: Gets pages.
            bookmark: What the run before left.
            lookback: How late events may arrive.
            full: Walk to the oldest event, whatever is loaded.
            clock: Tells the time and sleeps.
            logger: Told of everything that is not as it should be.
        """
        self._client = client
        self._lookback = lookback
        self._full = full
        self._clock = clock
        self._logger = logger
        self._deepest: datetime | None = None
        self._fruitless = 0
        self._idle_pages = 0
        self._reported: set[str] = set()
        self._damage_stays = False
        self.walk = self._open(bookmark)

    def pages(self) -> Iterator[ExtractedPage]:
        """Yield pages until the walk is finished.

        The bookmark of a page may be saved as soon as its events are emitted, and not
        before: the next page is asked for when the iterator is advanced.

        Raises:
            TapDataSyncError: The run cannot go on; the last bookmark yielded resumes it.
        """
        number = 0
        while not self.walk.finished:
            exchange, failure = self._next_page()
            page, now = exchange.page, exchange.received_at
            if page.returned >= MIN_SAMPLE and page.misfits * 2 > page.returned:
                msg = (
                    f"{page.misfits} of {page.returned} events on a page do not fit "
                    f"({_first_misfit(page)}). The API has changed."
                )
                raise ApiChangedError(msg)
            before = self.walk.bookmark
            taken = self.walk.take(page, expires_at=_expiry(exchange), now=now)
            if failure is not None:
                # Its events are good; only the place behind them is not known.
                taken = replace(taken, bookmark=before)
            self._report(exchange, taken)
            if taken.lost_order and self.walk.has_skipped:
                taken = replace(taken, bookmark=self._start_over())
            if taken.emit or taken.skipped:
                self._idle_pages = 0
            number += 1
            effort, self._client.effort = self._client.effort, Effort()
            yield ExtractedPage(number, exchange, taken, effort)
            if failure is not None:
                raise failure

    def _open(self, bookmark: Bookmark) -> Walk:
        if bookmark.cursor is None:
            return Walk.start(bookmark, lookback=self._lookback, full=self._full)
        expires_at = bookmark.cursor_expires_at
        if expires_at is None or self._clock.now() <= expires_at + CLOCK_GRACE:
            return Walk.resume(bookmark, lookback=self._lookback, full=self._full)
        return self._restart(bookmark.cut_off(self._lookback), "its cursor has expired")

    def _restart(self, bookmark: Bookmark, why: str) -> Walk:
        self._logger.warning(
            "The walk is cut off: %s. A new one starts at the newest event; what is "
            "loaded is not loaded again.",
            why,
        )
        return Walk.start(bookmark, lookback=self._lookback, full=self._full)

    def _next_page(self) -> tuple[Exchange, IncompleteFeedError | None]:
        doubts = 0
        while True:
            bookmark = self.walk.bookmark
            try:
                exchange = self._client.get_page(bookmark.cursor, bookmark.cursor_expires_at)
            except CursorRefusedError as error:
                self._cut_off(str(error))
                doubts = 0
                continue
            doubt = self.walk.doubt(exchange.page)
            if doubt is None:
                return exchange, None
            doubts += 1
            self._client.effort.retries[doubt.name.lower()] += 1
            if doubts > self._most(doubt) or doubt is Doubt.PAGE_REPEATS:
                # The cursor, not the page, is wrong there: asking again changes nothing.
                return exchange, self._decide(doubt, exchange, doubts)
            self._logger.warning(
                "Asking again, time %d of %d: %s", doubts, self._most(doubt), doubt.value
            )
            self._clock.sleep(_DOUBT_PAUSE)

    def _most(self, doubt: Doubt) -> int:
        damage_again = doubt is Doubt.DAMAGED and self._damage_stays
        return MAX_DOUBTS_OF_DAMAGE if damage_again else MAX_DOUBTS

    def _decide(self, doubt: Doubt, exchange: Exchange, asked: int) -> IncompleteFeedError | None:
        """Say whether a doubtful page that stays as it is ends the run."""
        page, cursor = exchange.page, exchange.page.next_cursor
        goes_on = cursor is not None and not self.walk.has_used(cursor)
        if doubt is Doubt.DAMAGED:
            self._damage_stays = True
            # Damage hides what else may be wrong with the page.
            beside = self.walk.doubt(replace(page, damaged=False))
            if beside is None:
                self._logger.warning("Going on all the same: %s; it is replaced", doubt.value)
                return None
            doubt = beside
        if doubt in {Doubt.EMPTY, Doubt.PAGE_REPEATS} and goes_on:
            self._idle_pages += 1
            if self._idle_pages <= MAX_IDLE_PAGES:
                self._logger.warning("Going on behind it: %s", doubt.value)
                return None
        if doubt is Doubt.FALSE_END and goes_on:
            self._logger.warning("There is a cursor all the same: going on with it")
            return None
        new = 0 if doubt is Doubt.PAGE_REPEATS else page.returned
        seen = self.walk.bookmark.events_seen + new
        return IncompleteFeedError(
            f"Asked {asked} time{'s' * (asked > 1)}: {doubt.value} ({seen:,} of {page.total:,} "
            "events seen). Nothing is lost; try again later."
        )

    def _cut_off(self, why: str) -> None:
        span = self.walk.bookmark.walk
        if span and (self._deepest is None or span.oldest < self._deepest):
            self._deepest = span.oldest
            self._fruitless = 0
        else:
            self._fruitless += 1
        if self._fruitless >= MAX_FRUITLESS_WALKS:
            msg = (
                f"{self._fruitless} walks in a row were cut off at the same place: {why}. "
                "Nothing is lost; try again later."
            )
            raise NoProgressError(msg)
        self.walk = self._restart(self.walk.cut_off(), why)

    def _start_over(self) -> Bookmark:
        """Begin anew because what was skipped may not be loaded after all."""
        self._logger.warning("Events were skipped before that: the walk starts over.")
        # Nothing of earlier walks is left to skip by: the order they relied on is none.
        bookmark = Bookmark()
        self.walk = Walk.start(bookmark, lookback=self._lookback, full=self._full)
        return bookmark

    def _report(self, exchange: Exchange, taken: Taken) -> None:
        if taken.lost_order:
            self._logger.warning(
                "The API's events are not sorted by time: nothing is skipped, and the "
                "walk goes to the very end."
            )
        for name in sorted(exchange.page.unknown - self._reported):
            self._reported.add(name)
            self._logger.warning("Events have a field that is not documented: %s", name)


def _first_misfit(page: Page) -> str:
    """Return a reason that says more than that a field is missing or null."""
    reasons = [reason for rejection in page.rejections for reason in rejection.reasons]
    return next((r for r in reasons if not r.endswith((": missing", ": null"))), reasons[0])


def _expiry(exchange: Exchange) -> datetime | None:
    page = exchange.page
    if page.next_cursor is None:
        return None
    if page.expires_in is None or page.expires_in < 0:
        return exchange.requested_at + CURSOR_LIFE
    life = timedelta(seconds=min(page.expires_in, 86_400.0))
    return exchange.received_at + life
