"""The progress says what the tables hold: how far, how fast, how long still."""

from __future__ import annotations

from datetime import timedelta

import pytest
from datasync_monitor.database import Settings, connect
from datasync_monitor.health import PATIENCE
from datasync_monitor.progress import Progress, State, read_progress
from scribe import T0, Scribe


@pytest.fixture
def read(settings: Settings, scribe: Scribe):
    """Read the progress at the scribe's time."""
    with connect(settings) as connection:
        yield lambda **options: read_progress(connection, clock=scribe.clock, **options)


def test_a_database_without_tables_is_idle_and_not_an_error(settings: Settings) -> None:
    with connect(settings) as connection:
        progress = read_progress(connection)
    assert progress.state is State.IDLE
    assert progress.headline == "idle: nothing loaded yet"


def test_empty_tables_are_idle(read) -> None:
    progress: Progress = read()
    assert (progress.state, progress.seen, progress.fraction, progress.eta) == (
        State.IDLE,
        0,
        None,
        None,
    )


def test_a_running_load_is_counted_from_the_checkpoint(scribe: Scribe, read) -> None:
    for remaining in (9, 8, 7):
        scribe.page(remaining=remaining)
    scribe.later(1)
    progress = read()
    assert progress.state is State.RUNNING
    assert (progress.seen, progress.total, progress.pages, progress.fraction) == (
        15_000,
        100_000,
        3,
        0.15,
    )
    assert progress.rate == pytest.approx(15_000 / 4)
    assert progress.cursor_life == timedelta(seconds=118)
    assert progress.checkpoint_age == timedelta(seconds=1)
    assert progress.headline == "running: 15,000 of 100,000 events, 15.0 %, 7 of 10 requests left"


def test_the_eta_knows_that_the_limit_makes_bursts_and_pauses(scribe: Scribe, read) -> None:
    """10 requests in 60 s: after the tenth, a pause until the first is a minute old."""
    for n in range(3):
        scribe.page(took=1, remaining=9 - n, reset=60 - n)
    progress = read()
    # 17 pages left: 7 at once, 10 more when the requests of seconds 0 to 9 are a minute old; it is
    # second 3.
    assert progress.eta == timedelta(seconds=60 - 3 + 10)
    naive = (100_000 - 15_000) / progress.rate
    assert naive < 20, "the pace of the burst alone would promise far too much"


def test_the_eta_of_three_million_events_is_an_hour_from_the_first_page_on(
    scribe: Scribe, read
) -> None:
    scribe.total = 3_000_000
    scribe.page(took=4)
    eta = read().eta
    assert eta is not None
    assert timedelta(minutes=58) < eta < timedelta(minutes=61)


def test_requests_that_no_page_tells_of_count_against_the_eta(scribe: Scribe, read) -> None:
    """Three retries spent the budget too: the header says 6 left, not 9."""
    scribe.total = 50_000
    scribe.page(took=1, remaining=6, reset=57, retries={"503": 3})
    # 9 pages left: 6 at once, 3 more when the oldest counted request leaves, 57 s after ours; that
    # was 1 s ago.
    assert read().eta == timedelta(seconds=57 - 1 + 3)


def test_an_api_without_a_limit_gives_an_eta_by_the_pace_alone(scribe: Scribe, read) -> None:
    for _ in range(4):
        scribe.page(took=2, limit=None)
    progress = read()
    assert progress.budget is None
    assert progress.eta == timedelta(seconds=2 * 16)
    assert progress.activity == "the API names no limit"


def test_the_limit_is_waiting_and_not_a_stall(scribe: Scribe, read) -> None:
    scribe.page(remaining=0, reset=21)
    progress = read()
    assert progress.state is State.WAITING
    assert progress.activity == "waiting 21 s for the API's limit"
    scribe.later(21)
    progress = read()
    assert (progress.state, progress.activity) == (State.RUNNING, "asking for the next page")


def test_silence_is_stuck_only_after_every_announced_wait_and_the_patience(
    scribe: Scribe, read
) -> None:
    scribe.page(remaining=0, reset=300)
    scribe.later(299)
    assert read().state is State.WAITING
    scribe.later(1 + PATIENCE.total_seconds())
    assert read().state is State.RUNNING, (
        "the patience to ask, receive and load is counted from the end of the wait"
    )
    scribe.later(1)
    progress = read()
    assert progress.state is State.STUCK
    assert progress.activity == "nothing has moved for 11 min 1 s"
    assert progress.eta is None


def test_a_page_that_moves_is_life_even_before_its_checkpoint(scribe: Scribe, read) -> None:
    scribe.page()
    scribe.later(PATIENCE.total_seconds() - 10)
    scribe.page(save=False)
    scribe.later(PATIENCE.total_seconds() - 10)
    assert read().state is State.RUNNING


def test_a_finished_walk_is_finished_for_ever(scribe: Scribe, read) -> None:
    scribe.total = 5000
    scribe.page()
    scribe.finish()
    scribe.later(1_000_000)
    progress = read()
    assert (progress.state, progress.fraction, progress.cursor_life) == (State.FINISHED, 1.0, None)
    assert "everything up to 2026-01-27 19:00:00 UTC is loaded" in progress.headline


def test_a_restart_counts_and_the_walk_goes_on_from_where_it_was(scribe: Scribe, read) -> None:
    scribe.page()
    scribe.page()
    scribe.new_run("22222222-2222-4222-8222-222222222222")
    scribe.page()
    progress = read()
    assert (progress.restarts, progress.pages, progress.seen, progress.fraction) == (
        1,
        3,
        15_000,
        0.15,
    )


def test_a_new_walk_starts_from_nothing_and_forgets_the_restarts_before_it(
    scribe: Scribe, read
) -> None:
    scribe.page()
    scribe.page()
    scribe.new_walk()
    scribe.new_run("22222222-2222-4222-8222-222222222222")
    scribe.page(skipped=4000)
    progress = read()
    assert (progress.restarts, progress.pages, progress.seen, progress.emitted) == (
        0,
        1,
        5000,
        1000,
    )


def test_an_empty_page_in_the_middle_does_not_look_like_a_new_walk(scribe: Scribe, read) -> None:
    scribe.page()
    scribe.page(events=0)
    scribe.page()
    assert read().pages == 3


def test_faults_are_summed_over_the_walk(scribe: Scribe, read) -> None:
    scribe.page(rejected=2, retries={"503": 2, "timeout": 1})
    scribe.page(rejected=1, retries={"503": 1})
    progress = read()
    assert progress.rejected == 3
    assert progress.retries == {"503": 3, "timeout": 1}


def test_a_walk_for_new_events_is_measured_by_time_and_not_by_the_whole_set(
    scribe: Scribe, read
) -> None:
    """3 of 4 new pages are loaded, and an hour lies below them: that is 62 %, not 0.5 %."""
    scribe.total = 3_000_000
    scribe.bookmark["complete_to"] = (T0 - timedelta(seconds=20_000 * 0.864)).isoformat()
    for n in range(3):
        scribe.page(remaining=9 - n)
    progress = read()
    assert progress.catching_up
    assert progress.fraction == pytest.approx(15_000 * 0.864 / (20_000 * 0.864 + 3600))
    assert progress.eta == timedelta(seconds=2), "one page of what is new, and the hour"
    assert progress.amount == "15,000 new events"
    scribe.page(remaining=6)
    progress = read()
    assert progress.fraction < 0.9, "the newest event of the last walk is not the end of this one"
    assert progress.eta > timedelta(0)


def test_a_new_run_is_not_judged_by_what_an_old_one_left(scribe: Scribe, read) -> None:
    scribe.page()
    scribe.later(3600)
    assert read().state is State.STUCK
    begun = scribe.now
    scribe.later(30)
    progress = read(since=begun)
    assert (progress.state, progress.starting, progress.seen) == (State.RUNNING, True, 5000)
    assert progress.activity == "asking for the first page"
    scribe.later(PATIENCE.total_seconds() - 29)
    assert read(since=begun).state is State.STUCK


def test_a_run_after_a_finished_one_is_starting_until_its_first_page(scribe: Scribe, read) -> None:
    scribe.page()
    scribe.finish()
    scribe.later(100)
    begun = scribe.now
    progress = read(since=begun)
    assert (progress.state, progress.seen, progress.fraction) == (State.RUNNING, 0, None)
    scribe.later(1)
    scribe.new_walk()
    scribe.page(events=10)
    scribe.finish()
    assert read(since=begun).state is State.FINISHED


def test_without_the_stream_pages_the_checkpoint_alone_tells_how_far(scribe: Scribe, read) -> None:
    scribe.page()
    scribe.connection.execute("DROP TABLE pages")
    scribe.later(10)
    progress = read()
    assert (progress.state, progress.seen, progress.fraction) == (State.RUNNING, 5000, 0.05)
    assert (progress.rate, progress.eta, progress.pages) == (None, None, 0)


def test_the_tables_may_sit_in_another_schema(scribe: Scribe, settings: Settings) -> None:
    scribe.page()
    scribe.connection.execute('DROP SCHEMA IF EXISTS "odd name" CASCADE')
    scribe.connection.execute('ALTER SCHEMA public RENAME TO "odd name"; CREATE SCHEMA public')
    with connect(settings) as connection:
        assert read_progress(connection, clock=scribe.clock).state is State.IDLE
        assert read_progress(connection, schema="odd name", clock=scribe.clock).seen == 5000


@pytest.mark.parametrize("events", [5000, 0])
def test_a_run_that_fails_on_the_first_page_of_a_walk_has_not_finished(
    scribe: Scribe, read, events: int
) -> None:
    scribe.page()
    scribe.finish()
    assert read().state is State.FINISHED
    scribe.new_walk()
    scribe.lost_page(events=events)
    assert read().state is State.RUNNING
    scribe.later(PATIENCE.total_seconds() + 1)
    assert read().state is State.STUCK


def test_a_walk_that_starts_over_has_not_finished(scribe: Scribe, read) -> None:
    scribe.page()
    scribe.bookmark["complete_to"] = None
    scribe.lost_page()
    assert read().state is State.RUNNING
    scribe.page()
    progress = read()
    assert (progress.state, progress.seen, progress.pages) == (State.RUNNING, 5000, 1)
    scribe.finish()
    assert read().state is State.FINISHED


def test_a_tap_whose_clock_is_ahead_does_not_finish_a_run_before_its_first_page(
    scribe: Scribe, read
) -> None:
    scribe.page()
    scribe.finish()
    scribe.connection.execute("UPDATE pages SET received_at = received_at + interval '1 hour'")
    scribe.later(100)
    progress = read(since=scribe.now)
    assert (progress.state, progress.starting, progress.seen) == (State.RUNNING, True, 0)


def test_a_walk_whose_first_pages_were_deleted_keeps_the_others(scribe: Scribe, read) -> None:
    for _ in range(3):
        scribe.page()
    scribe.connection.execute("DELETE FROM pages WHERE page = 1")
    progress = read()
    assert (progress.pages, progress.seen, progress.restarts) == (2, 15_000, 0)
    assert progress.rate is not None


def test_the_window_is_learnt_from_the_last_day_and_not_from_one_walk(scribe: Scribe, read) -> None:
    """A walk that begins on a spent budget hears of the rest of a window, not of the whole."""
    scribe.page(remaining=9, reset=60)
    scribe.new_walk()
    scribe.page(remaining=0, reset=20)
    assert read().budget.window == 60
    scribe.later(86_401)
    scribe.new_walk()
    scribe.page(remaining=0, reset=20)
    assert read().budget.window == 20
