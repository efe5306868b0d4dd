"""What the tables say, read as it stands: the rows behind the progress, without judgement.

Nothing here touches the table `events`: the checkpoint and one row a page are enough, and they
stay small (600 pages for 3,000,000 events).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from psycopg.rows import class_row

from datasync_monitor.database import has_table, in_schema

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import psycopg

RECENT_PAGES = 240
"""Pages read for the pace: five minutes under the API's limit and more, and a bound without one."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The one row of `checkpoint`: where the walk stands."""

    updated_at: datetime
    walk_open: bool = False
    cursor_expires_at: datetime | None = None
    walk_newest: datetime | None = None
    walk_oldest: datetime | None = None
    complete_to: datetime | None = None
    events_seen: int | None = None
    events_emitted: int | None = None
    total_events: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One row of `pages`: one answer of the API. `waited` is in seconds, since the page before."""

    run_id: str
    page: int
    requested_at: datetime
    received_at: datetime
    events: int
    waited: float = 0.0
    budget_limit: int | None = None
    budget_remaining: int | None = None
    budget_reset: int | None = None
    cursor_expires_at: datetime | None = None
    events_seen: int = 0
    total_events: int | None = None

    @property
    def counted(self) -> bool:
        """Whether the walk goes on, or ends, behind this page.

        It does not where a run fails on the first page of a walk, or starts the walk over: then
        the row tells of a walk that has seen nothing, not even this page, and knows no total.
        """
        return self.total_events is not None and self.events_seen >= self.events


@dataclass(frozen=True, slots=True)
class WalkTotals:
    """Sums over all pages of the newest walk, over all its restarts.

    `window` is the longest `budget_reset` of the last day, in seconds: a walk that begins on a
    spent budget sees only short ones at first.
    """

    pages: int = 0
    runs: int = 0
    rejected: int = 0
    window: int | None = None
    started_at: datetime | None = None
    retries: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """One reading of the database. `pages` are the newest of the walk, oldest first."""

    now: datetime
    checkpoint: Checkpoint | None = None
    totals: WalkTotals = WalkTotals()
    pages: tuple[Page, ...] = ()
    in_table: int | None = None


_CHECKPOINT = """
    SELECT updated_at, coalesce(walk_open, false) AS walk_open, cursor_expires_at, walk_newest,
           walk_oldest, complete_to, events_seen, events_emitted, total_events
    FROM {schema}.checkpoint WHERE id = 1
"""

# A walk begins with the page that has seen no event but its own. The tap counts events seen over
# the whole walk, so this holds over restarts, and for a page that was asked for twice after a
# crash. Where old pages were deleted, that page may be gone: then all that are left are the walk's.
_WALK = (
    "received_at >= coalesce((SELECT max(received_at) FROM {schema}.pages "
    "WHERE events_seen <= events), '-infinity')"
)

# A day counts back from the newest page: by the tap's clock, which `pages` carries.
_TOTALS = f"""
    SELECT count(*)::int AS pages, count(DISTINCT run_id)::int AS runs,
           coalesce(sum(rejected), 0)::int AS rejected,
           (SELECT max(budget_reset) FROM {{schema}}.pages WHERE received_at >= (
               SELECT max(received_at) - interval '1 day' FROM {{schema}}.pages)) AS window,
           min(requested_at) AS started_at,
           coalesce((SELECT jsonb_object_agg(cause, n) FROM (
               SELECT cause, sum(value::int)::int AS n
               FROM {{schema}}.pages, jsonb_each_text(retries) AS r(cause, value)
               WHERE {_WALK} GROUP BY cause) AS by_cause), '{{{{}}}}') AS retries
    FROM {{schema}}.pages WHERE {_WALK}
"""  # noqa: S608 - joined from constants of this module

_RECENT = f"""
    SELECT run_id, page, requested_at, received_at, events, waited::float8 AS waited,
           budget_limit, budget_remaining, budget_reset, cursor_expires_at, events_seen,
           total_events
    FROM {{schema}}.pages WHERE {_WALK}
    ORDER BY received_at DESC, page DESC LIMIT {RECENT_PAGES}
"""  # noqa: S608 - joined from constants of this module

# The statistics' estimate: a count of 3,000,000 rows would cost more than all the rest together.
_IN_TABLE = """
    SELECT greatest(s.n_live_tup, c.reltuples::bigint)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN pg_stat_user_tables AS s ON s.relid = c.oid
    WHERE n.nspname = %(schema)s AND c.relname = 'events'
"""


def read_facts(connection: psycopg.Connection[Any], schema: str = "public") -> Facts:
    """Read all that the progress is made of, in a few milliseconds.

    A database without the tables, or with empty ones, is a fact too, not an error.

    Raises:
        psycopg.Error: see `database.translated`.
    """
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has a row
    checkpoint: Checkpoint | None = None
    totals, pages = WalkTotals(), tuple[Page, ...]()
    if has_table(connection, schema, "checkpoint"):
        with connection.cursor(row_factory=class_row(Checkpoint)) as cursor:
            checkpoint = cursor.execute(in_schema(schema, _CHECKPOINT)).fetchone()
    if has_table(connection, schema, "pages"):
        with connection.cursor(row_factory=class_row(WalkTotals)) as summing:
            totals = summing.execute(in_schema(schema, _TOTALS)).fetchone() or totals
        with connection.cursor(row_factory=class_row(Page)) as reading:
            pages = tuple(reversed(reading.execute(in_schema(schema, _RECENT)).fetchall()))
    estimate = connection.execute(_IN_TABLE, {"schema": schema}).fetchone()
    in_table = (
        None if estimate is None or estimate[0] is None or estimate[0] < 0 else int(estimate[0])
    )
    return Facts(now=row[0], checkpoint=checkpoint, totals=totals, pages=pages, in_table=in_table)
