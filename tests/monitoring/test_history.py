"""Syncs, timeline and totals of the table `pages`."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from datasync_monitor.history import (
    MAX_BUCKETS,
    bucket_width,
    read_syncs,
    read_timeline,
)
from datasync_monitor.progress import read_progress
from datasync_monitor.snapshot import PageTotals, read_totals
from datasync_monitor.web import charts
from table_writer import T0, write_load

if TYPE_CHECKING:
    from datasync_monitor.database import ReconnectingConnection
    from table_writer import TableWriter

LONG_AGO = datetime(2000, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize("tables", [False, True])
def test_without_pages_the_history_is_empty(
    database: ReconnectingConnection, request: pytest.FixtureRequest, *, tables: bool
) -> None:
    if tables:
        request.getfixturevalue("writer")
    assert database.run(lambda c: read_syncs(c, "public")) == []
    assert database.run(lambda c: read_totals(c, "public")) == PageTotals()
    assert database.run(lambda c: read_timeline(c, "public", LONG_AGO, T0)).buckets == []


def outcomes(database: ReconnectingConnection) -> list[str]:
    return [sync["outcome"] for sync in database.run(lambda c: read_syncs(c, "public"))]


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
    _, middle, oldest = database.run(lambda c: read_syncs(c, "public"))
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
    writer.page()
    writer.finish()
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
    writer.page(events=events)
    writer.finish()
    assert outcomes(database) == [outcome]


def test_the_timeline_has_every_page_once_and_no_gaps(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    write_load(writer, "finished")
    timeline = database.run(lambda c: read_timeline(c, "public", LONG_AGO, writer.now))
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
    assert length / bucket_width(length) <= MAX_BUCKETS


def test_totals_are_sums_over_all_scans(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    write_load(writer, "finished")
    totals = database.run(lambda c: read_totals(c, "public"))
    assert (totals.syncs, totals.pages, totals.events, totals.rejected) == (3, 26, 130_000, 3)
    assert totals.retries == {"http_503": 3, "timeout": 1, "corrupted_page": 1}


def test_a_chart_without_waits_or_retries_is_left_out(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    writer.page()
    timeline = database.run(lambda c: read_timeline(c, "public", LONG_AGO, writer.now))
    assert charts.rate_limit_waits(timeline) is None
    assert charts.retries(timeline) is None


def test_neither_progress_nor_history_reads_events(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    """By PostgreSQL's own count of scans."""
    write_load(writer, "running")
    scans = """SELECT seq_scan, coalesce(idx_scan, 0)
               FROM pg_stat_user_tables WHERE relname = 'events'"""
    writer.connection.execute("SELECT pg_stat_force_next_flush()")
    before = writer.connection.execute(scans).fetchone()
    for _ in range(20):
        database.run(read_progress)
        database.run(lambda c: read_totals(c, "public"))
        database.run(lambda c: read_syncs(c, "public"))
        database.run(lambda c: read_timeline(c, "public", LONG_AGO, writer.now))
    database.run(lambda c: c.execute("SELECT pg_stat_force_next_flush()"))
    database.run(lambda c: c.execute("SELECT 1"))
    assert writer.connection.execute(scans).fetchone() == before
