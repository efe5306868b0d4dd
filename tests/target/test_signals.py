"""Signals: a transaction in progress is finished, an incomplete page is dropped."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from target_config.shutdown import Shutdown
from target_helpers import (
    Database,
    event,
    lines,
    record,
    schemas,
    start,
    state,
    state_message,
    states,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_incomplete_page_is_dropped(
    database: Database, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Between pages the target exits at once, with nothing of the incomplete page written."""
    with start(database, tmp_path) as target:
        assert target.stdin
        assert target.stdout
        whole = [record("events", event(1)), state_message(1)]
        target.stdin.write(lines([*schemas(), *whole, record("events", event(2))]))
        target.stdin.flush()
        assert states(target.stdout.readline()) == [state(1)]
        target.send_signal(number)
        output, errors = target.communicate()
    assert target.returncode == code
    assert output == b""
    assert b"Traceback" not in errors
    assert f"Stopped by {number.name}".encode() in errors
    assert database.rows("SELECT id FROM events") == [("event-1",)]


def test_transaction_in_progress_is_finished(database: Database, tmp_path: Path) -> None:
    """Rows that wait for a lock are still written, with checkpoint and STATE."""
    with start(database, tmp_path) as target, database.connect() as other:
        assert target.stdin
        assert target.stdout
        target.stdin.write(lines([*schemas(), record("events", event(1)), state_message(1)]))
        target.stdin.flush()
        assert states(target.stdout.readline()) == [state(1)]
        with other.transaction():
            other.execute("LOCK TABLE events IN SHARE MODE")
            target.stdin.write(lines([record("events", event(2)), state_message(2)]))
            target.stdin.flush()
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            wait_until(lambda: other.execute(waiting).fetchone())
            target.send_signal(signal.SIGTERM)
        output, _ = target.communicate()
    assert target.returncode == 143
    assert states(output) == [state(2)]
    assert database.rows("SELECT count(*), (SELECT events_seen FROM checkpoint) FROM events") == [
        (2, 2)
    ]


def test_more_signals_do_not_change_the_exit_code(database: Database, tmp_path: Path) -> None:
    with start(database, tmp_path) as target:
        assert target.stdin
        assert target.stdout
        target.stdin.write(lines([*schemas(), record("events", event(1)), state_message(1)]))
        target.stdin.flush()
        target.stdout.readline()

        def ended_after_more_signals() -> bool:
            target.send_signal(signal.SIGTERM)
            target.send_signal(signal.SIGINT)
            return target.poll() is not None

        wait_until(ended_after_more_signals)
        _, errors = target.communicate()
    assert target.returncode in {130, 143}
    assert b"Traceback" not in errors


def test_signal_that_was_ignored_at_the_start_stays_ignored(
    database: Database, tmp_path: Path
) -> None:
    """As under nohup: the terminal is closed, and the load continues."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        target = start(database, tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert target.stdin
    assert target.stdout
    target.stdin.write(lines([*schemas(), state_message(1)]))
    target.stdin.flush()
    assert states(target.stdout.readline()) == [state(1)]
    target.send_signal(signal.SIGHUP)
    output, errors = target.communicate(lines([state_message(2)]))
    assert target.returncode == 0, errors
    assert states(output) == [state(2)]


@pytest.fixture
def alarm() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)


@pytest.mark.usefixtures("alarm")
class TestShutdown:
    """The rules, without a process."""

    def test_exits_at_once_when_no_work_is_in_progress(self) -> None:
        with pytest.raises(SystemExit) as end:
            Shutdown().handle(signal.SIGTERM)
        assert end.value.code == 143

    def test_waits_for_the_outermost_piece_of_work(self) -> None:
        shutdown = Shutdown()
        done = []
        with pytest.raises(SystemExit) as end, shutdown.deferred():
            with shutdown.deferred():
                shutdown.handle(signal.SIGINT)
                done.append("inner")
            done.append("outer")
        assert (end.value.code, done) == (130, ["inner", "outer"])

    def test_first_signal_counts(self) -> None:
        """Ctrl-C in a terminal is followed by Meltano's SIGTERM."""
        shutdown = Shutdown()
        with pytest.raises(SystemExit) as end, shutdown.deferred():
            shutdown.handle(signal.SIGINT)
            shutdown.handle(signal.SIGTERM)
        assert end.value.code == 130

    def test_pause_between_attempts_is_interruptible(self) -> None:
        shutdown = Shutdown()
        with pytest.raises(SystemExit), shutdown.deferred():
            with shutdown.interruptible():
                shutdown.handle(signal.SIGTERM)
            pytest.fail("the work continued")

    def test_pause_does_not_begin_after_a_signal(self) -> None:
        shutdown = Shutdown()
        with pytest.raises(SystemExit), shutdown.deferred():
            shutdown.handle(signal.SIGTERM)
            with shutdown.interruptible():
                pytest.fail("the pause began")

    def test_work_that_hangs_is_aborted(self) -> None:
        """After the grace the process ends without clean-up, with the code of the signal."""
        ended: list[int] = []
        shutdown = Shutdown(grace=0.01, exit_now=ended.append)
        with pytest.raises(SystemExit), shutdown.deferred():
            shutdown.handle(signal.SIGTERM)
            wait_until(lambda: ended)
        assert ended == [143]

    def test_error_is_not_hidden_by_a_signal(self) -> None:
        shutdown = Shutdown()
        with pytest.raises(ValueError, match="broken"), shutdown.deferred():
            shutdown.handle(signal.SIGTERM)
            raise ValueError("broken")  # noqa: EM101
