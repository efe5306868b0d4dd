"""What the loaded events look like: how many of which type in which hour, and what was rejected.

These are the only questions that go to `events` itself, and they cost the same at any size:

- Up to `EXACT_BLOCKS` blocks (32 MB, some 100,000 events) the table is counted.
- Beyond, every n-th block is read. The rows lie in the order of the walk, which is the order of
  time, so blocks at equal distances are events at equal distances: the bars come out within a few
  percent where `TABLESAMPLE SYSTEM`, which throws dice for each block, is off by 9 % for a day and
  by 40 % for an hour. The planner cannot join a table to a list of blocks, but it can fetch a list
  of row addresses, and addresses without a row cost next to nothing.

No index on `timestamp` is needed, which would cost every insert of a long load.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import class_row

if TYPE_CHECKING:
    import psycopg

EXACT_BLOCKS = 4096
SAMPLED_BLOCKS = 600
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
    run_id: str | None = None
    page: int | None = None


_SIZE = """
    SELECT c.oid::regclass::text, pg_relation_size(c.oid) / current_setting('block_size')::int,
           CASE WHEN c.relpages > 0 AND c.reltuples > 0 THEN c.reltuples / c.relpages END
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = 'events'
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

_REJECTED = """
    SELECT rejected_at, event_id, coalesce(reasons, '[]') AS reasons, left(raw, 500) AS raw,
           run_id, page
    FROM {schema}.rejected_events ORDER BY rejected_at DESC NULLS LAST LIMIT %(limit)s
"""

_REASONS = """
    SELECT reason, count(*)::int
    FROM {schema}.rejected_events, jsonb_array_elements_text(coalesce(reasons, '[]')) AS reason
    GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20
"""


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
    found = connection.execute(_SIZE, {"schema": schema}).fetchone()
    if found is None:
        return Shape()
    _, blocks, density = found
    one_in = 1 if blocks <= exact_blocks else -(-blocks // sampled_blocks)
    # Twice the average is enough for blocks that were filled with short rows; without statistics,
    # which a table of this size gets within a minute, every address is tried.
    rows = (
        _ROWS_PER_BLOCK_AT_MOST
        if density is None
        else min(_ROWS_PER_BLOCK_AT_MOST, int(density * 2) + 8)
    )
    where = sql.SQL(_EVERY_NTH_BLOCK if one_in > 1 else "")
    query = sql.SQL(_COUNT).format(schema=sql.Identifier(schema), where=where)
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
    if not _has_rejected(connection, schema):
        return ()
    with connection.cursor(row_factory=class_row(Rejected)) as cursor:
        query = sql.SQL(_REJECTED).format(schema=sql.Identifier(schema))
        return tuple(cursor.execute(query, {"limit": limit}).fetchall())


def read_reasons(connection: psycopg.Connection[Any], schema: str) -> dict[str, int]:
    """Count the rejected events by reason, the most frequent first."""
    if not _has_rejected(connection, schema):
        return {}
    query = sql.SQL(_REASONS).format(schema=sql.Identifier(schema))
    return dict(connection.execute(query).fetchall())


def _has_rejected(connection: psycopg.Connection[Any], schema: str) -> bool:
    query = "SELECT to_regclass(format('%%I.rejected_events', %s::text)) IS NOT NULL"
    row = connection.execute(query, (schema,)).fetchone()
    return bool(row and row[0])
