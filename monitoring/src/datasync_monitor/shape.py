"""What the loaded events look like: how many of which type in which hour, and what was rejected.

These are the only questions that go to `events` and `rejected_events` themselves, and they cost the
same at any size:

- Up to `EXACT_BLOCKS` blocks (32 MB, some 100,000 events) the table is counted.
- Beyond, every n-th block is read. The rows lie in the order of the walk, which is the order of
  time, so blocks at equal distances are events at equal distances: the bars come out within a few
  percent where `TABLESAMPLE SYSTEM`, which throws dice for each block, is off by 9 % for a day and
  by 40 % for an hour. The planner cannot join a table to a list of blocks, but it can fetch a list
  of row addresses, and addresses without a row cost next to nothing.
- Of the rejected events the newest `REJECTED` are looked at. New rows lie at the end of the table,
  so its last `REJECTED_BLOCKS` blocks (4 MB) are read for them, and no index is needed.

No index on `timestamp` is needed, which would cost every insert of a long load.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import class_row

from datasync_monitor.database import in_schema

if TYPE_CHECKING:
    import psycopg

EXACT_BLOCKS = 4096
SAMPLED_BLOCKS = 600
REJECTED = 1000
REJECTED_BLOCKS = 512
_ROWS_PER_BLOCK_AT_MOST = 290  # 8 kB less the header, over the smallest possible row


@dataclass(frozen=True, slots=True)
class Count:
    """Events of one type in one hour (UTC); `hour` is None where the time is not known."""

    hour: datetime | None
    type: str
    events: int


@dataclass(frozen=True, slots=True)
class Shape:
    """How the events spread over types and hours. `one_in` is 1 where all of them were counted."""

    one_in: int = 1
    counts: tuple[Count, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether every row was counted."""
        return self.one_in == 1

    @property
    def events(self) -> int:
        """All events, counted or estimated."""
        return sum(count.events for count in self.counts)

    def by_type(self) -> dict[str, int]:
        """Sum by type, the most frequent first."""
        sums: dict[str, int] = {}
        for count in self.counts:
            sums[count.type] = sums.get(count.type, 0) + count.events
        return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))

    def over_time(self) -> tuple[timedelta, dict[tuple[datetime, str], int]]:
        """Sum by stretch of time and type; stretches of an hour, or longer where there are many."""
        hours = [count.hour for count in self.counts if count.hour is not None]
        span = max(hours) - min(hours) if hours else timedelta(0)
        width = timedelta(
            hours=next((h for h in (1, 3, 6, 12) if span / timedelta(hours=h) <= _BARS), 24)
        )
        sums: dict[tuple[datetime, str], int] = {}
        for count in self.counts:
            if count.hour is not None:
                key = (count.hour - (count.hour - _MIDNIGHT) % width, count.type)
                sums[key] = sums.get(key, 0) + count.events
        return width, sums


_BARS = 60
_MIDNIGHT = datetime.fromisoformat("2000-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Rejected:
    """One row of `rejected_events`, its text cut short."""

    rejected_at: datetime | None
    event_id: str | None
    reasons: list[str] = field(default_factory=list)
    raw: str = ""
    page: int | None = None


_SIZE = """
    SELECT pg_relation_size(c.oid) / current_setting('block_size')::int,
           CASE WHEN c.relpages > 0 AND c.reltuples > 0 THEN c.reltuples / c.relpages END
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = %(table)s
"""

_COUNT = """
    SELECT date_bin('1 hour', timestamp, 'epoch') AS hour, coalesce(type, '(none)') AS type,
           count(*) * %(one_in)s::bigint AS events
    FROM {schema}.events{where} GROUP BY 1, 2
"""

_EVERY_NTH_BLOCK = """
    WHERE ctid = ANY (ARRAY(
        SELECT format('(%%s,%%s)', block, row)::tid
        FROM generate_series(0, %(blocks)s::bigint - 1, %(one_in)s::bigint) AS block,
             generate_series(1, %(rows)s::int) AS row))
"""

# The text is cut behind the limit: before it, long texts would be fetched for all rows.
_NEWEST_REJECTED = """
    (SELECT rejected_at, event_id, reasons, raw, page
     FROM {schema}.rejected_events WHERE ctid >= %(start)s::tid
     ORDER BY rejected_at DESC NULLS LAST LIMIT %(limit)s) AS newest
"""

_REJECTED = f"""
    SELECT rejected_at, event_id, coalesce(reasons, '[]') AS reasons, left(raw, 500) AS raw, page
    FROM {_NEWEST_REJECTED} ORDER BY rejected_at DESC NULLS LAST
"""  # noqa: S608 - joined from constants of this module

_REASONS = f"""
    SELECT reason, count(*)::int
    FROM {_NEWEST_REJECTED}, jsonb_array_elements_text(coalesce(reasons, '[]')) AS reason
    GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20
"""  # noqa: S608 - joined from constants of this module


def read_shape(
    connection: psycopg.Connection[Any],
    schema: str,
    *,
    exact_blocks: int = EXACT_BLOCKS,
    sampled_blocks: int = SAMPLED_BLOCKS,
) -> Shape:
    """Count the events by type and hour, all of them or a sample; under 200 ms either way.

    A table that is not there has no events.
    """
    found = _size(connection, schema, "events")
    if found is None:
        return Shape()
    blocks, density = found
    one_in = 1 if blocks <= exact_blocks else -(-blocks // sampled_blocks)
    # Twice the average is enough for blocks that were filled with short rows; without statistics,
    # which a table of this size gets within a minute, every address is tried.
    rows = (
        _ROWS_PER_BLOCK_AT_MOST
        if density is None
        else min(_ROWS_PER_BLOCK_AT_MOST, int(density * 2) + 8)
    )
    where = sql.SQL(_EVERY_NTH_BLOCK if one_in > 1 else "")
    query = in_schema(schema, _COUNT, where=where)
    with connection.cursor(row_factory=class_row(Count)) as cursor:
        counts = cursor.execute(
            query, {"blocks": blocks, "one_in": one_in, "rows": rows}
        ).fetchall()
    return Shape(
        one_in, tuple(sorted(counts, key=lambda count: (count.hour or _MIDNIGHT, count.type)))
    )


def read_rejected(
    connection: psycopg.Connection[Any], schema: str, limit: int = 50
) -> tuple[Rejected, ...]:
    """Read the newest rejected events."""
    start = _start_of_newest(connection, schema)
    if start is None:
        return ()
    with connection.cursor(row_factory=class_row(Rejected)) as cursor:
        query = in_schema(schema, _REJECTED)
        return tuple(cursor.execute(query, {"start": start, "limit": limit}).fetchall())


def read_reasons(
    connection: psycopg.Connection[Any], schema: str, limit: int = REJECTED
) -> dict[str, int]:
    """Count the newest rejected events by reason, the most frequent first."""
    start = _start_of_newest(connection, schema)
    if start is None:
        return {}
    query = in_schema(schema, _REASONS)
    return dict(connection.execute(query, {"start": start, "limit": limit}).fetchall())


def _start_of_newest(connection: psycopg.Connection[Any], schema: str) -> str | None:
    """Give the address from which rejected events are read; None where the table is not there."""
    found = _size(connection, schema, "rejected_events")
    return None if found is None else f"({max(0, found[0] - REJECTED_BLOCKS)},0)"


def _size(
    connection: psycopg.Connection[Any], schema: str, table: str
) -> tuple[int, float | None] | None:
    """Blocks of a table, and the rows in one as far as statistics know; None without the table."""
    return connection.execute(_SIZE, {"schema": schema, "table": table}).fetchone()
