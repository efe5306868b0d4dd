"""PostgreSQL is unreachable, restarts or rejects: transient errors are retried, others not."""

from __future__ import annotations

import logging
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from target_config.connector import CheckpointConnector
from target_config.errors import (
    DatabaseUnavailableError,
    InvalidDataError,
    SettingsError,
    is_transient,
)
from target_config.sink import CheckpointSink
from target_config.target import TargetPostgresCheckpoint
from target_helpers import (
    Database,
    Make,
    event,
    play,
    record,
    scan,
    schemas,
    state_message,
    states,
    stdin,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Sleep:
    """Replaces the pause between attempts: records it, and runs an action of the test."""

    def __init__(self, *actions: Callable[[], object]) -> None:
        self.slept: list[float] = []
        self._actions = list(actions)

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        if self._actions:
            self._actions.pop(0)()


def with_sleep(target: TargetPostgresCheckpoint, sleep: Sleep) -> TargetPostgresCheckpoint:
    target.target_connector = CheckpointConnector(dict(target.config), target.shutdown, sleep=sleep)
    return target


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port without a listener: bound, so that no other process can use it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def page(number: int) -> list[dict[str, Any]]:
    return [record("events", event(number)), state_message(number)]


def test_first_connection_is_retried_ten_times(
    make_target: Make, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten pauses of two seconds, each logged, then one message with the address; exit code 1."""
    sleep = Sleep()
    target = with_sleep(make_target(port=free_port), sleep)
    with pytest.raises(
        DatabaseUnavailableError, match=f"127.0.0.1:{free_port} was not available for 20 s"
    ) as caught:
        target.load(stdin([]))
    assert caught.value.exit_code == 1
    assert sleep.slept == [2.0] * 10
    messages = [entry.message for entry in caplog.records if entry.name.endswith(".database")]
    assert len(messages) == 10
    assert "trying again in 2 s (1 of 10)" in messages[0]
    assert "Connection refused" in messages[0]


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("password", "s3cret-and-wrong", 'password authentication failed for user "datasync"'),
        ("database", "nowhere", 'database "nowhere" does not exist'),
        ("user", "unknown", "password authentication failed"),
    ],
)
def test_rejected_connection_is_not_retried(
    make_target: Make, setting: str, value: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One message, exit code 2, no password anywhere."""
    caplog.set_level(logging.DEBUG)
    sleep = Sleep()
    target = with_sleep(make_target(**{setting: value}), sleep)
    with pytest.raises(SettingsError, match=r"rejected the connection: .* Check the") as caught:
        target.load(stdin([]))
    assert message in str(caught.value)
    assert sleep.slept == []
    for text in (str(caught.value), caplog.text):
        assert "s3cret-and-wrong" not in text
        assert target.config["password"] not in text


def test_connection_that_pg_hba_conf_rejects_is_not_retried(
    database: Database, make_target: Make
) -> None:
    rules = database.cluster.directory.resolve() / "data" / "pg_hba.conf"
    rules.write_text(f"host rejected all all reject\n{rules.read_text()}")
    before = database.value("SELECT pg_conf_load_time()")
    server = database.cluster.pid()
    assert server
    os.kill(server, signal.SIGHUP)
    wait_until(lambda: database.value("SELECT pg_conf_load_time()") > before)
    sleep = Sleep()
    target = with_sleep(make_target(database="rejected"), sleep)
    with pytest.raises(SettingsError, match=r"pg_hba\.conf rejects connection"):
        target.load(stdin([]))
    assert sleep.slept == []


def test_database_that_starts_late_is_waited_for(database: Database, make_target: Make) -> None:
    database.cluster.stop()
    sleep = Sleep(lambda: None, lambda: None, database.cluster.start)
    with_sleep(make_target(), sleep).load(stdin(scan(1)))
    assert sleep.slept == [2.0] * 3
    assert database.value("SELECT count(*) FROM events") == 10


@pytest.mark.parametrize("settings", [{}, {"validate_records": True}], ids=["lines", "records"])
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_page_is_written_after_database_restart(
    database: Database,
    make_target: Make,
    capsys: pytest.CaptureFixture[str],
    mode: str,
    settings: dict[str, Any],
) -> None:
    """The page is written completely after the restart, and so is a STATE alone."""
    stop = lambda: database.cluster.stop(mode)  # noqa: E731
    sleep = Sleep(lambda: None, database.cluster.start, database.cluster.start)
    target = with_sleep(make_target(**settings), sleep)
    play(target, schemas(), page(1), stop, page(2), stop, [state_message(3)])
    assert sleep.slept == [2.0, 2.0, 2.0]
    assert database.rows("SELECT count(*), (SELECT events_seen FROM checkpoint) FROM events") == [
        (2, 3)
    ]
    assert len(states(capsys.readouterr().out)) == 3


def test_crash_between_rows_and_checkpoint_loses_no_row(
    database: Database, make_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint, written after the restart, covers no rows that the crash took back."""
    save, crashes = TargetPostgresCheckpoint._save_checkpoint, []

    def crash_first(*arguments: Any) -> None:
        if not crashes:
            crashes.append(database.cluster.stop("immediate"))
        save(*arguments)

    monkeypatch.setattr(TargetPostgresCheckpoint, "_save_checkpoint", crash_first)
    target = with_sleep(make_target(), Sleep(database.cluster.start))
    target.load(stdin([*schemas(), *page(1)]))
    assert crashes == [True]
    assert database.rows("SELECT count(*), (SELECT events_seen FROM checkpoint) FROM events") == [
        (1, 1)
    ]


def test_batch_is_repeated_after_lost_connection(
    database: Database, make_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session ends between COPY and INSERT: the whole transaction is repeated."""
    copy, ended = CheckpointSink._copy, []

    def copy_and_lose_connection(self: CheckpointSink, *arguments: Any) -> None:
        copy(self, *arguments)
        if not ended:
            ended.append(True)
            database.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    monkeypatch.setattr(CheckpointSink, "_copy", copy_and_lose_connection)
    sleep = Sleep()
    with_sleep(make_target(), sleep).load(stdin([*schemas(), *page(1)]))
    assert sleep.slept == [2.0]
    assert database.rows("SELECT id FROM events") == [("event-1",)]


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (psycopg.errors.IdleSessionTimeout("terminating connection"), True),
        (psycopg.errors.SerializationFailure("could not serialize access"), True),
        (psycopg.errors.TooManyConnections("too many clients"), True),
        (psycopg.errors.InternalError_("failure on connection marked as essential: w:5432"), True),
        (psycopg.errors.InternalError_("server closed the connection unexpectedly"), True),
        (psycopg.errors.InternalError_("cache lookup failed"), False),
        (psycopg.OperationalError("connection failed: no route to host"), True),
        (psycopg.OperationalError("connection failed: FATAL: no such database: x"), False),
        (psycopg.errors.DiskFull("No space left on device"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_classifies_transient_errors(error: psycopg.Error, transient: bool) -> None:  # noqa: FBT001
    assert is_transient(error) is transient


@pytest.mark.parametrize(
    ("error", "expected", "exit_code"),
    [
        (psycopg.errors.QueryCanceled("canceling statement"), DatabaseUnavailableError, 1),
        (psycopg.errors.InsufficientPrivilege("permission denied"), SettingsError, 2),
        (psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT"), SettingsError, 2),
        (psycopg.errors.UndefinedTable('relation "x" does not exist'), SettingsError, 2),
        (psycopg.errors.FeatureNotSupported("not supported"), SettingsError, 2),
        (psycopg.errors.NumericValueOutOfRange("integer out of range"), InvalidDataError, 3),
        (psycopg.errors.UniqueViolation("duplicate key"), InvalidDataError, 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_permanent_error_has_its_exit_code(
    make_target: Make, error: Exception, expected: type[Exception], exit_code: int
) -> None:
    """No pause, one message with the words of PostgreSQL."""
    sleep = Sleep()

    def fail() -> None:
        raise error

    with pytest.raises(expected, match=f"PostgreSQL refused a batch: {error}") as caught:
        with_sleep(make_target(), sleep).target_connector.retry("a batch", fail)
    assert caught.value.exit_code == exit_code
    assert sleep.slept == []


def test_full_disk_is_named_and_not_retried(make_target: Make) -> None:
    """Exit code 1, without retries in the target: the caller may retry, within its limits."""
    sleep = Sleep()

    def fail() -> None:
        raise psycopg.errors.DiskFull

    with pytest.raises(DatabaseUnavailableError, match="The disk of PostgreSQL is full"):
        with_sleep(make_target(), sleep).target_connector.retry("a batch", fail)
    assert sleep.slept == []


def test_message_does_not_quote_rows(make_target: Make) -> None:
    bad = record("events", event(1, name="secret\0name"))
    with pytest.raises(InvalidDataError, match='PostgreSQL refused a batch of "events"') as caught:
        make_target().load(stdin([*schemas(), bad, state_message(1)]))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
