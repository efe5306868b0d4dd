"""What the load did over time: runs, pace, budget, waits and faults, all from the table `pages`.

`pages` has one row for up to 5,000 events: 600 rows for 3,000,000. Reading all of it costs less
than reading one thousandth of `events`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from psycopg.rows import class_row

from datasync_monitor.database import has_table, in_schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg

BARS = 90
"""Points of a chart over time, at most."""

_WIDTHS_S = (5, 15, 60, 300, 900, 3600, 6 * 3600, 86_400, 7 * 86_400)


@dataclass(frozen=True, slots=True)
class Run:
    """One process of the tap that brought at least one page."""

    run_id: str
    started: datetime
    ended: datetime
    outcome: str
    """`finished`, `open` (the newest run of an open walk), or `cut off` (another run went on)."""
    pages: int
    events: int
    emitted: int
    rejected: int
    retries: int
    waited: float


@dataclass(frozen=True, slots=True)
class Slice:
    """The pages of one stretch of time. `rate` is in events per second, `waited` in seconds."""

    at: datetime
    pages: int
    rate: float
    waited: float
    budget_remaining: int | None


@dataclass(frozen=True, slots=True)
class Fault:
    """Requests that had to be repeated, for one cause, in one stretch of time."""

    at: datetime
    cause: str
    retries: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """A chart's worth of the load's history, in stretches of equal `width`."""

    width: timedelta
    slices: tuple[Slice, ...] = ()
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over every page that was ever received. `waited` is in seconds."""

    runs: int = 0
    pages: int = 0
    events: int = 0
    emitted: int = 0
    skipped: int = 0
    rejected: int = 0
    bytes: int = 0
    waited: float = 0.0
    retries: Mapping[str, int] = field(default_factory=dict)


# The page that ends a walk is the one after which the tap keeps no cursor. A page that was not
# counted (see `facts.Page.counted`) has none either, but ends nothing. A run may end one walk and
# be cut off in the next, so its last page decides.
_RUNS = """
    SELECT run_id, min(requested_at) AS started, max(received_at) AS ended,
           CASE WHEN (array_agg(cursor_expires_at IS NULL AND total_events IS NOT NULL
                                AND events_seen >= events ORDER BY page DESC))[1] THEN 'finished'
                WHEN max(received_at) = (SELECT max(received_at) FROM {schema}.pages) THEN 'open'
                ELSE 'cut off' END AS outcome,
           count(*)::int AS pages, coalesce(sum(events), 0)::bigint AS events,
           coalesce(sum(emitted), 0)::bigint AS emitted,
           coalesce(sum(rejected), 0)::int AS rejected,
           coalesce(sum((SELECT sum(n::int) FROM jsonb_each_text(retries) AS r(cause, n))), 0)::int
               AS retries,
           coalesce(sum(waited), 0)::float8 AS waited
    FROM {schema}.pages GROUP BY run_id ORDER BY started DESC LIMIT %(limit)s
"""

_SPAN = (
    "SELECT min(requested_at), max(received_at) FROM {schema}.pages WHERE received_at >= %(since)s"
)

_SLICES = """
    WITH grid AS (
        SELECT generate_series(date_bin(%(width)s, %(first)s, 'epoch'), %(last)s, %(width)s) AS at
    ), binned AS (
        SELECT date_bin(%(width)s, received_at, 'epoch') AS at, count(*)::int AS pages,
               sum(events)::float8 / extract(epoch FROM %(width)s::interval)::float8 AS rate,
               sum(waited)::float8 AS waited, min(budget_remaining) AS budget_remaining
        FROM {schema}.pages WHERE received_at >= %(since)s GROUP BY 1
    )
    SELECT grid.at, coalesce(pages, 0) AS pages, coalesce(rate, 0) AS rate,
           coalesce(waited, 0) AS waited, budget_remaining
    FROM grid LEFT JOIN binned USING (at) ORDER BY grid.at
"""

_FAULTS = """
    SELECT date_bin(%(width)s, received_at, 'epoch') AS at, cause, sum(n::int)::int AS retries
    FROM {schema}.pages, jsonb_each_text(retries) AS r(cause, n)
    WHERE received_at >= %(since)s GROUP BY 1, 2 ORDER BY 1, 2
"""


_SUMS = """
    SELECT count(DISTINCT run_id)::int AS runs, count(*)::int AS pages,
           coalesce(sum(events), 0)::bigint AS events, coalesce(sum(emitted), 0)::bigint AS emitted,
           coalesce(sum(skipped), 0)::bigint AS skipped,
           coalesce(sum(rejected), 0)::bigint AS rejected,
           coalesce(sum(bytes), 0)::bigint AS bytes, coalesce(sum(waited), 0)::float8 AS waited,
           coalesce((SELECT jsonb_object_agg(cause, n) FROM (
               SELECT cause, sum(n::int)::int AS n
               FROM {schema}.pages, jsonb_each_text(retries) AS r(cause, n) GROUP BY cause
           ) AS by_cause), '{{}}') AS retries
    FROM {schema}.pages
"""


def read_totals(connection: psycopg.Connection[Any], schema: str) -> Totals:
    """Sum all pages up; nothing, where the table is not there yet."""
    if not has_table(connection, schema, "pages"):
        return Totals()
    with connection.cursor(row_factory=class_row(Totals)) as cursor:
        return cursor.execute(in_schema(schema, _SUMS)).fetchone() or Totals()


def read_runs(connection: psycopg.Connection[Any], schema: str, limit: int = 20) -> tuple[Run, ...]:
    """Read the newest runs, newest first."""
    if not has_table(connection, schema, "pages"):
        return ()
    with connection.cursor(row_factory=class_row(Run)) as cursor:
        return tuple(cursor.execute(in_schema(schema, _RUNS), {"limit": limit}).fetchall())


def read_timeline(
    connection: psycopg.Connection[Any], schema: str, since: datetime, until: datetime
) -> Timeline:
    """Read the pages received since `since`, in at most about `BARS` stretches.

    After the last page the chart goes on to `until`, but for five minutes at most.
    """
    span: Any = None
    if has_table(connection, schema, "pages"):
        span = connection.execute(in_schema(schema, _SPAN), {"since": since}).fetchone()
    if span is None or span[0] is None:
        return Timeline(timedelta(seconds=_WIDTHS_S[0]))
    first, last = max(span[0], since), max(span[1], min(until, span[1] + timedelta(minutes=5)))
    width = bar_width(last - first)
    values = {"since": since, "first": first, "last": last, "width": width}
    with connection.cursor(row_factory=class_row(Slice)) as cursor:
        slices = tuple(cursor.execute(in_schema(schema, _SLICES), values).fetchall())
    with connection.cursor(row_factory=class_row(Fault)) as cursor:
        faults = tuple(cursor.execute(in_schema(schema, _FAULTS), values).fetchall())
    return Timeline(width, slices, faults)


def bar_width(span: timedelta) -> timedelta:
    """Choose a round width of which at most `BARS` cover `span`."""
    seconds = span.total_seconds()
    return timedelta(
        seconds=next((width for width in _WIDTHS_S if seconds / width <= BARS), _WIDTHS_S[-1])
    )
