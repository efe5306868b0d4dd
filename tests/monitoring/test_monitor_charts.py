"""What the charts are drawn from equals what SQL says, and never costs a scan of a big table."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from datasync_monitor import shape as shapes
from datasync_monitor.database import connect, in_schema
from datasync_monitor.history import BARS, Totals, bar_width, read_runs, read_timeline, read_totals
from datasync_monitor.progress import read_progress
from datasync_monitor.shape import Shape, read_reasons, read_rejected, read_shape
from datasync_monitor.web import cards
from psycopg import sql
from scribe import T0, tell

if TYPE_CHECKING:
    import psycopg
    from datasync_monitor.database import Settings
    from scribe import Scribe


@pytest.fixture
def connection(settings: Settings):
    with connect(settings) as connection:
        yield connection


LONG_AGO = datetime(2000, 1, 1, tzinfo=timezone.utc)


def test_without_tables_there_is_nothing_and_no_error(connection: psycopg.Connection) -> None:
    assert read_runs(connection, "public") == ()
    assert read_totals(connection, "public") == Totals()
    assert read_timeline(connection, "public", LONG_AGO, T0).slices == ()
    assert read_shape(connection, "public") == Shape()
    assert read_rejected(connection, "public") == ()
    assert read_reasons(connection, "public") == {}


def test_empty_tables_give_empty_charts(scribe: Scribe, connection: psycopg.Connection) -> None:
    assert read_runs(connection, "public") == ()
    assert read_totals(connection, "public") == Totals()
    assert read_timeline(connection, "public", LONG_AGO, scribe.now).slices == ()
    assert read_shape(connection, "public").events == 0


def test_runs_have_start_end_outcome_and_sums(
    scribe: Scribe, connection: psycopg.Connection
) -> None:
    scribe.page()
    scribe.page(rejected=2, retries={"timeout": 3}, waited=1.5)
    scribe.new_run("second")
    scribe.later(10)
    scribe.page(skipped=1000)
    scribe.finish()
    scribe.new_run("third")
    scribe.new_walk()
    scribe.later(100)
    scribe.page()
    newest, middle, oldest = read_runs(connection, "public")
    assert [newest.outcome, middle.outcome, oldest.outcome] == ["open", "finished", "cut off"]
    assert (oldest.started, oldest.ended) == (T0, T0 + timedelta(seconds=2))
    assert (oldest.pages, oldest.events, oldest.rejected, oldest.retries, oldest.waited) == (
        2,
        10_000,
        2,
        3,
        1.5,
    )
    assert (middle.events, middle.emitted) == (5000, 4000)


def test_a_run_that_fails_on_the_first_page_of_a_walk_is_not_called_finished(
    scribe: Scribe, connection: psycopg.Connection
) -> None:
    scribe.lost_page()
    (run,) = read_runs(connection, "public")
    assert run.outcome == "open"
    scribe.later(10)
    scribe.new_run("second")
    scribe.page()
    scribe.finish()
    assert [run.outcome for run in read_runs(connection, "public")] == ["finished", "cut off"]


def test_the_timeline_holds_every_page_once(scribe: Scribe, connection: psycopg.Connection) -> None:
    tell(scribe, "finished")
    timeline = read_timeline(connection, "public", LONG_AGO, scribe.now)
    assert sum(point.pages for point in timeline.slices) == 26
    assert sum(
        point.rate for point in timeline.slices
    ) * timeline.width.total_seconds() == pytest.approx(130_000)
    assert sum(point.waited for point in timeline.slices) == pytest.approx(34)
    causes = Counter[str]()
    for fault in timeline.faults:
        causes[fault.cause] += fault.retries
    assert causes == {"503": 3, "timeout": 1, "broken page": 1}
    assert len(timeline.slices) <= BARS + 1
    steps = {
        after.at - before.at
        for before, after in zip(timeline.slices, timeline.slices[1:], strict=False)
    }
    assert steps == {timeline.width}, "no stretch is left out, so a pause is seen as a pause"


@pytest.mark.parametrize("days", [0, 0.001, 0.04, 1, 7, 30, 400])
def test_a_chart_has_a_bearable_number_of_bars(days: float) -> None:
    span = timedelta(days=days)
    assert span / bar_width(span) <= BARS


def test_a_small_table_is_counted_to_the_last_event(
    scribe: Scribe, connection: psycopg.Connection
) -> None:
    tell(scribe, "stuck")
    shape = read_shape(connection, "public")
    assert shape.exact
    by_type = dict(connection.execute("SELECT type, count(*) FROM events GROUP BY type").fetchall())
    assert shape.by_type() == by_type
    width, bars = shape.over_time()
    assert width == timedelta(hours=1)
    by_hour = connection.execute(
        "SELECT date_trunc('hour', timestamp), type, count(*) FROM events GROUP BY 1, 2"
    ).fetchall()
    assert bars == {(hour, name): events for hour, name, events in by_hour}


def test_a_big_table_is_sampled_and_the_estimate_is_close(
    scribe: Scribe, connection: psycopg.Connection
) -> None:
    tell(scribe, "finished")
    scribe.connection.execute("ANALYZE events")
    shape = read_shape(connection, "public", exact_blocks=50, sampled_blocks=400)
    assert shape.one_in > 5
    assert shape.events == pytest.approx(100_000, rel=0.02)
    assert shape.by_type()["page_view"] == pytest.approx(35_000, rel=0.05)


def test_the_sample_reads_no_more_than_its_blocks(
    scribe: Scribe, connection: psycopg.Connection
) -> None:
    """The plan says it: rows are fetched by address, and the table is not scanned."""
    tell(scribe, "finished")
    scribe.connection.execute("ANALYZE events")
    query = sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) ") + in_schema(
        "public", shapes._COUNT, where=sql.SQL(shapes._EVERY_NTH_BLOCK)
    )
    row = connection.execute(query, {"blocks": 3000, "one_in": 100, "rows": 60}).fetchone()
    assert row is not None
    plan = json.dumps(row[0])
    assert "Tid Scan" in plan
    assert "Seq Scan" not in plan


def test_the_progress_never_reads_events(scribe: Scribe, settings: Settings) -> None:
    """PostgreSQL's own statistics are the witness: no scan of events, however often we look."""
    tell(scribe, "running")
    scans = """SELECT seq_scan, coalesce(idx_scan, 0)
               FROM pg_stat_user_tables WHERE relname = 'events'"""
    scribe.connection.execute("SELECT pg_stat_force_next_flush()")
    before = scribe.connection.execute(scans).fetchone()
    with connect(settings) as connection:
        for _ in range(20):
            read_progress(connection)
            read_totals(connection, "public")
            read_runs(connection, "public")
            read_timeline(connection, "public", LONG_AGO, scribe.now)
        connection.execute("SELECT pg_stat_force_next_flush()")
        connection.execute("SELECT 1")
    assert scribe.connection.execute(scans).fetchone() == before


def test_events_without_time_or_type_are_counted_too(
    scribe: Scribe, connection: psycopg.Connection
) -> None:
    scribe.connection.execute(
        "INSERT INTO events (id, type, timestamp) VALUES ('a', NULL, now()), ('b', 'click', NULL)"
    )
    shape = read_shape(connection, "public")
    assert shape.by_type() == {"(none)": 1, "click": 1}
    assert sum(shape.over_time()[1].values()) == 1


def test_rejected_events_come_newest_first_with_their_reasons(
    scribe: Scribe, connection: psycopg.Connection
) -> None:
    tell(scribe, "running")
    assert read_reasons(connection, "public") == {"timestamp: cannot be read": 2, "id: missing": 1}
    rows = read_rejected(connection, "public", limit=2)
    assert [row.reasons for row in rows] == [["timestamp: cannot be read"]] * 2
    assert rows[0].rejected_at > rows[1].rejected_at


def test_the_newest_rejected_events_are_found_without_reading_all_of_them(
    scribe: Scribe, connection: psycopg.Connection
) -> None:
    """The plan says it: of 1,500 blocks the last 512 are read."""
    scribe.connection.execute(
        """INSERT INTO rejected_events (rejection_id, reasons, raw, rejected_at)
           SELECT n::text, to_jsonb(ARRAY[CASE WHEN n <= 5000 THEN 'old' ELSE 'new' END]),
                  repeat(md5(n::text), 50), %s::timestamptz + n * interval '1 second'
           FROM generate_series(1, 6000) AS n""",
        (T0,),
    )
    assert read_reasons(connection, "public") == {"new": 1000}
    assert read_reasons(connection, "public", limit=1001) == {"new": 1000, "old": 1}
    assert [row.rejected_at for row in read_rejected(connection, "public", limit=2)] == [
        T0 + timedelta(seconds=seconds) for seconds in (6000, 5999)
    ]
    start = shapes._start_of_newest(connection, "public")
    assert start is not None
    query = sql.SQL("EXPLAIN (FORMAT JSON) ") + in_schema("public", shapes._REASONS)
    row = connection.execute(query, {"start": start, "limit": 1000}).fetchone()
    assert row is not None
    plan = json.dumps(row[0])
    assert "Tid Range Scan" in plan
    assert "Seq Scan" not in plan


def test_one_repeated_request_is_not_many(scribe: Scribe, connection: psycopg.Connection) -> None:
    scribe.page(retries={"503": 1})
    progress = read_progress(connection, clock=scribe.clock)
    beside = {text for row in cards.rows(progress) for _, _, text in row}
    assert "0 restarts, 1 request repeated" in beside


def test_totals_are_sums_over_all_walks(scribe: Scribe, connection: psycopg.Connection) -> None:
    tell(scribe, "finished")
    totals = read_totals(connection, "public")
    assert (totals.runs, totals.pages, totals.events, totals.rejected) == (3, 26, 130_000, 3)
    assert totals.retries == {"503": 3, "timeout": 1, "broken page": 1}
