"""What counts as alive. The database cannot see a process, so the judgement rests on what moved.

A walk is open or it is not: the checkpoint says so. An open walk is alive while its checkpoint or
its pages move. Silence is judged against what was announced: while the API's limit is known to
hold the tap back, silence is waiting; after that, the tap has `patience` to ask, receive and load
one page. A walk that is silent for longer is stuck, whether its process hangs, is gone, or gets no
answer from the API.
"""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from datasync_monitor.facts import Facts
    from datasync_monitor.pace import Budget

PATIENCE = timedelta(seconds=360)
"""Longer than the retries of one page, of which no table tells before that page comes: 8 tries of
30 s and the pauses between them, 331 s. Longer than a cursor lives (120 s), too: after such a
silence the walk's place is lost as well."""


class State(str, Enum):
    """The state of the load, as the tables tell it."""

    IDLE = "idle"
    """Nothing was ever loaded, and no walk is open."""
    RUNNING = "running"
    WAITING = "waiting"
    """Held back by the API's limit, until a known moment."""
    STUCK = "stuck"
    FINISHED = "finished"

    def __str__(self) -> str:
        return self.value

    @property
    def healthy(self) -> bool:
        """Whether nobody has to look."""
        return self is not State.STUCK


def moved_at(facts: Facts) -> datetime | None:
    """When anything last moved: the checkpoint or a page, whichever is later."""
    moments = [facts.checkpoint.updated_at] if facts.checkpoint else []
    if facts.pages:
        moments.append(facts.pages[-1].received_at)
    return max(moments, default=None)


def begun(facts: Facts, since: datetime | None) -> bool:
    """Whether the run that began at `since` has loaded a page; True where no run is known of.

    The checkpoint tells, where there is one: the database's clock writes it, as it tells `since`.
    """
    if since is None:
        return True
    if facts.checkpoint is not None:
        return facts.checkpoint.updated_at >= since
    return bool(facts.pages) and facts.pages[-1].received_at >= since


def judge(
    facts: Facts,
    now: datetime,
    limit: Budget | None,
    *,
    patience: timedelta = PATIENCE,
    since: datetime | None = None,
) -> State:
    """Name the state.

    Args:
        facts: one reading of the database.
        now: the moment to judge at.
        limit: the API's request limit, where it is known.
        patience: how long silence is allowed beyond every announced wait.
        since: the start, by the database's clock, of a run that the caller knows of. What is older
            says nothing about that run: it is running until it had its own `patience` without a
            page.
    """
    moved = moved_at(facts)
    if moved is None:
        if since is None:
            return State.IDLE
        return State.RUNNING if now - since <= patience else State.STUCK
    if _ended(facts) and begun(facts, since):
        return State.FINISHED
    if since is not None:
        moved = max(moved, since)
    if limit is not None and limit.wait(now):
        return State.WAITING
    allowed_from = moved if limit is None or limit.remaining > 0 else max(moved, limit.reset_at)
    return State.RUNNING if now - allowed_from <= patience else State.STUCK


def _ended(facts: Facts) -> bool:
    """Whether the last walk came to its end.

    No walk is open then; but neither is one that failed on its first page, or starts over.
    """
    if facts.checkpoint is None or facts.checkpoint.walk_open:
        return False
    return not facts.pages or facts.pages[-1].counted
