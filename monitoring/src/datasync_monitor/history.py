"""The load over time: syncs, throughput, rate limit and retries, from the table `pages`.

`pages` has one row for up to 5,000 events: 600 rows for 3,000,000.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from datasync_monitor.database import has_table, in_schema, read_dicts

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg

MAX_BUCKETS = 90
"""Points of a chart over time, at most."""

_WIDTHS_SECONDS = (5, 15, 60, 300, 900, 3600, 6 * 3600, 86_400, 7 * 86_400)


@dataclass(frozen=True, slots=True)
class Timeline:
    """The history of the load in intervals of equal `width`, which begin `at` a time.

    `buckets`: at, pages, rate (events per second), wait (seconds), remaining (requests left, or
    None). `retries`: at, cause, retries.
    """

    width: timedelta
    buckets: list[dict[str, Any]] = field(default_factory=list)
    retries: list[dict[str, Any]] = field(default_factory=list)


# After the page that ends a scan there is no cursor, but neither is there after an end that came
# too early and failed the sync: a scan ends where an incremental one was to end, or with all events
# expected but for the deletions that the tap tolerates. The last page of a sync decides.
_SYNCS = """
    SELECT min(requested_at) AS started_at, max(received_at) AS ended_at,
           max(received_at) - min(requested_at) AS duration,
           CASE WHEN (array_agg(
                    cursor_expires_at IS NULL AND (oldest_event_at <= incremental_to OR
                        events_seen >= events_expected - least(1000, events_expected / 100))
                    ORDER BY page DESC))[1] THEN 'finished'
                WHEN max(received_at) = (SELECT max(received_at) FROM {schema}.pages) THEN 'open'
                ELSE 'interrupted' END AS outcome,
           count(*)::int AS pages, coalesce(sum(events), 0)::bigint AS events,
           coalesce(sum(emitted), 0)::bigint AS emitted,
           coalesce(sum(rejected), 0)::int AS rejected,
           coalesce(sum((SELECT sum(n::int) FROM jsonb_each_text(retries) AS r(cause, n))), 0)::int
               AS retries,
           make_interval(secs => coalesce(sum(rate_limit_wait_seconds), 0)::float8)
               AS rate_limit_wait,
           sync_id
    FROM {schema}.pages GROUP BY sync_id ORDER BY started_at DESC LIMIT %(limit)s
"""

_FIRST_AND_LAST = (
    "SELECT min(requested_at), max(received_at) FROM {schema}.pages WHERE received_at >= %(since)s"
)

_BUCKETS = """
    WITH grid AS (
        SELECT generate_series(date_bin(%(width)s, %(first)s, 'epoch'), %(last)s, %(width)s) AS at
    ), binned AS (
        SELECT date_bin(%(width)s, received_at, 'epoch') AS at, count(*)::int AS pages,
               sum(events)::float8 / extract(epoch FROM %(width)s::interval)::float8 AS rate,
               sum(rate_limit_wait_seconds)::float8 AS wait,
               min(rate_limit_remaining) AS remaining
        FROM {schema}.pages WHERE received_at >= %(since)s GROUP BY 1
    )
    SELECT grid.at, coalesce(pages, 0) AS pages, coalesce(rate, 0) AS rate,
           coalesce(wait, 0) AS wait, remaining
    FROM grid LEFT JOIN binned USING (at) ORDER BY grid.at
"""

_RETRIES = """
    SELECT date_bin(%(width)s, received_at, 'epoch') AS at, cause, sum(n::int)::int AS retries
    FROM {schema}.pages, jsonb_each_text(retries) AS r(cause, n)
    WHERE received_at >= %(since)s GROUP BY 1, 2 ORDER BY 1, 2
"""


def read_syncs(
    connection: psycopg.Connection[Any], schema: str, limit: int = 20
) -> list[dict[str, Any]]:
    """Read the newest syncs (processes of the tap that received a page), newest first.

    Their outcome is `finished`, `open` (the newest, of a scan in progress) or `interrupted`.
    """
    if not has_table(connection, schema, "pages"):
        return []
    return read_dicts(connection, in_schema(schema, _SYNCS), {"limit": limit})


def read_timeline(
    connection: psycopg.Connection[Any], schema: str, since: datetime, until: datetime
) -> Timeline:
    """Read the pages received since `since`, in about `MAX_BUCKETS` intervals at most.

    The timeline continues after the last page up to `until`, but for five minutes at most.
    """
    first_and_last: Any = None
    if has_table(connection, schema, "pages"):
        query = in_schema(schema, _FIRST_AND_LAST)
        first_and_last = connection.execute(query, {"since": since}).fetchone()
    if first_and_last is None or first_and_last[0] is None:
        return Timeline(timedelta(seconds=_WIDTHS_SECONDS[0]))
    first, last_page = max(first_and_last[0], since), first_and_last[1]
    last = max(last_page, min(until, last_page + timedelta(minutes=5)))
    width = bucket_width(last - first)
    values = {"since": since, "first": first, "last": last, "width": width}
    return Timeline(
        width,
        read_dicts(connection, in_schema(schema, _BUCKETS), values),
        read_dicts(connection, in_schema(schema, _RETRIES), values),
    )


def bucket_width(length: timedelta) -> timedelta:
    """Return a round width, of which at most `MAX_BUCKETS` cover `length`."""
    widths = (timedelta(seconds=seconds) for seconds in _WIDTHS_SECONDS)
    return next((width for width in widths if length / width <= MAX_BUCKETS), timedelta(days=7))
