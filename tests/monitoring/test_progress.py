"""State, completion, throughput and time left, from the tables."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from datasync_monitor.progress import STALL_TIMEOUT, State

from tests.monitoring.monitoring_helpers import SECONDS_PER_EVENT, T0, TableWriter

STALLED = STALL_TIMEOUT.total_seconds() + 1


def test_a_running_scan_is_counted_from_the_checkpoint(writer: TableWriter, read) -> None:
    for remaining in (9, 8, 7):
        writer.page(remaining=remaining)
    writer.advance(1)
    progress = read()
    assert progress.state is State.RUNNING
    assert (progress.snapshot.totals.pages, progress.fraction) == (3, 0.15)
    assert progress.rate == pytest.approx(15_000 / 4)
    assert progress.cursor_lifetime == timedelta(seconds=118)
    assert progress.checkpoint_age == timedelta(seconds=1)
    assert progress.headline == "running: 15,000 of 100,000 events, 15.0 %, 7 of 10 requests left"


def test_the_percentage_is_of_the_events_expected(writer: TableWriter, read) -> None:
    """Events that arrive during the scan raise the API's total, but are not part of the scan."""
    writer.page()
    writer.bookmark["total_events"] = 200_000
    writer.write_checkpoint()
    assert read().fraction == 0.05
    writer.bookmark["events_expected"] = None
    writer.write_checkpoint()
    assert read().fraction == 0.025


@pytest.mark.parametrize(
    ("total", "pages", "seconds"),
    [
        # 10 requests in 60 s. 17 pages left, at second 3: 7 at once, 10 more when the requests of
        # seconds 0 to 9 are a minute old.
        (100_000, [{"remaining": 9 - n, "reset": 60 - n} for n in range(3)], 60 - 3 + 10),
        # Retries use up the rate limit too. 9 pages left: 6 at once, 3 more when the oldest counted
        # request leaves the window, 57 s after this one was sent, 1 s ago.
        (50_000, [{"remaining": 6, "reset": 57, "retries": {"http_503": 3}}], 57 - 1 + 3),
        # 599 pages left, in windows of ten.
        (3_000_000, [{"took": 4}], 3600),
        # Without a rate limit it follows from the throughput.
        (100_000, [{"took": 2, "limit": None}] * 4, 2 * 16),
    ],
)
def test_time_left_includes_the_waits_for_the_rate_limit(
    writer: TableWriter, read, total: int, pages: list[dict[str, Any]], seconds: float
) -> None:
    writer.total = total
    for page in pages:
        writer.page(**page)
    assert read().time_left.total_seconds() == pytest.approx(seconds, abs=1, rel=0.03)


def test_time_left_leaves_out_the_time_before_a_restart(writer: TableWriter, read) -> None:
    writer.total = 100_000
    for _ in range(2):
        writer.page(took=2, limit=None)
    writer.advance(600)
    writer.new_sync()
    for _ in range(2):
        writer.page(took=2, limit=None)
    assert read().time_left == timedelta(seconds=16 * 2)


def test_the_stall_timeout_starts_after_the_announced_wait(writer: TableWriter, read) -> None:
    writer.page(remaining=0, reset=300)
    writer.advance(299)
    progress = read()
    assert (progress.state, progress.activity) == (State.WAITING, "waiting 1 s for the rate limit")
    writer.advance(1)
    progress = read()
    assert (progress.state, progress.activity) == (State.RUNNING, "requesting the next page")
    writer.advance(STALLED - 1)
    assert read().state is State.RUNNING
    writer.advance(1)
    progress = read()
    assert (progress.state, progress.activity) == (State.STUCK, "no progress for 11 min 1 s")
    assert progress.time_left is None


def test_a_page_is_activity_before_its_checkpoint(writer: TableWriter, read) -> None:
    writer.page()
    writer.advance(STALLED - 10)
    writer.page(checkpoint=False, limit=None)
    writer.advance(STALLED - 10)
    progress = read()
    assert (progress.state, progress.activity) == (State.RUNNING, "no rate limit")


def test_a_finished_scan_stays_finished(writer: TableWriter, read) -> None:
    writer.total = 5000
    writer.page()
    writer.finish()
    writer.advance(1_000_000)
    progress = read()
    assert (progress.fraction, progress.cursor_lifetime) == (1.0, None)
    assert progress.headline == (
        "finished: 5,000 events in the last scan, loaded up to 2026-01-27 19:00:00 UTC"
    )


def test_an_empty_feed_is_finished(writer: TableWriter, read) -> None:
    writer.total = 0
    writer.page(events=0)
    writer.finish()
    writer.bookmark["high_watermark"] = None
    writer.write_checkpoint()
    assert read().headline == "finished: 0 events in the last scan, nothing to load"


def test_the_numbers_are_of_the_scan_over_all_its_restarts(writer: TableWriter, read) -> None:
    writer.page(rejected=2, retries={"http_503": 2, "timeout": 1})
    writer.page(events=0)
    writer.new_sync()
    writer.page(rejected=1, retries={"http_503": 1})
    progress = read()
    totals = progress.snapshot.totals
    assert (totals.pages, totals.rejected, progress.restarts) == (3, 3, 1)
    assert totals.retries == {"http_503": 3, "timeout": 1}
    assert progress.retried_requests == 4
    writer.new_scan()
    writer.new_sync("third")
    writer.page(skipped=4000)
    progress = read()
    totals = progress.snapshot.totals
    assert (totals.pages, totals.rejected, totals.retries, progress.restarts) == (1, 0, {}, 0)
    assert (progress.snapshot.events_seen, progress.snapshot.scan.events_emitted) == (5000, 1000)


def test_a_scan_whose_first_pages_were_deleted_keeps_the_others(writer: TableWriter, read) -> None:
    for _ in range(3):
        writer.page()
    writer.connection.execute("DELETE FROM pages WHERE page = 1")
    assert (read().snapshot.totals.pages, read().snapshot.events_seen) == (2, 15_000)


@pytest.mark.parametrize("lookback", [0, 600, 3600])
def test_an_incremental_scan_is_measured_in_time_down_to_its_end(
    writer: TableWriter, read, lookback: int
) -> None:
    """3 of 4 new pages are loaded; of all events that would be 0.5 %."""
    new_events = 20_000 * SECONDS_PER_EVENT
    writer.total = 3_000_000
    writer.bookmark["high_watermark"] = (T0 - timedelta(seconds=new_events)).isoformat()
    writer.incremental_to = T0 - timedelta(seconds=new_events + lookback)
    for number in range(3):
        writer.page(remaining=9 - number)
    progress = read()
    assert progress.fraction == pytest.approx(15_000 * SECONDS_PER_EVENT / (new_events + lookback))
    pages_left = 2 if lookback else 1
    assert progress.time_left == timedelta(seconds=pages_left)
    assert progress.amount == "15,000 new events"


def test_an_incremental_scan_without_pages_ends_at_the_watermark(writer: TableWriter, read) -> None:
    end = T0 - timedelta(seconds=10_000 * SECONDS_PER_EVENT)
    writer.bookmark["high_watermark"] = end.isoformat()
    writer.page()
    writer.connection.execute("DROP TABLE pages")
    assert (read().incremental, read().fraction) == (True, 0.5)


@pytest.mark.parametrize("incremental_to", [None, T0 - timedelta(seconds=1)])
def test_a_scan_to_the_oldest_event_is_measured_in_events_in_spite_of_a_watermark(
    writer: TableWriter, read, incremental_to: Any
) -> None:
    """Also one that continues below the end of an incremental scan."""
    writer.bookmark["high_watermark"] = (T0 - timedelta(hours=1)).isoformat()
    writer.incremental_to = incremental_to
    writer.page()
    assert (read().incremental, read().fraction) == (False, 0.05)


def test_a_new_run_is_not_judged_by_an_earlier_one(writer: TableWriter, read) -> None:
    writer.page()
    writer.advance(3600)
    assert read().state is State.STUCK
    writer.start_run()
    writer.advance(30)
    assert read().headline == (
        "running: 5,000 of 100,000 events, 5.0 %, waiting for the first page of this run"
    )
    writer.advance(STALLED - 30)
    assert read().state is State.STUCK


def test_a_run_on_an_empty_database_is_running_until_the_stall_timeout(
    writer: TableWriter, read
) -> None:
    writer.start_run()
    assert (read().state, read().starting) == (State.RUNNING, True)
    writer.advance(STALLED)
    assert read().headline == "stuck: 0 events, the run has loaded no page"


@pytest.mark.parametrize("tap_ahead", [timedelta(0), timedelta(hours=1)])
def test_a_run_after_a_finished_one_starts_from_zero(
    writer: TableWriter, read, tap_ahead: timedelta
) -> None:
    """Also where the tap's clock is ahead of the database's."""
    writer.page()
    writer.finish()
    writer.connection.execute("UPDATE pages SET received_at = received_at + %s", (tap_ahead,))
    writer.advance(100)
    writer.start_run()
    assert read().headline == "running: 0 events, waiting for the first page of this run"


def test_a_load_is_not_finished_before_its_run_has_ended(writer: TableWriter, read) -> None:
    writer.start_run()
    writer.total = 5000
    writer.page()
    assert read().fraction == 0.999
    writer.finish()
    progress = read()
    assert (progress.state, progress.fraction) == (State.RUNNING, 0.999)
    assert progress.headline == "running: 5,000 events, 99.9 %, completing the run"
    writer.end_run("finished")
    assert (read().state, read().fraction) == (State.FINISHED, 1.0)


def test_a_run_that_was_killed_after_its_last_page_counts_as_finished_later(
    writer: TableWriter, read
) -> None:
    writer.start_run()
    writer.page()
    writer.finish()
    writer.advance(STALLED)
    assert read().state is State.FINISHED


def test_a_failed_run_is_stuck_at_once_with_its_message(writer: TableWriter, read) -> None:
    writer.start_run()
    writer.end_run("failed", "The API\nrefuses the key.")
    assert read().headline == "stuck: 0 events, the last run failed: The API refuses the key"
    writer.start_run()
    writer.page()
    writer.finish()
    writer.end_run("failed", "The state could not be saved.")
    progress = read()
    assert progress.state is State.STUCK
    assert progress.activity == "the last run failed: The state could not be saved"
    assert progress.fraction < 1


def test_a_stopped_run_is_stuck_unless_nothing_was_left_to_load(writer: TableWriter, read) -> None:
    writer.start_run()
    writer.page()
    writer.end_run("stopped")
    progress = read()
    assert (progress.state, progress.activity) == (State.STUCK, "the last run was stopped")
    writer.finish()
    assert read().state is State.FINISHED


def test_a_load_after_a_failed_run_is_running(writer: TableWriter, read) -> None:
    """As `meltano run` does, which writes no row of its own."""
    writer.start_run()
    writer.end_run("failed", "The disk is full.")
    writer.page()
    assert read().state is State.RUNNING


def test_without_the_table_pages_the_checkpoint_gives_the_completion(
    writer: TableWriter, read
) -> None:
    writer.start_run()
    writer.page()
    writer.connection.execute("DROP TABLE pages")
    progress = read()
    assert (progress.rate, progress.time_left) == (None, None)
    assert progress.headline == "running: 5,000 of 100,000 events, 5.0 %, no rate limit"
    writer.bookmark |= {"cursor": None, "scan_newest_at": None}
    writer.write_checkpoint()
    progress = read()
    assert (progress.activity, progress.time_left) == ("completing the run", None)


def test_a_scan_is_counted_by_its_pages_where_the_target_writes_no_checkpoint(
    writer: TableWriter, read
) -> None:
    writer.total = 10_000
    writer.page(checkpoint=False)
    assert read().headline == "running: 5,000 of 10,000 events, 50.0 %, 9 of 10 requests left"
    writer.page(last=True)
    writer.connection.execute("DROP TABLE checkpoint")
    assert (read().state, read().fraction) == (State.FINISHED, 1.0)


@pytest.mark.parametrize("events", [5000, 0])
def test_a_sync_that_fails_on_the_first_page_of_a_scan_has_not_finished(
    writer: TableWriter, read, events: int
) -> None:
    writer.page()
    writer.finish()
    assert read().state is State.FINISHED
    writer.fail_on_first_page(events=events)
    assert read().state is State.RUNNING
    writer.advance(STALLED)
    assert read().state is State.STUCK


def test_the_rate_limit_window_is_the_longest_reset_of_the_last_day(
    writer: TableWriter, read
) -> None:
    """A scan that starts with no requests left sees the rest of a window only."""
    writer.page(remaining=9, reset=60)
    writer.new_scan()
    writer.page(remaining=0, reset=20)
    assert read().snapshot.rate_limit.window_seconds == 60
    writer.advance(86_401)
    writer.new_scan()
    writer.page(remaining=0, reset=20)
    assert read().snapshot.rate_limit.window_seconds == 20
