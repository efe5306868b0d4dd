"""Events by type and hour, and rejected events: correct, and cheap for large tables."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from datasync_monitor import event_stats
from datasync_monitor.database import in_schema
from datasync_monitor.event_stats import EventStats, read_event_stats, read_rejected
from psycopg import sql
from table_writer import T0, partition_events, write_load

if TYPE_CHECKING:
    from datasync_monitor.database import ReconnectingConnection
    from table_writer import TableWriter


def explain(database: ReconnectingConnection, query: sql.Composed, values: dict[str, Any]) -> str:
    row = database.run(
        lambda c: c.execute(sql.SQL("EXPLAIN (FORMAT JSON) ") + query, values).fetchone()
    )
    return json.dumps(row[0])


@pytest.mark.parametrize("tables", [False, True])
def test_without_events_the_statistics_are_empty(
    database: ReconnectingConnection, request: pytest.FixtureRequest, *, tables: bool
) -> None:
    if tables:
        request.getfixturevalue("writer")
    assert database.run(lambda c: read_event_stats(c, "public")) == EventStats()
    assert database.run(lambda c: read_rejected(c, "public")) == ([], [])


def test_a_small_table_is_counted_exactly(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    write_load(writer, "stuck")
    stats = database.run(lambda c: read_event_stats(c, "public"))
    assert stats.sampling_interval == 1
    by_type = writer.connection.execute("SELECT type, count(*) FROM events GROUP BY 1").fetchall()
    assert stats.by_type() == dict(by_type)
    width, counts = stats.over_time()
    assert width == timedelta(hours=1)
    by_hour = writer.connection.execute(
        "SELECT date_trunc('hour', timestamp), type, count(*) FROM events GROUP BY 1, 2"
    ).fetchall()
    assert counts == {(hour, name): events for hour, name, events in by_hour}


@pytest.mark.parametrize("partitioned", [False, True])
def test_a_large_table_is_sampled_by_its_blocks(
    writer: TableWriter, database: ReconnectingConnection, *, partitioned: bool
) -> None:
    write_load(writer, "finished")
    if partitioned:
        partition_events(writer.connection)
    writer.connection.execute("ANALYZE events")
    stats = database.run(
        lambda c: read_event_stats(c, "public", exact_blocks=50, sampled_blocks=400)
    )
    assert stats.sampling_interval > 5
    assert stats.events == pytest.approx(100_000, rel=0.02)
    assert stats.by_type()["page_view"] == pytest.approx(35_000, rel=0.05)
    where = sql.SQL(event_stats._EVERY_NTH_BLOCK)
    query = in_schema("public", event_stats._COUNT, where=where)
    plan = explain(database, query, {"blocks": 3000, "interval": 100, "rows": 60})
    assert "Tid Scan" in plan
    assert "Seq Scan" not in plan


def test_events_without_timestamp_or_type_are_counted(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    writer.connection.execute(
        "INSERT INTO events (id, type, timestamp) VALUES ('a', NULL, now()), ('b', 'click', NULL)"
    )
    stats = database.run(lambda c: read_event_stats(c, "public"))
    assert stats.by_type() == {"(none)": 1, "click": 1}
    assert sum(stats.over_time()[1].values()) == 1


def test_rejected_events_come_newest_first_with_their_errors(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    write_load(writer, "running")
    errors, rows = database.run(lambda c: read_rejected(c, "public", newest=2))
    assert errors == [
        {"error": "timestamp: cannot be read", "events": 2},
        {"error": "id: missing", "events": 1},
    ]
    assert [row["errors"] for row in rows] == ["timestamp: cannot be read"] * 2
    assert rows[0]["rejected_at"] > rows[1]["rejected_at"]


def test_the_newest_rejected_events_are_found_without_reading_all(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    """Of 1,500 blocks the last 512 are read."""
    writer.connection.execute(
        """INSERT INTO rejected_events (rejection_id, errors, raw_event, rejected_at)
           SELECT n::text, to_jsonb(ARRAY[CASE WHEN n <= 5000 THEN 'old' ELSE 'new' END]),
                  repeat(md5(n::text), 50), %s::timestamptz + n * interval '1 second'
           FROM generate_series(1, 6000) AS n""",
        (T0,),
    )
    errors, rows = database.run(lambda c: read_rejected(c, "public", newest=2))
    assert errors == [{"error": "new", "events": 1000}]
    assert [(row["rejected_at"] - T0).total_seconds() for row in rows] == [6000, 5999]
    errors, _ = database.run(lambda c: read_rejected(c, "public", counted=1001))
    assert {"error": "old", "events": 1} in errors
    start = database.run(lambda c: event_stats._start_of_newest(c, "public"))
    query = in_schema("public", event_stats._ERRORS)
    plan = explain(database, query, {"start": start, "limit": 1000})
    assert "Tid Range Scan" in plan
    assert "Seq Scan" not in plan
