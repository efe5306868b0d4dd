"""Rows, then the checkpoint, then the STATE: in order, and whatever ends the process."""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from target_config import target
from target_config.errors import InvalidDataError
from target_config.shutdown import Shutdown

from tests.helpers import Database, wait_until
from tests.target.target_helpers import (
    Make,
    event,
    exchange,
    lines,
    page,
    record,
    scan,
    schemas,
    start,
    state,
    state_message,
    states,
    stdin,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def test_state_is_printed_while_the_tap_is_running(database: Database, tmp_path: Path) -> None:
    """With stdin open the STATE comes back after its page; rows and checkpoint are there then."""
    with start(database, tmp_path) as process:
        assert exchange(process, [*schemas(), *page(1)]) == state(1)
        assert database.progress() == (1, 1)
        assert exchange(process, page(2)) == state(2)
        assert database.progress() == (2, 2)
        # A page that emits nothing still moves the STATE.
        assert exchange(process, [state_message(3)]) == state(3)
        assert database.progress() == (2, 3)
        output, _ = process.communicate()
    assert process.returncode == 0
    assert states(output) == []


def test_commits_rows_then_checkpoint_then_prints_state(
    database: Database, make_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others see the rows when the checkpoint is written, and both when the STATE is printed."""
    found: list[tuple[str, int, int | None]] = []

    def recording(step: str, function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            rows = database.value("SELECT count(*) FROM events")
            found.append((step, rows, database.value("SELECT max(events_seen) FROM checkpoint")))
            function(*arguments)

        return call

    for owner, step in (
        (target.TargetPostgresCheckpoint, "_save_checkpoint"),
        (target, "_print_state"),
    ):
        monkeypatch.setattr(owner, step, recording(step, getattr(owner, step)))
    make_target().load(stdin(scan(2)))
    assert found == [
        ("_save_checkpoint", 10, None),
        ("_print_state", 10, 10),
        ("_save_checkpoint", 20, 10),
        ("_print_state", 20, 20),
    ]


def test_repeated_state_is_written_once_and_its_rows_are_committed(
    database: Database, make_target: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make_target().load(stdin([*schemas(), *page(1), *page(1, event(2))]))
    assert database.progress() == (2, 1)
    assert states(capsys.readouterr().out) == [state(1)]


@pytest.mark.parametrize("settings", [{}, {"validate_records": True}], ids=["lines", "records"])
def test_failed_step_prevents_later_steps(
    database: Database,
    make_target: Make,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
) -> None:
    """If PostgreSQL rejects rows or checkpoint, neither checkpoint nor STATE follows."""
    make_target(**settings).load(stdin(schemas()))
    database.execute("ALTER TABLE checkpoint ADD CHECK (events_seen < 15)")
    with pytest.raises(InvalidDataError, match="refused the checkpoint: new row for relation"):
        make_target(**settings).load(stdin(scan(2)))
    assert states(capsys.readouterr().out) == [state(10, 20)]
    assert database.progress() == (20, 10)
    database.execute("TRUNCATE checkpoint; ALTER TABLE events ADD CHECK (id <> 'event-25')")
    with pytest.raises(InvalidDataError, match='refused a batch of "events"'):
        make_target(**settings).load(stdin(scan(2, first=20)))
    assert capsys.readouterr().out.count("\n") == 0
    assert database.progress() == (20, None)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("settings", [{}, {"validate_records": True}], ids=["lines", "records"])
def test_kill_at_any_time_leaves_consistent_tables(
    database: Database, tmp_path: Path, settings: dict[str, Any], seed: int
) -> None:
    """After SIGKILL the checkpoint covers each printed STATE, and the rows the checkpoint."""
    chance = random.Random(seed)
    pages, size = 60, 100
    messages = scan(pages, size)
    source = tmp_path / "input.jsonl"
    source.write_bytes(lines(messages))
    with source.open("rb") as file, start(database, tmp_path, stdin=file, **settings) as process:
        first = b"".join(process.stdout.readline() for _ in range(chance.randrange(1, 12)))
        time.sleep(chance.uniform(0, 0.03))  # anywhere in a page
        process.kill()
        output = first + process.stdout.read()
    printed = [
        value["bookmarks"]["events"]["events_seen"] for value in states(output.rpartition(b"\n")[0])
    ]
    rows, saved = database.progress()
    assert printed == [size * number for number in range(1, len(printed) + 1)]
    assert printed[-1] <= saved <= rows
    # Each page up to the checkpoint is whole.
    assert (
        database.value(f"SELECT count(*) FROM events WHERE split_part(id, '-', 2)::int < {saved}")
        == saved
    )


def test_closed_stdout_ends_in_one_message(database: Database, tmp_path: Path) -> None:
    """No traceback; rows and checkpoint are committed."""
    with start(database, tmp_path) as process:
        process.stdout.close()
        process.stdout = None
        _, errors = process.communicate(lines(scan(2)))
    assert process.returncode == 1
    assert b"Traceback" not in errors
    assert errors.count(b"CRITICAL") == 1
    assert b"stdout is closed" in errors
    assert database.value("SELECT events_seen FROM checkpoint") == 10


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_incomplete_page_is_dropped(
    database: Database, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Between pages the target exits at once, with nothing of the incomplete page written."""
    with start(database, tmp_path) as process:
        assert exchange(process, [*schemas(), *page(1), record("events", event(2))]) == state(1)
        process.send_signal(number)
        output, errors = process.communicate()
    assert process.returncode == code
    assert output == b""
    assert b"Traceback" not in errors
    assert f"Stopped by {number.name}".encode() in errors
    assert database.rows("SELECT id FROM events") == [("event-1",)]


def test_transaction_in_progress_is_finished(database: Database, tmp_path: Path) -> None:
    """Rows that wait for a lock are still written, with checkpoint and STATE."""
    with start(database, tmp_path) as process, database.connect() as other:
        assert exchange(process, [*schemas(), *page(1)]) == state(1)
        with other.transaction():
            other.execute("LOCK TABLE events IN SHARE MODE")
            process.stdin.write(lines(page(2)))
            process.stdin.flush()
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            wait_until(lambda: other.execute(waiting).fetchone())
            process.send_signal(signal.SIGTERM)
        output, _ = process.communicate()
    assert process.returncode == 143
    assert states(output) == [state(2)]
    assert database.progress() == (2, 2)


def test_more_signals_do_not_change_the_exit_code(database: Database, tmp_path: Path) -> None:
    with start(database, tmp_path) as process:
        exchange(process, [*schemas(), *page(1)])

        def ended_after_more_signals() -> bool:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            return process.poll() is not None

        wait_until(ended_after_more_signals)
        _, errors = process.communicate()
    assert process.returncode in {130, 143}
    assert b"Traceback" not in errors


def test_signal_that_was_ignored_at_the_start_stays_ignored(
    database: Database, tmp_path: Path
) -> None:
    """As under nohup: the terminal is closed, and the load continues."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(database, tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert exchange(process, [state_message(1)]) == state(1)
    process.send_signal(signal.SIGHUP)
    output, errors = process.communicate(lines([state_message(2)]))
    assert process.returncode == 0, errors
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

    def test_waits_for_the_outermost_piece_of_work(self) -> None:
        """The first signal counts: Ctrl-C in a terminal is followed by Meltano's SIGTERM."""
        shutdown = Shutdown()
        done = []
        with pytest.raises(SystemExit) as end, shutdown.deferred():
            with shutdown.deferred():
                shutdown.handle(signal.SIGINT)
                shutdown.handle(signal.SIGTERM)
                done.append("inner")
            done.append("outer")
        assert (end.value.code, done) == (130, ["inner", "outer"])

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
