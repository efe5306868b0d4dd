"""The feed: which events there are, newest first, cut into pages."""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left, insort
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from datasync_sandbox.data.events import INTERVAL_MILLIS, Event, EventGenerator
from datasync_sandbox.data.malformed import COLUMNS, MALFORMED_KINDS
from datasync_sandbox.data.timestamps import from_millis, isoformat, to_millis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from datasync_sandbox.data.events import OrderKey
    from datasync_sandbox.options import FeedOptions

_ORDER = attrgetter("order")


@dataclass(frozen=True)
class ExpectedRow:
    """The row that a table should hold for an event.

    Attributes:
        id: Primary key; ``None`` for an event that reaches rejected_events alone.
        session_id: UUID of the session.
        user_id: UUID of the user.
        type: Type of the event.
        name: Name of the event.
        properties: JSON object.
        timestamp: Aware, UTC, whole milliseconds.
        session: JSON object.
        malformed: Kind of malformed event; ``None`` for a valid one.
        valid: Whether the event needs no entry in rejected_events; ``None`` where both are right.
        ambiguous: Columns for which another value is right too.
        raw_event: JSON text of a malformed event.
    """

    id: str | None
    session_id: str | None
    user_id: str | None
    type: str | None
    name: str | None
    properties: dict[str, Any] | None
    timestamp: datetime | None
    session: dict[str, Any] | None
    malformed: str | None = None
    valid: bool | None = True
    ambiguous: tuple[str, ...] = ()
    raw_event: str | None = None

    @classmethod
    def of(cls, event: Event) -> ExpectedRow:
        """Return the row of an event."""
        document = event.to_dict()
        document["session_id"] = document.pop("sessionId")
        document["user_id"] = document.pop("userId")
        document["timestamp"] = from_millis(event.millis)
        if bad := event.malformed:
            kind = MALFORMED_KINDS[bad.kind]
            document |= bad.expected
            document |= {"malformed": bad.kind, "valid": kind.valid, "ambiguous": kind.ambiguous}
            document["raw_event"] = bad.raw_event
        return cls(**document)

    def to_dict(self) -> dict[str, Any]:
        """Return the columns as JSON values, the timestamp as ``2026-01-27T19:20:12.369Z``."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        return {**columns, "timestamp": self.timestamp and isoformat(to_millis(self.timestamp))}


class Place(NamedTuple):
    """A place between two events, which stays right while events arrive.

    Attributes:
        position: Events of the frozen part that are before it.
        key: Order of the last event before it.
    """

    position: int
    key: OrderKey


@dataclass(frozen=True)
class FeedPage:
    """A page of the feed.

    Attributes:
        events: The events, newest first.
        end: The place behind them; ``None`` for an empty page.
        has_more: Whether there are older events.
    """

    events: list[Event]
    end: Place | None
    has_more: bool


class Feed:
    """A repeatable feed of events: a frozen part, and events that arrive later."""

    def __init__(self, options: FeedOptions) -> None:
        """Describe a feed; nothing is computed yet. The same options give the same feed everywhere.

        Raises:
            ValueError: If an option is wrong; the message is for the user.
        """
        self.arrived = 0
        self._options = options
        self._newest = options.newest_millis
        self._late_share, self._late_seconds = options.late_arrivals
        self._shards = [range(at, options.events, options.shards) for at in range(options.shards)]
        self._generator = EventGenerator(options, self._newest)
        self._arrivals: list[Event] = []  # in ascending order

    @property
    def total(self) -> int:
        """Events there are now, arrived ones included."""
        return self._options.events + self.arrived

    def arrive(self, count: int) -> None:
        """Let events arrive until there are ``count`` of them; never fewer than before."""
        while self.arrived < count:
            insort(self._arrivals, self._arrival(self.arrived), key=_ORDER)
            self.arrived += 1

    def rows(self) -> Iterator[ExpectedRow]:
        """Yield the rows of all events there are now, in the order of the feed."""
        frozen = (self._generator.event(index) for index in chain(*self._shards))
        for event in heapq.merge(frozen, reversed(self._arrivals), key=_ORDER, reverse=True):
            yield ExpectedRow.of(event)

    def event(self, index: int) -> ExpectedRow:
        """Return the row of an event of the frozen part; 0 is the newest."""
        return ExpectedRow.of(self._generator.event(index))

    def arrival(self, number: int) -> ExpectedRow:
        """Return the row of an event that arrives, arrived or not; 0 is the first."""
        return ExpectedRow.of(self._arrival(number))

    def page(self, after: Place | None, limit: int) -> FeedPage:
        """Return a page: at most so many events after the page that ends at a place."""
        start = after.position if after else 0
        frozen = self._frozen(start, start + limit + 1)
        arrivals = self._arrivals[: self._arrivals_before(after)][-limit - 1 :][::-1]
        found = _merge(frozen, arrivals)
        events, has_more = found[:limit], len(found) > limit
        if not events:
            return FeedPage([], None, has_more=False)
        last = events[-1].order
        position = start + sum(event.order >= last for event in frozen)
        return FeedPage(events, Place(position, last), has_more)

    def events_before(self, place: Place | None, count: int) -> list[Event]:
        """Return the last events before a place, newest first."""
        if place is None:
            return []
        frozen = self._frozen(place.position - count, place.position)
        first = self._arrivals_before(place)
        return _merge(frozen, self._arrivals[first : first + count][::-1])[-count:]

    def _frozen(self, start: int, end: int) -> list[Event]:
        """Return events of the frozen part, by their positions."""
        start, events = max(0, start), []
        for shard in self._shards:
            events += [self._generator.event(index) for index in shard[start : max(0, end)]]
            start, end = max(0, start - len(shard)), end - len(shard)
        return events

    def _arrivals_before(self, place: Place | None) -> int:
        """Return how many arrivals, counted from the oldest, are behind a place."""
        if place is None:
            return len(self._arrivals)
        return bisect_left(self._arrivals, place.key, key=_ORDER)

    def _arrival(self, number: int) -> Event:
        rate = self._options.arrivals
        draw = random.Random(f"{self._options.seed}:late:{number}")  # noqa: S311 - repeatable on purpose
        after = (number + 1) * (1000 / rate if rate else INTERVAL_MILLIS)
        is_late = draw.random() < self._late_share
        late = draw.random() * self._late_seconds * 1000 if is_late else 0
        return self._generator.arrival(number, self._newest + int(after - late))


def _merge(frozen: list[Event], arrivals: list[Event]) -> list[Event]:
    """Merge two descending runs."""
    return sorted(frozen + arrivals, key=_ORDER, reverse=True) if arrivals else frozen
