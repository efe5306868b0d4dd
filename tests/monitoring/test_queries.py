"""The queries of the dashboard: correct, and cheap for large tables."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from datasync_monitor.progress import read_progress
from datasync_monitor.snapshot import PageTotals, read_totals
from datasync_monitor.web import charts, queries
from datasync_monitor.web.queries import (
    MAX_BUCKETS,
    EventStats,
    Timeline,
    read_event_stats,
    read_rejected,
    read_syncs,
    read_timeline,
)

from tests.monitoring.monitoring_helpers import T0, partition_events, write_load

if TYPE_CHECKING:
    from datasync_monitor.database import ReconnectingConnection

    from tests.monitoring.monitoring_helpers import TableWriter

LONG_AGO = datetime(2000, 1, 1, tzinfo=timezone.utc)


def explain(database: ReconnectingConnection, query: str, values: dict[str, Any]) -> str:
    row = database.run(lambda c: c.execute(f"EXPLAIN (FORMAT JSON) {query}", values).fetchone())
    return json.dumps(row[0])


@pytest.mark.parametrize("tables", [False, True])
def test_without_rows_all_results_are_empty(
    database: ReconnectingConnection, request: pytest.FixtureRequest, *, tables: bool
) -> None:
    if tables:
        request.getfixturevalue("writer")
    assert database.run(read_syncs) == []
    assert database.run(read_totals) == PageTotals()
    assert database.run(lambda c: read_timeline(c, LONG_AGO, T0)).buckets == []
    assert database.run(read_event_stats) == EventStats()
    assert database.run(read_rejected) == ([], [])


def outcomes(database: ReconnectingConnection) -> list[str]:
    return [sync["outcome"] for sync in database.run(read_syncs)]


def test_syncs_have_times_outcome_and_sums(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    writer.page()
    writer.page(rejected=2, retries={"timeout": 3}, waited=1.5)
    writer.new_sync("second")
    writer.advance(10)
    writer.total = 15_000
    writer.page(skipped=1000)
    writer.finish()
    writer.new_sync("third")
    writer.new_scan()
    writer.advance(100)
    writer.page()
    assert outcomes(database) == ["open", "finished", "interrupted"]
    _, middle, oldest = database.run(read_syncs)
    assert oldest == {
        "started_at": T0,
        "ended_at": T0 + timedelta(seconds=2),
        "duration": timedelta(seconds=2),
        "outcome": "interrupted",
        "pages": 2,
        "events": 10_000,
        "emitted": 10_000,
        "rejected": 2,
        "retries": 3,
        "rate_limit_wait": timedelta(seconds=1.5),
        "sync_id": "11111111-1111-4111-8111-111111111111",
    }
    assert (middle["events"], middle["emitted"]) == (5000, 4000)


def test_a_sync_that_fails_at_a_false_end_is_not_finished(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    writer.fail_on_first_page()
    assert outcomes(database) == ["open"]
    writer.advance(10)
    writer.new_sync("second")
    writer.total = 5000
    writer.page(last=True)
    assert outcomes(database) == ["finished", "interrupted"]


@pytest.mark.parametrize(
    ("incremental_to", "events", "outcome"),
    [
        (None, 4900, "open"),
        (None, 4950, "finished"),  # events may be deleted during a scan
        (T0 - timedelta(minutes=60), 4900, "finished"),
    ],
)
def test_a_sync_finishes_at_the_end_of_its_scan(
    writer: TableWriter,
    database: ReconnectingConnection,
    *,
    incremental_to: datetime | None,
    events: int,
    outcome: str,
) -> None:
    writer.total, writer.incremental_to = 5000, incremental_to
    writer.page(events=events, last=True)
    assert outcomes(database) == [outcome]


def test_the_timeline_has_every_page_once_and_no_gaps(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    write_load(writer, "finished")
    timeline = database.run(lambda c: read_timeline(c, LONG_AGO, writer.now))
    width = timeline.width.total_seconds()
    assert sum(bucket["pages"] for bucket in timeline.buckets) == 26
    assert sum(bucket["rate"] for bucket in timeline.buckets) * width == pytest.approx(130_000)
    assert sum(bucket["wait"] for bucket in timeline.buckets) == pytest.approx(34)
    causes = Counter[str]()
    for count in timeline.retries:
        causes[count["cause"]] += count["retries"]
    assert causes == {"http_503": 3, "timeout": 1, "corrupted_page": 1}
    assert len(timeline.buckets) <= MAX_BUCKETS + 1
    starts = [bucket["at"] for bucket in timeline.buckets]
    assert {after - before for before, after in pairwise(starts)} == {timeline.width}


@pytest.mark.parametrize("days", [0, 0.001, 0.04, 1, 7, 30, 400])
def test_a_timeline_has_a_bounded_number_of_buckets(days: float) -> None:
    length = timedelta(days=days)
    width = queries.round_width(length, queries._BUCKET_SECONDS, MAX_BUCKETS)
    assert length / width <= MAX_BUCKETS


def test_a_chart_without_waits_or_retries_is_left_out(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    writer.page()
    timeline = database.run(lambda c: read_timeline(c, LONG_AGO, writer.now))
    assert charts.rate_limit_waits(timeline) is None
    assert charts.retries(timeline) is None


@pytest.mark.parametrize(
    ("length", "time_format"),
    [
        (timedelta(minutes=9), "%H:%M:%S"),
        (timedelta(days=1), "%H:%M"),
        (timedelta(days=2), "%d %b"),
    ],
)
def test_a_longer_time_has_a_coarser_axis(length: timedelta, time_format: str) -> None:
    timeline = Timeline(timedelta(0), [{"at": T0, "rate": 1}, {"at": T0 + length, "rate": 1}])
    (layer,) = charts.throughput(timeline)["layer"]
    assert layer["encoding"]["x"]["axis"]["format"] == time_format


def test_neither_progress_nor_history_reads_events(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    """By PostgreSQL's own count of scans."""
    write_load(writer, "running")
    scans = """SELECT seq_scan, coalesce(idx_scan, 0)
               FROM pg_stat_user_tables WHERE relname = 'events'"""
    writer.connection.execute("SELECT pg_stat_force_next_flush()")
    before = writer.connection.execute(scans).fetchone()
    database.run(read_progress)
    database.run(read_totals)
    database.run(read_syncs)
    database.run(lambda c: read_timeline(c, LONG_AGO, writer.now))
    database.run(lambda c: c.execute("SELECT pg_stat_force_next_flush()"))
    database.run(lambda c: c.execute("SELECT 1"))
    assert writer.connection.execute(scans).fetchone() == before


def test_a_small_table_is_counted_exactly(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    write_load(writer, "stuck")
    stats = database.run(read_event_stats)
    assert stats.sampling_interval == 1
    by_type = writer.connection.execute("SELECT type, count(*) FROM events GROUP BY 1").fetchall()
    assert stats.by_type() == dict(by_type)
    width, counts = stats.over_time()
    assert width == timedelta(hours=1)
    by_hour = writer.connection.execute(
        "SELECT date_trunc('hour', timestamp), type, count(*) FROM events GROUP BY 1, 2"
    ).fetchall()
    assert counts == {(hour, name): events for hour, name, events in by_hour}


def test_hours_are_joined_for_a_long_time() -> None:
    """To whole intervals of the day, and to days for more than a month."""
    hours = tuple((T0 - timedelta(hours=n), "click", 1) for n in range(100))
    width, counts = EventStats(counts=hours).over_time()
    assert (width, set(counts.values())) == (timedelta(hours=3), {2, 3})
    assert {at.hour % 3 for at, _ in counts} == {0}
    assert EventStats(counts=((T0, "a", 1), (LONG_AGO, "a", 1))).over_time()[0] == timedelta(days=1)


@pytest.mark.parametrize("partitioned", [False, True])
def test_a_large_table_is_sampled_by_its_blocks(
    writer: TableWriter, database: ReconnectingConnection, *, partitioned: bool
) -> None:
    write_load(writer, "finished")
    if partitioned:
        partition_events(writer.connection)
    writer.connection.execute("ANALYZE events")
    stats = database.run(lambda c: read_event_stats(c, exact_blocks=50, sampled_blocks=400))
    assert stats.sampling_interval > 5
    assert stats.events == pytest.approx(100_000, rel=0.02)
    assert stats.by_type()["page_view"] == pytest.approx(35_000, rel=0.05)
    query = queries._COUNT.format(where=queries._EVERY_NTH_BLOCK)
    plan = explain(database, query, {"blocks": 3000, "interval": 100, "rows": 60})
    assert "Tid Scan" in plan
    assert "Seq Scan" not in plan


def test_events_without_timestamp_or_type_are_counted(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    writer.connection.execute(
        "INSERT INTO events (id, type, timestamp) VALUES ('a', NULL, now()), ('b', 'click', NULL)"
    )
    stats = database.run(read_event_stats)
    assert stats.by_type() == {"(none)": 1, "click": 1}
    assert sum(stats.over_time()[1].values()) == 1


def test_rejected_events_come_newest_first_with_their_errors(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    write_load(writer, "running")
    errors, rows = database.run(read_rejected)
    assert errors == [
        {"error": "timestamp: cannot be read", "events": 2},
        {"error": "id: missing", "events": 1},
    ]
    assert [row["errors"] for row in rows] == ["timestamp: cannot be read"] * 2 + ["id: missing"]
    assert rows[0]["rejected_at"] > rows[1]["rejected_at"] > rows[2]["rejected_at"]


def test_the_newest_rejected_events_are_found_without_reading_all(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    """Of 1,500 blocks the last 512 are read: not the first one, whose row has the latest time."""
    writer.connection.execute(
        """INSERT INTO rejected_events (rejection_id, errors, raw_event, rejected_at)
           SELECT n::text, to_jsonb(ARRAY[CASE WHEN n <= 5000 THEN 'old' ELSE 'new' END]),
                  repeat(md5(n::text), 50),
                  %s::timestamptz + CASE n WHEN 1 THEN 9000 ELSE n END * interval '1 second'
           FROM generate_series(1, 6000) AS n""",
        (T0,),
    )
    errors, rows = database.run(read_rejected)
    assert errors == [{"error": "new", "events": 1000}]
    assert [(row["rejected_at"] - T0).total_seconds() for row in rows] == [*range(6000, 5950, -1)]
    plan = explain(database, queries._ERRORS, {"start": "(900,0)", "limit": 1000})
    assert "Tid Range Scan" in plan
    assert "Seq Scan" not in plan
