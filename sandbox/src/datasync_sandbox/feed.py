"""The events: which there are, in which order, and what a table should hold of them.

A feed follows from its seed. It has a frozen body, made block by block when asked for,
and a head that may grow. The order is the service's: timestamp descending, ties by id
descending.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasync_sandbox.blocks import BLOCK, Block, FeedDefects, Key, Renderer
from datasync_sandbox.head import ARRIVAL_LABEL, ArrivalRate, Head
from datasync_sandbox.rows import ExpectedRow, row_of
from datasync_sandbox.stamps import millis_of
from datasync_sandbox.visitors import Visitors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

NEWEST = "2026-01-27T19:20:12.369Z"
"""Timestamp of the newest event, unless told otherwise: that of the recorded service."""

GAP = 864
"""Milliseconds between two events on average: 100,000 events a day."""

_KEPT_BLOCKS = 24


@dataclass(frozen=True)
class FeedPage:
    """A piece of the feed.

    Attributes:
        texts: JSON texts of the events, newest first, timestamps in the form of their place.
        last: Place of the last event; the next page starts behind it. ``None`` when empty.
        more: Whether there are older events.
    """

    texts: list[str]
    last: Key | None
    more: bool


class Feed:
    """A deterministic feed of events."""

    def __init__(
        self,
        events: int = 100_000,
        *,
        seed: int = 1,
        newest: str | int | datetime = NEWEST,
        arrival_rate: ArrivalRate | None = None,
        defects: FeedDefects | None = None,
    ) -> None:
        """Describe a feed; nothing is made yet.

        Args:
            events: Events of the frozen body; 0 is an empty feed.
            seed: The same seed and arguments give the same feed, on every machine.
            newest: Instant of the newest event of the body: ISO 8601, milliseconds since 1970 or
                a datetime.
            arrival_rate: How the head grows; see `arrive`.
            defects: What is wrong with the feed.
        """
        self.events = events
        self.seed = seed
        self.newest = millis_of(newest)
        self.arrival_rate = arrival_rate or ArrivalRate()
        self._renderer = Renderer(seed, Visitors(seed, events), defects or FeedDefects())
        self._blocks: OrderedDict[int, Block] = OrderedDict()
        self._head = Head(self._renderer, seed, self.newest, self.arrival_rate, GAP)

    @property
    def arrived(self) -> int:
        """Events that have arrived at the head so far."""
        return self._head.arrived

    @property
    def total(self) -> int:
        """Events there are now, the arrived ones included."""
        return self.events + self.arrived

    def arrive(self, count: int) -> None:
        """Let the head grow until ``count`` events have arrived in all; never fewer than before."""
        self._head.arrive(count)

    def event(self, index: int) -> ExpectedRow:
        """Return an event of the frozen body.

        Args:
            index: 0 is the newest.

        Returns:
            The event, as a table should hold it.

        Raises:
            IndexError: If there is no such event.
        """
        if not 0 <= index < self.events:
            message = f"no event {index}: the feed has {self.events}"
            raise IndexError(message)
        return row_of(self._block(index // BLOCK), index % BLOCK)

    def arrival(self, number: int) -> ExpectedRow:
        """Return an event of the growing head, arrived or not; 0 is the first to arrive."""
        return row_of(*self._head.event(number))

    def rows(self) -> Iterator[ExpectedRow]:
        """Yield all events there are now, newest first, as a table should hold them."""
        for start, count, arrival in self._runs(None):
            if arrival is not None:
                yield self.arrival(arrival)
            for index in range(start, start + count):
                yield row_of(self._block(index // BLOCK), index % BLOCK)

    def find(self, ident: str) -> str | None:
        """Return the JSON text of an event, timestamp in ISO 8601; ``None`` for an unknown id.

        Args:
            ident: Id of the event.
        """
        try:
            label = self._renderer.label_of(ident)
        except ValueError:
            return None
        if label >= ARRIVAL_LABEL:
            return self._head.find(label, ident)
        # Below 0 where a word begins with a minus, which `int` takes for a sign.
        if not 0 <= label * BLOCK < self.events:
            return None
        block = self._block(label)
        return block.iso[block.ids.index(ident)] if ident in block.ids else None

    def page(self, after: Key | None, limit: int) -> FeedPage:
        """Cut a page.

        Args:
            after: Place of the last event of the page before; ``None`` starts at the head.
            limit: Events at most.

        Returns:
            The page.
        """
        texts: list[str] = []
        millis: list[str] = []
        last: Key | None = None
        for run_start, run_count, arrival in self._runs(after):
            start, count = run_start, run_count
            if arrival is not None:
                if len(texts) == limit:
                    return FeedPage(_mixed(texts, millis), last, more=True)
                block, index = self._head.event(arrival)
                texts.append(block.iso[index])
                millis.append(block.ints[index])
                last = (block.stamps[index], block.ids[index])
            while count:
                if len(texts) == limit:
                    return FeedPage(_mixed(texts, millis), last, more=True)
                block, at = self._block(start // BLOCK), start % BLOCK
                end = min(at + count, at + limit - len(texts), len(block.ids))
                texts += block.iso[at:end]
                millis += block.ints[at:end]
                last = (block.stamps[end - 1], block.ids[end - 1])
                start, count = start + end - at, count - (end - at)
        return FeedPage(_mixed(texts, millis), last, more=False)

    def _runs(self, after: Key | None) -> Iterator[tuple[int, int, int | None]]:
        """Merge head and body behind a place.

        Yields:
            Start and length of a run of the body, and the arrival that comes before it, if any.
        """
        at = 0 if after is None else self._locate(after)
        arrival: int | None = None
        for key, number in self._head.behind(after):
            place = self._locate(key)
            if arrival is not None or place > at:
                yield at, max(place - at, 0), arrival
            at, arrival = max(place, at), number
        yield at, self.events - at, arrival

    def _locate(self, key: Key) -> int:
        """Return the index of the first event of the body that is older than a place."""
        if self.events == 0 or key[0] > self.newest:
            return 0
        number = (self.newest - key[0]) // (BLOCK * GAP)
        if number * BLOCK >= self.events:
            return self.events
        block = self._block(number)
        low, high = 0, len(block.ids)
        while low < high:
            middle = (low + high) // 2
            if (block.stamps[middle], block.ids[middle]) >= key:
                low = middle + 1
            else:
                high = middle
        return number * BLOCK + low

    def _block(self, number: int) -> Block:
        """Return a block of the body, kept or made."""
        block = self._blocks.get(number)
        if block is None:
            first = number * BLOCK
            count = min(BLOCK, self.events - first)
            newest = self.newest - first * GAP
            stamps = self._renderer.spread(number, count, newest, count * GAP, first)
            block = self._blocks[number] = self._renderer.render(number, first, stamps)
            if len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(number)
        return block


def _mixed(texts: list[str], millis: list[str]) -> list[str]:
    """Put timestamps in milliseconds at the places 0, 3, 6, … of a page."""
    texts[::3] = millis[::3]
    return texts
