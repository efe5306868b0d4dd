"""The progress of the load: everything that is shown, derived from one reading of the tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING, Any

from datasync_monitor import distance, pace, words
from datasync_monitor.facts import Page, read_facts
from datasync_monitor.health import PATIENCE, State, begun, judge, moved_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    import psycopg

    from datasync_monitor.facts import Facts
    from datasync_monitor.pace import Budget

__all__ = ["Progress", "State", "derive", "read_progress"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far, how fast, how long still, and whether it is alive, at the moment `now`.

    `seen` and `pages` count this walk over all its restarts; events that were already loaded are
    seen too, because the walk has to pass them. `rate` is in events per second. `starting` is set
    until the run that the caller knows of has loaded its first page.
    """

    state: State
    now: datetime
    seen: int = 0
    emitted: int = 0
    total: int | None = None
    fraction: float | None = None
    catching_up: bool = False
    starting: bool = False
    rate: float | None = None
    eta: timedelta | None = None
    pages: int = 0
    rejected: int = 0
    restarts: int = 0
    retries: Mapping[str, int] = field(default_factory=dict)
    budget: Budget | None = None
    cursor_expires_at: datetime | None = None
    moved_at: datetime | None = None
    checkpoint_at: datetime | None = None
    started_at: datetime | None = None
    complete_to: datetime | None = None
    in_table: int | None = None
    last_page: Page | None = None

    @property
    def cursor_life(self) -> timedelta | None:
        """How long the open walk's place can still be used; zero when it is lost."""
        if self.cursor_expires_at is None or self.state in {State.IDLE, State.FINISHED}:
            return None
        return max(timedelta(0), self.cursor_expires_at - self.now)

    @property
    def checkpoint_age(self) -> timedelta | None:
        """How long ago the checkpoint was last written."""
        return (
            None if self.checkpoint_at is None else max(timedelta(0), self.now - self.checkpoint_at)
        )

    @property
    def silence(self) -> timedelta | None:
        """How long nothing has moved."""
        return None if self.moved_at is None else max(timedelta(0), self.now - self.moved_at)

    @property
    def amount(self) -> str:
        """How far, in events: `65,000 of 100,000 events`."""
        if self.catching_up:
            return f"{words.count(self.seen)} new events"
        if self.total is None or self.state is State.FINISHED:
            return f"{words.count(self.seen)} events"
        return f"{words.count(self.seen)} of {words.count(self.total)} events"

    @property
    def activity(self) -> str:
        """What is going on in this moment, in a few words."""
        if self.state is State.STUCK:
            return (
                f"nothing has moved for {words.duration(self.silence)}"
                if self.silence
                else "nothing has come yet"
            )
        wait = self.budget.wait(self.now) if self.budget else None
        if self.state is State.WAITING and wait:
            whole = timedelta(seconds=ceil(wait.total_seconds()))
            return f"waiting {words.duration(whole)} for the API's limit"
        if self.state is State.FINISHED:
            return (
                f"everything up to {self.complete_to:%Y-%m-%d %H:%M:%S} UTC is loaded"
                if self.complete_to
                else "done"
            )
        if self.state is State.IDLE:
            return "nothing loaded yet"
        if self.starting or self.last_page is None:
            return "asking for the first page"
        if self.budget is None:
            return "the API names no limit"
        if self.budget.remaining == 0:
            return "asking for the next page"
        return f"{self.budget.remaining} of {words.plural(self.budget.limit, 'request')} left"

    @property
    def headline(self) -> str:
        """The state and how far, in one line."""
        if self.state is State.IDLE:
            return f"{self.state}: {self.activity}"
        if self.state is State.FINISHED:
            return f"{self.state}: {self.amount} in the last walk, {self.activity}"
        share = "" if self.fraction is None else f", {words.percent(self.fraction)}"
        return f"{self.state}: {self.amount}{share}, {self.activity}"


def read_progress(
    connection: psycopg.Connection[Any],
    *,
    schema: str = "public",
    clock: Callable[[], datetime] | None = None,
    since: datetime | None = None,
    patience: timedelta = PATIENCE,
) -> Progress:
    """Read the tables and derive the progress.

    Args:
        connection: from `database.connect`, or any psycopg connection in autocommit mode.
        schema: where the tables are.
        clock: the aware current time; None takes the database's, by which the checkpoint is
            written. `pages` carries the clock of the tap: where the two differ, pace, time left
            and the wait for the limit are off by as much.
        since: the start of a run that the caller knows of; see `health.judge`.
        patience: how long silence is allowed beyond every announced wait.

    Raises:
        psycopg.Error: see `database.translated`.
    """
    facts = read_facts(connection, schema)
    return derive(facts, clock() if clock else facts.now, since=since, patience=patience)


def derive(
    facts: Facts, now: datetime, *, since: datetime | None = None, patience: timedelta = PATIENCE
) -> Progress:
    """Derive the progress at `now` from one reading. No input, no output, no clock."""
    checkpoint, pages, totals = facts.checkpoint, facts.pages, facts.totals
    last = pages[-1] if pages else None
    place = checkpoint or last
    limit = pace.budget(pages, totals.window)
    state = judge(facts, now, limit, patience=patience, since=since)
    moved = moved_at(facts)
    starting = not begun(facts, since)
    if moved is None or (starting and checkpoint is not None and not checkpoint.walk_open):
        return Progress(
            state=state, now=now, starting=starting, in_table=facts.in_table, moved_at=moved
        )
    way = distance.measure(facts, finished=state is State.FINISHED)
    # A walk that does not move has no honest answer.
    moving = state in {State.RUNNING, State.WAITING}
    left = way.pages_left if moving else None
    eta = None if left is None else pace.eta(pages, left, now, limit)
    until = last.received_at if last and state in {State.FINISHED, State.STUCK} else now
    return Progress(
        state=state,
        now=now,
        seen=way.seen,
        emitted=(checkpoint.events_emitted if checkpoint else None) or 0,
        total=way.total,
        fraction=way.fraction,
        catching_up=way.catching_up,
        starting=starting,
        rate=pace.rate(pages, until),
        eta=eta,
        pages=totals.pages,
        rejected=totals.rejected,
        restarts=max(0, totals.runs - 1),
        retries=totals.retries,
        budget=limit,
        cursor_expires_at=place.cursor_expires_at if place else None,
        moved_at=moved,
        checkpoint_at=checkpoint.updated_at if checkpoint else None,
        started_at=totals.started_at,
        complete_to=checkpoint.complete_to if checkpoint else None,
        in_table=facts.in_table,
        last_page=last,
    )
