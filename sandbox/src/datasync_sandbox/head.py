"""The growing head of a feed: events that arrive while clients read."""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasync_sandbox.blocks import Block, Key, Renderer

ARRIVAL_LABEL = 1 << 23
"""Labels from here on belong to blocks of arrivals; see `datasync_sandbox.blocks`."""

_LABELS = 1 << 24
_BLOCK = 64


@dataclass(frozen=True)
class ArrivalRate:
    """How the head grows.

    Attributes:
        rate: Events a second; 0 lets events arrive only when told.
        late_share: Share of them that come late.
        late_seconds: How old a late event is at most.
    """

    rate: float = 0.0
    late_share: float = 0.0
    late_seconds: float = 0.0


class Head:
    """The events that have arrived so far, kept in order."""

    def __init__(
        self, renderer: Renderer, seed: int, newest: int, arrival_rate: ArrivalRate, gap: int
    ) -> None:
        """Start without arrivals.

        Args:
            renderer: Renderer of the feed.
            seed: Seed of the feed.
            newest: Milliseconds since 1970 of the newest event of the body; arrivals come after it.
            arrival_rate: How the head grows.
            gap: Milliseconds between two arrivals when there is no rate.
        """
        self._renderer = renderer
        self._seed = seed
        self._newest = newest
        self._growth = arrival_rate
        self._gap = gap
        self._blocks: dict[int, Block] = {}
        self._order: list[tuple[int, str, int]] = []
        self.arrived = 0

    def arrive(self, count: int) -> None:
        """Grow until ``count`` events have arrived in all."""
        while self.arrived < count:
            block, index = self.event(self.arrived)
            insort(self._order, (block.stamps[index], block.ids[index], self.arrived))
            self.arrived += 1

    def event(self, number: int) -> tuple[Block, int]:
        """Return the block and the index of an arriving event; 0 is the first to arrive."""
        at = number // _BLOCK
        block = self._blocks.get(at)
        if block is None:
            block = self._blocks[at] = self._make(at)
        return block, number % _BLOCK

    def behind(self, after: Key | None) -> list[tuple[Key, int]]:
        """Return the arrivals behind a place, newest first: their places and numbers."""
        end = len(self._order) if after is None else bisect_left(self._order, (*after, 0))
        return [((stamp, ident), number) for stamp, ident, number in reversed(self._order[:end])]

    def find(self, label: int, ident: str) -> str | None:
        """Return the JSON text of an event that has arrived.

        Args:
            label: Label of its block.
            ident: Its id.
        """
        first = (label - ARRIVAL_LABEL) * _BLOCK
        if first >= self.arrived:
            return None
        block = self.event(first)[0]
        known = block.ids[: self.arrived - first]
        return block.iso[known.index(ident)] if ident in known else None

    def _make(self, at: int) -> Block:
        """Draw the next arrivals, in the order in which they come."""
        label = ARRIVAL_LABEL + at
        if label >= _LABELS:
            message = "the head cannot grow any further"
            raise OverflowError(message)
        growth = self._growth
        draw = random.Random(f"{self._seed}:late:{at}")  # noqa: S311 - repeatable on purpose
        first = at * _BLOCK
        stamps = []
        for number in range(first, first + _BLOCK):
            since = (number + 1) * (1000 / growth.rate if growth.rate else self._gap)
            late = draw.random() * growth.late_seconds * 1000
            is_late = draw.random() < growth.late_share
            stamps.append(self._newest + int(since - (late if is_late else 0)))
        return self._renderer.render(label, -first - _BLOCK, stamps)
