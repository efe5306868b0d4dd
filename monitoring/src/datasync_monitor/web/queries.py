"""The queries of the dashboard: the load over time, and the loaded and rejected events.

Those of the load read `pages`, which has one row for up to 5,000 events: 600 rows for 3,000,000.
The other two are the only queries of `events` and `rejected_events`. They take about the same time
at any size, and need no index on `timestamp`, which would slow down every insert of a long load:

- Up to `EXACT_BLOCKS` blocks (32 MB, some 100,000 events) the table `events` is counted.
- Beyond that, every n-th block is read. The rows lie in the order of the scan, which is the order
  of time, so the result is within a few percent; `TABLESAMPLE SYSTEM`, which draws blocks at
  random, is off by 9 % for a day and 40 % for an hour. The rows are fetched by their address
  (ctid); in a partitioned table, by the same addresses in each partition.
- The newest `REJECTED` rejected events are read, from the last `REJECTED_BLOCKS` blocks (4 MB) of
  the table, where new rows lie.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row

from datasync_monitor.database import has_table, table_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

EXACT_BLOCKS = 4096
SAMPLED_BLOCKS = 600
REJECTED = 1000
REJECTED_BLOCKS = 512
_MAX_ROWS_PER_BLOCK = 290  # 8 kB less the header, over the smallest possible row

MAX_BUCKETS = 90
"""Points of a chart over time, at most."""
_BUCKET_SECONDS = (5, 15, 60, 300, 900, 3600, 6 * 3600, 86_400, 7 * 86_400)
_MAX_INTERVALS = 60
"""Bars of the chart of events over their own time; more, of a day each, beyond 60 days."""
_INTERVAL_SECONDS = (3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400)
_MIDNIGHT = datetime.fromisoformat("2000-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Timeline:
    """The history of the load in intervals of equal `width`, which begin `at` a time.

    `buckets`: at, pages, rate (events per second), wait (seconds), remaining (requests left, or
    None). `retries`: at, cause, retries.
    """

    width: timedelta
    buckets: list[dict[str, Any]] = field(default_factory=list)
    retries: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class EventStats:
    """Events by hour (UTC, None without a timestamp) and type.

    Every `sampling_interval`-th block was read; 1 for all.
    """

    sampling_interval: int = 1
    counts: tuple[tuple[datetime | None, str, int], ...] = ()

    @property
    def events(self) -> int:
        """All events, counted or estimated."""
        return sum(events for _, _, events in self.counts)

    def by_type(self) -> dict[str, int]:
        """Return the events of each type, the most frequent first."""
        sums = Counter[str]()
        for _, name, events in self.counts:
            sums[name] += events
        return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))

    def over_time(self) -> tuple[timedelta, dict[tuple[datetime, str], int]]:
        """Return the width of an interval, and the events of each interval and type.

        An interval is an hour, or longer where there are more than `_MAX_INTERVALS`.
        """
        hours = [hour for hour, _, _ in self.counts if hour is not None]
        length = max(hours) - min(hours) if hours else timedelta(0)
        width = round_width(length, _INTERVAL_SECONDS, _MAX_INTERVALS)
        sums = Counter[tuple[datetime, str]]()
        for hour, name, events in self.counts:
            if hour is not None:
                sums[hour - (hour - _MIDNIGHT) % width, name] += events
        return width, dict(sums)


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
                WHEN max(received_at) = (SELECT max(received_at) FROM pages) THEN 'open'
                ELSE 'interrupted' END AS outcome,
           count(*)::int AS pages, coalesce(sum(events), 0)::bigint AS events,
           coalesce(sum(emitted), 0)::bigint AS emitted,
           coalesce(sum(rejected), 0)::int AS rejected,
           coalesce(sum((SELECT sum(n::int) FROM jsonb_each_text(retries) AS r(cause, n))), 0)::int
               AS retries,
           make_interval(secs => coalesce(sum(rate_limit_wait_seconds), 0)::float8)
               AS rate_limit_wait,
           sync_id
    FROM pages GROUP BY sync_id ORDER BY started_at DESC LIMIT 20
"""

_FIRST_AND_LAST = """
    SELECT min(requested_at), max(received_at) FROM pages WHERE received_at >= %(since)s
"""

_BUCKETS = """
    WITH grid AS (
        SELECT generate_series(date_bin(%(width)s, %(first)s, 'epoch'), %(last)s, %(width)s) AS at
    ), binned AS (
        SELECT date_bin(%(width)s, received_at, 'epoch') AS at, count(*)::int AS pages,
               sum(events)::float8 / extract(epoch FROM %(width)s::interval)::float8 AS rate,
               sum(rate_limit_wait_seconds)::float8 AS wait,
               min(rate_limit_remaining) AS remaining
        FROM pages WHERE received_at >= %(since)s GROUP BY 1
    )
    SELECT grid.at, coalesce(pages, 0) AS pages, coalesce(rate, 0) AS rate,
           coalesce(wait, 0) AS wait, remaining
    FROM grid LEFT JOIN binned USING (at) ORDER BY grid.at
"""

_RETRIES = """
    SELECT date_bin(%(width)s, received_at, 'epoch') AS at, cause, sum(n::int)::int AS retries
    FROM pages, jsonb_each_text(retries) AS r(cause, n)
    WHERE received_at >= %(since)s GROUP BY 1, 2 ORDER BY 1, 2
"""

_COUNT = """
    SELECT date_bin('1 hour', timestamp, 'epoch'), coalesce(type, '(none)'),
           count(*) * %(interval)s::bigint
    FROM events{where} GROUP BY 1, 2 ORDER BY 1, 2
"""

_EVERY_NTH_BLOCK = """
    WHERE ctid = ANY (ARRAY(
        SELECT format('(%%s,%%s)', block, row)::tid
        FROM generate_series(0, %(blocks)s::bigint - 1, %(interval)s::bigint) AS block,
             generate_series(1, %(rows)s::int) AS row))
"""

# The raw event is cut outside: inside, long ones would be fetched for all rows.
_NEWEST_REJECTED = """
    (SELECT rejected_at, event_id, errors, raw_event, page
     FROM rejected_events WHERE ctid >= %(start)s::tid
     ORDER BY rejected_at DESC NULLS LAST LIMIT %(limit)s) AS newest
"""

_REJECTED = f"""
    SELECT rejected_at, coalesce(event_id, '(no id)') AS event_id,
           (SELECT string_agg(error, '; ')
            FROM jsonb_array_elements_text(errors) AS error) AS errors,
           left(raw_event, 500) AS raw_event, page
    FROM {_NEWEST_REJECTED} ORDER BY rejected_at DESC NULLS LAST
"""  # noqa: S608 - joined from constants of this module

_ERRORS = f"""
    SELECT error, count(*)::int AS events
    FROM {_NEWEST_REJECTED}, jsonb_array_elements_text(coalesce(errors, '[]')) AS error
    GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20
"""  # noqa: S608 - joined from constants of this module


def read_syncs(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """Read the newest syncs (processes of the tap that received a page), newest first.

    Their outcome is `finished`, `open` (the newest, of a scan in progress) or `interrupted`.
    """
    if not has_table(connection, "pages"):
        return []
    return connection.cursor(row_factory=dict_row).execute(_SYNCS).fetchall()


def read_timeline(
    connection: psycopg.Connection[Any], since: datetime, until: datetime
) -> Timeline:
    """Read the pages received since `since`, in about `MAX_BUCKETS` intervals at most.

    The timeline continues after the last page up to `until`, but for five minutes at most.
    """
    first_and_last: Any = None
    if has_table(connection, "pages"):
        first_and_last = connection.execute(_FIRST_AND_LAST, {"since": since}).fetchone()
    if first_and_last is None or first_and_last[0] is None:
        return Timeline(timedelta(seconds=_BUCKET_SECONDS[0]))
    first, last_page = max(first_and_last[0], since), first_and_last[1]
    last = max(last_page, min(until, last_page + timedelta(minutes=5)))
    width = round_width(last - first, _BUCKET_SECONDS, MAX_BUCKETS)
    values = {"since": since, "first": first, "last": last, "width": width}
    cursor = connection.cursor(row_factory=dict_row)
    return Timeline(
        width,
        cursor.execute(_BUCKETS, values).fetchall(),
        cursor.execute(_RETRIES, values).fetchall(),
    )


def round_width(length: timedelta, widths: Sequence[int], at_most: int) -> timedelta:
    """Return the first of the `widths` (seconds) of which `at_most` cover `length`, or the last."""
    fitting = (width for width in widths if length / timedelta(seconds=width) <= at_most)
    return timedelta(seconds=next(fitting, widths[-1]))


def read_event_stats(
    connection: psycopg.Connection[Any],
    *,
    exact_blocks: int = EXACT_BLOCKS,
    sampled_blocks: int = SAMPLED_BLOCKS,
) -> EventStats:
    """Count the events by type and hour: all, or a sample."""
    size = table_size(connection, "events")
    if size is None:
        return EventStats()
    interval = 1 if size.blocks <= exact_blocks else -(-size.blocks // sampled_blocks)
    # Twice the average suffices for blocks of short rows. Without statistics, which a table of this
    # size gets within a minute, every possible address is tried.
    rows = _MAX_ROWS_PER_BLOCK
    if size.rows_per_block is not None:
        rows = min(rows, int(size.rows_per_block * 2) + 8)
    query = _COUNT.format(where=_EVERY_NTH_BLOCK if interval > 1 else "")
    values = {"blocks": size.largest_partition_blocks, "interval": interval, "rows": rows}
    return EventStats(interval, tuple(connection.execute(query, values)))


def read_rejected(
    connection: psycopg.Connection[Any],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Count the newest rejected events by error, and read the newest 50, newest first."""
    size = table_size(connection, "rejected_events")
    if size is None:
        return [], []
    start = f"({max(0, size.largest_partition_blocks - REJECTED_BLOCKS)},0)"
    cursor = connection.cursor(row_factory=dict_row)
    return (
        cursor.execute(_ERRORS, {"start": start, "limit": REJECTED}).fetchall(),
        cursor.execute(_REJECTED, {"start": start, "limit": 50}).fetchall(),
    )
