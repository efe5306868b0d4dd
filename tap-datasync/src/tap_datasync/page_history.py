"""The pages that a scan has read, to recognise a page that repeats them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tap_datasync.state import ORDER_TOLERANCE

if TYPE_CHECKING:
    from datetime import datetime

    from tap_datasync.parsing import FetchedPage

RECENT_PAGES = 3
"""Pages whose ids are kept to recognise events that a later page repeats."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A page compared with the pages before it.

    Attributes:
        page: The page.
        fingerprint: Hash of its ids.
        repeated: Indices of events that an earlier page has held.
        counted: Indices of events that the process before this one has counted. They are
            emitted all the same: in an unsorted feed they may be new.
        is_revisited: Whether the page lies where the scan has been long before: in a circle.
            It is one of the scan's pages, or holds both events at the border of two of
            them, or all of it is above the position from which the scan was resumed.
    """

    page: FetchedPage
    fingerprint: int
    repeated: set[int]
    counted: set[int]
    is_revisited: bool

    @property
    def new(self) -> int:
        """Events to count."""
        if self.is_revisited:
            return 0
        return self.page.returned - len(self.repeated | self.counted)


class PageHistory:
    """The pages of a scan, since this process started or resumed it.

    Memory is bounded: ids of the recent pages, and of earlier ones two ids and a hash.

    Attributes:
        pages: Number of pages.
    """

    def __init__(
        self, cursor: str | None, *, last_id: str | None, counted_to: datetime | None
    ) -> None:
        """Start at a position of the scan.

        Args:
            cursor: Cursor of the first page.
            last_id: Last event before it.
            counted_to: Events above it were counted by the process that this one resumes.
        """
        self.pages = 0
        self._last_id = last_id
        self._counted_to = counted_to
        self._cursors = {hash(cursor)}
        self._recent_ids: deque[frozenset[str]] = deque(maxlen=RECENT_PAGES)
        self._recent_borders: deque[set[str]] = deque()
        self._borders: set[str] = set()
        self._fingerprints: set[int] = set()
        self._largest_page = 0
        self._comparison: Comparison | None = None

    def has_cursor(self, cursor: str) -> bool:
        """Return whether a page had the cursor."""
        return hash(cursor) in self._cursors

    def largest_with(self, page: FetchedPage) -> int:
        """Return the events of the largest page, this one among them."""
        return max(self._largest_page, page.returned)

    def compare(self, page: FetchedPage) -> Comparison:
        """Compare a page with those before it; the result is kept until it is added."""
        if self._comparison is None or self._comparison.page is not page:
            ids = [record.id for record in page.records]
            recent = frozenset().union(*self._recent_ids)
            fingerprint = hash(tuple(ids))
            counted = self._find_counted(page)
            met_before = fingerprint in self._fingerprints or (
                len(self._borders.intersection(ids) - recent) > 1
            )
            self._comparison = Comparison(
                page=page,
                fingerprint=fingerprint,
                repeated=self._find_repeated(ids, recent),
                counted=counted,
                is_revisited=bool(ids)
                and (len(counted) == len(ids) or (met_before and not recent.issuperset(ids))),
            )
        return self._comparison

    def add(self, page: FetchedPage) -> None:
        """Add a page that was processed."""
        fingerprint = self.compare(page).fingerprint
        self._comparison = None
        self.pages += 1
        self._largest_page = self.largest_with(page)
        self._cursors.add(hash(page.next_cursor))
        if not page.records:
            return
        self._fingerprints.add(fingerprint)
        if len(self._recent_ids) == RECENT_PAGES:
            self._borders |= self._recent_borders.popleft()
        self._recent_ids.append(frozenset(record.id for record in page.records))
        self._recent_borders.append({page.records[0].id, page.records[-1].id})

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
