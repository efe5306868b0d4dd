"""PostgreSQL away, restarted, or refusing: waited for where that helps, said at once where not."""

from __future__ import annotations

import logging
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from target_config import checkpoint
from target_config import database as database_module
from target_config.failures import DatabaseError, SettingsError
from target_helpers import (
    Database,
    batch,
    event,
    record,
    schemas,
    state_message,
    states,
    stdin,
    wait_until,
    write_batch,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from target_config.target import TargetPostgresCheckpoint

    Make = Callable[..., TargetPostgresCheckpoint]


class Sleep:
    """Stands in for the pause: counts, and lets the test do something while time passes."""

    def __init__(self, *actions: Callable[[], object]) -> None:
        self.slept: list[float] = []
        self._actions = list(actions)

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        if self._actions:
            self._actions.pop(0)()


def with_sleep(target: TargetPostgresCheckpoint, sleep: Sleep) -> TargetPostgresCheckpoint:
    connector = target.database.connector
    target.database = database_module.Database(connector, target.shutdown, sleep=sleep)
    return target


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port on which nobody listens: bound, so that nobody else takes it meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def script(*parts: Iterable[dict[str, Any]] | Callable[[], object]) -> Any:
    """Play a tap between whose messages things happen."""
    for part in parts:
        if callable(part):
            part()
        else:
            yield from stdin(part)


def page(number: int) -> list[dict[str, Any]]:
    return [record("events", event(number)), state_message(number)]


def test_first_connection_is_tried_ten_times_more(
    make_target: Make, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody listens: ten pauses of two seconds, each told, then one sentence with the address."""
    sleep = Sleep()
    target = with_sleep(make_target(port=free_port), sleep)
    with pytest.raises(DatabaseError, match=f"127.0.0.1:{free_port} was away for more than 20 s"):
        target.prepare()
    assert sleep.slept == [2.0] * 10
    told = [entry.message for entry in caplog.records if entry.name == "target-postgres.database"]
    assert len(told) == 10
    assert "trying again in 2 s (1 of 10)" in told[0]
    assert "Connection refused" in told[0]


def test_a_database_that_starts_late_is_waited_for(database: Database, make_target: Make) -> None:
    """The server comes up during the third pause."""
    database.cluster.stop()
    sleep = Sleep(lambda: None, lambda: None, database.cluster.start)
    target = with_sleep(make_target(), sleep)
    target.prepare()
    assert sleep.slept == [2.0] * 3
    assert database.value("SELECT count(*) FROM events") == 0


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("password", "s3cret-and-wrong", 'password authentication failed for user "datasync"'),
        ("database", "nowhere", 'database "nowhere" does not exist'),
        ("user", "nobody", "password authentication failed"),
    ],
)
def test_a_refused_connection_is_said_at_once(
    make_target: Make, setting: str, value: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No pause, one sentence, exit code 2, and no password anywhere."""
    caplog.set_level(logging.DEBUG)
    sleep = Sleep()
    target = with_sleep(make_target(**{setting: value}), sleep)
    with pytest.raises(
        SettingsError, match="Check the settings user, password and database"
    ) as caught:
        target.prepare()
    assert sentence in str(caught.value)
    assert sleep.slept == []
    for text in (str(caught.value), caplog.text):
        assert "s3cret-and-wrong" not in text
        assert target.config["password"] not in text


def test_a_connection_that_pg_hba_conf_rejects_is_said_at_once(
    database: Database, make_target: Make
) -> None:
    """A rule that rejects is one more refusal, in other words than a rule that is missing."""
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
        target.prepare()
    assert sleep.slept == []


def test_restart_between_batches(
    database: Database, make_target: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server restarts between two pages: both are there, and both STATEs."""
    sleep = Sleep()

    def restart() -> None:
        database.cluster.stop()
        database.cluster.start()

    target = with_sleep(make_target(), sleep)
    target.listen(script(schemas(), page(1), restart, page(2)))
    assert database.rows("SELECT id FROM events ORDER BY id") == [("event-1",), ("event-2",)]
    assert len(states(capsys.readouterr().out)) == 2


def test_a_session_that_the_server_has_ended_is_opened_anew(make_target: Make) -> None:
    """One that was idle for too long (idle_session_timeout) is nobody's fault: tried again."""
    sleep = Sleep()
    failures: list[Exception] = [psycopg.errors.IdleSessionTimeout("terminating connection")]

    def write() -> str:
        if failures:
            raise failures.pop()
        return "written"

    assert with_sleep(make_target(), sleep).database.run("a page", write) == "written"
    assert sleep.slept == [2.0]


def test_a_crash_between_the_rows_and_their_checkpoint(
    database: Database, make_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint, tried again after the crash, claims no rows that the crash took back."""
    save, crashes = checkpoint.save, []

    def crash_first(*what: Any) -> None:
        if not crashes:
            crashes.append(database.cluster.stop("immediate"))
        save(*what)

    monkeypatch.setattr(checkpoint, "save", crash_first)
    target = with_sleep(make_target(), Sleep(database.cluster.start))
    target.listen(script(schemas(), page(1)))
    assert crashes == [True]
    assert database.rows("SELECT count(*), (SELECT events_seen FROM checkpoint) FROM events") == [
        (1, 1)
    ]


@pytest.mark.parametrize("lane", ["record", "bulk", "state alone"])
def test_down_when_a_page_comes(
    database: Database,
    make_target: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    lane: str,
) -> None:
    """The server is down when a page is to be written and comes back: the page goes in whole."""
    sleep = Sleep(lambda: None, database.cluster.start)
    second = page(2)
    if lane == "bulk":
        second = [batch(write_batch(tmp_path, "page-2", [event(2)])), state_message(2)]
    elif lane == "state alone":
        second = [state_message(2)]
    target = with_sleep(make_target(), sleep)
    target.listen(script(schemas(), page(1), lambda: database.cluster.stop("immediate"), second))
    assert sleep.slept == [2.0, 2.0]
    expected = 1 if lane == "state alone" else 2
    assert database.rows("SELECT count(*), (SELECT events_seen FROM checkpoint) FROM events") == [
        (expected, 2)
    ]
    assert len(states(capsys.readouterr().out)) == 2


def test_connection_lost_in_the_middle_of_a_batch(
    database: Database, make_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend dies between COPY and INSERT: the whole transaction is sent again."""
    sleep = Sleep()
    target = with_sleep(make_target(), sleep)
    stock = target.default_sink_class.upsert
    deaths: list[bool] = []

    def upsert(*args: Any, **kwargs: Any) -> int | None:
        if not deaths:
            deaths.append(True)
            # terminates only this database's own sessions but the one that asks
            database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        return stock(*args, **kwargs)

    monkeypatch.setattr(target.default_sink_class, "upsert", upsert)
    target.listen(stdin([*schemas(), *page(1)]))
    assert sleep.slept == [2.0]
    assert database.rows("SELECT id FROM events") == [("event-1",)]


def test_refused_rows_end_in_one_sentence_without_the_data(make_target: Make) -> None:
    """Bad data is not tried again; the row that PostgreSQL quotes stays out of the sentence."""
    sleep = Sleep()
    target = with_sleep(make_target(), sleep)
    bad = record("events", event(1, name="secret\0name"))
    with pytest.raises(DatabaseError, match='PostgreSQL refused a batch of "events"') as caught:
        target.listen(stdin([*schemas(), bad, state_message(1)]))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sleep.slept == []


def test_a_missing_grant_needs_a_person(database: Database, make_target: Make) -> None:
    """Waiting does not bring a privilege: exit code 2."""
    with database.connect() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("CREATE TABLE pg_catalog.events ()")
    with pytest.raises(
        SettingsError, match="PostgreSQL refused the tables: permission denied"
    ) as caught:
        make_target(default_target_schema="pg_catalog").prepare()
    assert caught.value.exit_code == 2


def test_a_database_that_takes_no_writes_needs_a_person(
    database: Database, make_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby, for instance: exit code 2."""
    monkeypatch.setenv("PGOPTIONS", "-c default_transaction_read_only=on")
    assert database.value("SHOW transaction_read_only") == "on"
    with pytest.raises(SettingsError, match="PostgreSQL refused the tables: cannot execute"):
        make_target().prepare()


def test_a_column_that_a_view_needs_needs_a_person(database: Database, make_target: Make) -> None:
    """PostgreSQL does not convert it (feature not supported), however often it is asked."""
    database.execute(
        "CREATE TABLE events (id TEXT PRIMARY KEY, timestamp TIMESTAMP);"
        "CREATE VIEW reading AS SELECT timestamp FROM events"
    )
    with pytest.raises(SettingsError, match="cannot alter type of a column used by a view"):
        make_target().prepare()
