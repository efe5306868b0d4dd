"""How far: what the newest walk has seen, of how much, and how many pages are left."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasync_monitor.facts import Checkpoint, Facts

LOOKBACK = timedelta(hours=1)
"""The tap's default: a walk for new events ends this far below the newest event of the last one."""


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a walk is.

    A walk to the end is measured by events. One that only fetches what is new ends an hour below
    where the last one began: against the whole set it would be done at one percent, so it is
    measured by time.
    """

    seen: int = 0
    total: int | None = None
    fraction: float | None = None
    catching_up: bool = False
    pages_left: int | None = None


def measure(facts: Facts, *, finished: bool) -> Distance:
    """Measure the newest walk by its checkpoint, or, until there is one, by its last page."""
    checkpoint = facts.checkpoint
    source = checkpoint or (facts.pages[-1] if facts.pages else None)
    seen = (source.events_seen if source else None) or 0
    total = source.total_events if source else None
    if finished:
        return Distance(seen, total, 1.0, pages_left=0)
    caught_up = _caught_up(checkpoint) if checkpoint else None
    if caught_up is not None:
        pages = facts.totals.pages
        left = ceil(pages * (1 - caught_up) / caught_up) if caught_up > 0 and pages else None
        return Distance(seen, total, caught_up, catching_up=True, pages_left=left)
    if not total:
        return Distance(seen, total)
    size = max((page.events for page in facts.pages), default=0)
    left = ceil(max(0, total - seen) / size) if size else None
    return Distance(seen, total, min(1.0, seen / total), pages_left=left)


def _caught_up(checkpoint: Checkpoint) -> float | None:
    """Tell how much of the time down to the end is done; None in a walk to the end of the set.

    A walk for new events ends the lookback below what is complete. One that is already below that
    was told to go on.
    """
    newest, oldest, goal = checkpoint.walk_newest, checkpoint.walk_oldest, checkpoint.complete_to
    if newest is None or oldest is None or goal is None:
        return None
    end = goal - LOOKBACK
    # An event from the future may lie above where the walk is said to begin.
    return max(0.0, (newest - oldest) / (newest - end)) if min(newest, oldest) > end else None
