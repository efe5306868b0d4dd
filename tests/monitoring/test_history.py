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
from datasync_monitor.web import charts, metric_cards
from table_writer import T0, write_load

if TYPE_CHECKING:
    from datasync_monitor.database import ReconnectingConnection
    from table_writer import TableWriter

LONG_AGO = datetime(2000, 1, 1, tzinfo=timezone.utc)


def test_without_tables_the_history_is_empty(database: ReconnectingConnection) -> None:
    assert database.run(lambda c: read_syncs(c, "public")) == ()
    assert database.run(lambda c: read_totals(c, "public")) == PageTotals()
    assert database.run(lambda c: read_timeline(c, "public", LONG_AGO, T0)).buckets == ()


def test_with_empty_tables_the_history_is_empty(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    assert database.run(lambda c: read_syncs(c, "public")) == ()
    assert database.run(lambda c: read_totals(c, "public")) == PageTotals()
    assert database.run(lambda c: read_timeline(c, "public", LONG_AGO, writer.now)).buckets == ()


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
    newest, middle, oldest = database.run(lambda c: read_syncs(c, "public"))
    assert [newest.outcome, middle.outcome, oldest.outcome] == ["open", "finished", "interrupted"]
    assert (oldest.started_at, oldest.ended_at) == (T0, T0 + timedelta(seconds=2))
    assert (oldest.pages, oldest.events, oldest.rejected) == (2, 10_000, 2)
    assert (oldest.retries, oldest.rate_limit_wait_seconds) == (3, 1.5)
    assert (middle.events, middle.emitted) == (5000, 4000)
    row = metric_cards.sync_table([oldest])[0]
    assert (row["duration"], row["rate limit wait"]) == ("2 s", "2 s")


def test_a_sync_that_fails_at_a_false_end_is_not_finished(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    writer.fail_on_first_page()
    assert [s.outcome for s in database.run(lambda c: read_syncs(c, "public"))] == ["open"]
    writer.advance(10)
    writer.new_sync("second")
    writer.total = 5000
    writer.page()
    writer.finish()
    outcomes = [s.outcome for s in database.run(lambda c: read_syncs(c, "public"))]
    assert outcomes == ["finished", "interrupted"]


@pytest.mark.parametrize(("events", "outcome"), [(4900, "open"), (4950, "finished")])
def test_a_finished_sync_may_have_seen_a_little_less_than_expected(
    writer: TableWriter, database: ReconnectingConnection, events: int, outcome: str
) -> None:
    """Events may be deleted during a scan."""
    writer.total = 5000
    writer.page(events=events)
    writer.finish()
    assert [s.outcome for s in database.run(lambda c: read_syncs(c, "public"))] == [outcome]


def test_an_incremental_sync_finishes_where_its_scan_was_to_end(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    writer.incremental_to = T0 - timedelta(minutes=60)
    writer.page()
    writer.finish()
    assert [s.outcome for s in database.run(lambda c: read_syncs(c, "public"))] == ["finished"]


def test_the_timeline_has_every_page_once_and_no_gaps(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    write_load(writer, "finished")
    timeline = database.run(lambda c: read_timeline(c, "public", LONG_AGO, writer.now))
    width = timeline.width.total_seconds()
    assert sum(bucket.pages for bucket in timeline.buckets) == 26
    assert sum(bucket.rate for bucket in timeline.buckets) * width == pytest.approx(130_000)
    waits = sum(bucket.rate_limit_wait_seconds for bucket in timeline.buckets)
    assert waits == pytest.approx(34)
    causes = Counter[str]()
    for count in timeline.retries:
        causes[count.cause] += count.retries
    assert causes == {"http_503": 3, "timeout": 1, "corrupted_page": 1}
    assert len(timeline.buckets) <= MAX_BUCKETS + 1
    assert {after.at - before.at for before, after in pairwise(timeline.buckets)} == {
        timeline.width
    }


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


def test_cards_count_one_retry_in_the_singular(
    writer: TableWriter, database: ReconnectingConnection
) -> None:
    writer.page(retries={"http_503": 1})
    progress = database.run(lambda c: read_progress(c, clock=writer.clock))
    assert metric_cards.detail_cards(progress)[3].remark == "0 restarts, 1 retry"


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
