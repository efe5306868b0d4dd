"""SIGTERM and SIGINT: a transaction in hand is finished, a page in hand is dropped whole."""

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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_page_without_its_state_is_dropped(
    database: Database, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Waiting for the rest of a page: it ends at once, with nothing of that page written."""
    with start(database, tmp_path) as loader:
        assert loader.stdin
        assert loader.stdout
        whole = [record("events", event(1)), state_message(1)]
        loader.stdin.write(lines([*schemas(), *whole, record("events", event(2))]))
        loader.stdin.flush()
        assert states(loader.stdout.readline()) == [state(1)]
        loader.send_signal(number)
        output, errors = loader.communicate()
    assert loader.returncode == code
    assert output == b""
    assert b"Traceback" not in errors
    assert b"Stopped by a signal" in errors
    assert database.rows("SELECT id FROM events") == [("event-1",)]


def test_a_flush_under_way_is_finished(database: Database, tmp_path: Path) -> None:
    """The rows wait for a lock when the signal comes: they, checkpoint and STATE still go out."""
    with start(database, tmp_path) as loader, database.connect() as other:
        assert loader.stdin
        assert loader.stdout
        loader.stdin.write(lines([*schemas(), record("events", event(1)), state_message(1)]))
        loader.stdin.flush()
        assert states(loader.stdout.readline()) == [state(1)]
        with other.transaction():
            other.execute("LOCK TABLE events IN SHARE MODE")
            loader.stdin.write(lines([record("events", event(2)), state_message(2)]))
            loader.stdin.flush()
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            wait_until(lambda: other.execute(waiting).fetchone())
            loader.send_signal(signal.SIGTERM)
        output, _ = loader.communicate()
    assert loader.returncode == 143
    assert states(output) == [state(2)]
    assert database.rows("SELECT count(*), (SELECT events_seen FROM checkpoint) FROM events") == [
        (2, 2)
    ]


@pytest.fixture
def alarm() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)


@pytest.mark.usefixtures("alarm")
class TestShutdown:
    """The rules alone, without a process."""

    def test_ends_at_once_when_nothing_is_under_way(self) -> None:
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

    def test_a_pause_between_attempts_may_be_cut_short(self) -> None:
        shutdown = Shutdown()
        with shutdown.deferred(), pytest.raises(SystemExit), shutdown.interruptible():
            shutdown.handle(signal.SIGTERM)

    def test_a_pause_does_not_begin_after_a_signal(self) -> None:
        shutdown = Shutdown()
        with pytest.raises(SystemExit), shutdown.deferred():
            shutdown.handle(signal.SIGTERM)
            with shutdown.interruptible():
                pytest.fail("the pause began")

    def test_work_that_hangs_is_cut_off(self) -> None:
        """After the grace the process ends without clean-up, with the code of the signal."""
        ended: list[int] = []
        shutdown = Shutdown(grace=0.01, exit_now=ended.append)
        with pytest.raises(SystemExit), shutdown.deferred():
            shutdown.handle(signal.SIGTERM)
            wait_until(lambda: ended)
        assert ended == [143]

    def test_a_failure_is_not_hidden_by_a_signal(self) -> None:
        shutdown = Shutdown()
        with pytest.raises(ValueError, match="broken"), shutdown.deferred():
            shutdown.handle(signal.SIGTERM)
            raise ValueError("broken")  # noqa: EM101
