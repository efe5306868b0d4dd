"""The loaded events by type and hour, and the rejected events.

These are the only queries of `events` and `rejected_events`. They take about the same time at any
size, and need no index on `timestamp`, which would slow down every insert of a long load:

- Up to `EXACT_BLOCKS` blocks (32 MB, some 100,000 events) the table is counted.
- Beyond that, every n-th block is read. The rows lie in the order of the scan, which is the order
  of time, so the result is within a few percent; `TABLESAMPLE SYSTEM`, which draws blocks at
  random, is off by 9 % for a day and 40 % for an hour. The rows are fetched by their address
  (ctid); in a partitioned table, by the same addresses in each partition.
- The newest `REJECTED` rejected events are read, from the last `REJECTED_BLOCKS` blocks (4 MB) of
  the table, where new rows lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from psycopg import sql

from datasync_monitor.database import in_schema, read_dicts, read_rows, table_size

if TYPE_CHECKING:
    import psycopg

EXACT_BLOCKS = 4096
SAMPLED_BLOCKS = 600
REJECTED = 1000
REJECTED_BLOCKS = 512
_MAX_ROWS_PER_BLOCK = 290  # 8 kB less the header, over the smallest possible row


@dataclass(frozen=True, slots=True)
class HourlyCount:
    """Events of one type in one hour (UTC); `hour` is None for events without a timestamp."""

    hour: datetime | None
    type: str
    events: int


@dataclass(frozen=True, slots=True)
class EventStats:
    """Events by type and hour. Every `sampling_interval`-th block was read; 1 for all."""

    sampling_interval: int = 1
    counts: tuple[HourlyCount, ...] = ()

    @property
    def events(self) -> int:
        """All events, counted or estimated."""
        return sum(count.events for count in self.counts)

    def by_type(self) -> dict[str, int]:
        """Return the events of each type, the most frequent first."""
        sums: dict[str, int] = {}
        for count in self.counts:
            sums[count.type] = sums.get(count.type, 0) + count.events
        return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))

    def over_time(self) -> tuple[timedelta, dict[tuple[datetime, str], int]]:
        """Return the width of an interval, and the events of each interval and type.

        An interval is an hour, or longer where there are more than `_MAX_INTERVALS`.
        """
        hours = [count.hour for count in self.counts if count.hour is not None]
        length = max(hours) - min(hours) if hours else timedelta(0)
        width = timedelta(
            hours=next(
                (h for h in (1, 3, 6, 12) if length / timedelta(hours=h) <= _MAX_INTERVALS), 24
            )
        )
        sums: dict[tuple[datetime, str], int] = {}
        for count in self.counts:
            if count.hour is not None:
                key = (count.hour - (count.hour - _MIDNIGHT) % width, count.type)
                sums[key] = sums.get(key, 0) + count.events
        return width, sums


_MAX_INTERVALS = 60
_MIDNIGHT = datetime.fromisoformat("2000-01-01T00:00:00+00:00")


_COUNT = """
    SELECT date_bin('1 hour', timestamp, 'epoch') AS hour, coalesce(type, '(none)') AS type,
           count(*) * %(interval)s::bigint AS events
    FROM {schema}.events{where} GROUP BY 1, 2
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
     FROM {schema}.rejected_events WHERE ctid >= %(start)s::tid
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


def read_event_stats(
    connection: psycopg.Connection[Any],
    schema: str,
    *,
    exact_blocks: int = EXACT_BLOCKS,
    sampled_blocks: int = SAMPLED_BLOCKS,
) -> EventStats:
    """Count the events by type and hour: all, or a sample."""
    size = table_size(connection, schema, "events")
    if size is None:
        return EventStats()
    interval = 1 if size.blocks <= exact_blocks else -(-size.blocks // sampled_blocks)
    # Twice the average suffices for blocks of short rows. Without statistics, which a table of this
    # size gets within a minute, every possible address is tried.
    rows = (
        _MAX_ROWS_PER_BLOCK
        if size.rows_per_block is None
        else min(_MAX_ROWS_PER_BLOCK, int(size.rows_per_block * 2) + 8)
    )
    query = in_schema(schema, _COUNT, where=sql.SQL(_EVERY_NTH_BLOCK if interval > 1 else ""))
    values = {"blocks": size.largest_partition_blocks, "interval": interval, "rows": rows}
    counts = read_rows(connection, HourlyCount, query, values)
    return EventStats(
        interval, tuple(sorted(counts, key=lambda count: (count.hour or _MIDNIGHT, count.type)))
    )


def read_rejected(
    connection: psycopg.Connection[Any],
    schema: str,
    *,
    newest: int = 50,
    counted: int = REJECTED,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Count the newest rejected events by error, and read some of them, newest first."""
    start = _start_of_newest(connection, schema)
    if start is None:
        return [], []
    return (
        read_dicts(connection, in_schema(schema, _ERRORS), {"start": start, "limit": counted}),
        read_dicts(connection, in_schema(schema, _REJECTED), {"start": start, "limit": newest}),
    )


def _start_of_newest(connection: psycopg.Connection[Any], schema: str) -> str | None:
    """Return the address from which rejected events are read; None where there is no table."""
    size = table_size(connection, schema, "rejected_events")
    if size is None:
        return None
    return f"({max(0, size.largest_partition_blocks - REJECTED_BLOCKS)},0)"
