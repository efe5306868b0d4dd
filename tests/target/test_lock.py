"""One load per schema, whatever machine it runs on."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import sqlalchemy
from target_config.connector import LOCK_CLASS, CheckpointConnector
from target_config.errors import DatabaseUnavailableError, LockedError
from target_helpers import (
    Database,
    Make,
    event,
    lines,
    play,
    record,
    scan,
    schemas,
    start,
    state_message,
    states,
    stdin,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path


# As in target-config/README.md.
HOLDER = f"""
    SELECT a.pid, a.application_name, host(a.client_addr), a.xact_start
      FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
     WHERE (l.locktype, l.granted, l.objsubid) = ('advisory', true, 2)
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND (l.classid, l.objid) = ({LOCK_CLASS}::oid, hashtext('public')::oid)
"""


def test_second_load_is_refused_until_the_first_one_ends(
    database: Database, make_target: Make, tmp_path: Path
) -> None:
    """The message names the holder, the exit code is 75; a kill releases the lock as well."""
    for end in (signal.SIGKILL, signal.SIGTERM, None):
        with start(database, tmp_path) as first:
            assert first.stdin
            assert first.stdout
            first.stdin.write(lines([*schemas(), state_message(1)]))
            first.stdin.flush()
            first.stdout.readline()
            pid, name, address, since = database.rows(HOLDER)[0]
            assert (name, address) == ("target-postgres-checkpoint", "127.0.0.1")
            with pytest.raises(LockedError) as caught:
                make_target().load(stdin([]))
            assert f"target-postgres-checkpoint, server process {pid}" in str(caught.value)
            assert f"since {since:%Y-%m-%d %H:%M}" in str(caught.value)
            assert caught.value.exit_code == 75
            # Another schema is another load.
            make_target(default_target_schema="other").load(stdin(scan(1)))
            if end:
                first.send_signal(end)
            first.communicate()
        wait_until(lambda: not database.rows(HOLDER))
    make_target().load(stdin(scan(1)))


def test_lock_is_released_before_its_connection_is_closed(
    database: Database, make_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may notice the end of a connection only later."""
    holders = []
    with database.connect() as observer:

        def invalidate(self: sqlalchemy.Connection) -> None:
            holders.append(observer.execute(HOLDER.encode()).fetchone())
            close(self)

        close = sqlalchemy.Connection.invalidate
        monkeypatch.setattr(sqlalchemy.Connection, "invalidate", invalidate)
        make_target().load(stdin(scan(1)))
    assert holders == [None]


def test_refused_load_has_exit_code_75(
    database: Database, make_target: Make, tmp_path: Path
) -> None:
    with make_target().lock:
        second = start(database, tmp_path)
        _, errors = second.communicate(lines(scan(1)))
    assert second.returncode == 75
    assert errors.count(b'Another load into schema "public" of this database is running') == 1


def test_lock_is_not_subject_to_timeouts_of_the_role(database: Database, make_target: Make) -> None:
    database.execute(
        f"ALTER DATABASE {database.name} SET idle_in_transaction_session_timeout = '500ms'"
    )

    def wait() -> None:
        with database.connect() as other:
            other.execute("SELECT pg_sleep(0.8)")

    play(make_target(), schemas(), [state_message(1)], wait, [state_message(2)])
    assert database.value("SELECT events_seen FROM checkpoint") == 2


def _terminate(database: Database) -> None:
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def test_lost_lock_is_acquired_again(database: Database, make_target: Make) -> None:
    holders: list[int] = []
    play(
        make_target(),
        schemas(),
        [state_message(1)],
        lambda: _terminate(database),
        [record("events", event(1)), state_message(2)],
        lambda: holders.append(len(database.rows(HOLDER))),
    )
    assert holders == [1]
    assert database.value("SELECT events_seen FROM checkpoint") == 2


def test_load_ends_when_another_one_has_taken_the_lost_lock(
    database: Database, make_target: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tried for as long as PostgreSQL may take to notice a lost connection; no checkpoint then."""
    target = make_target()
    target.target_connector = CheckpointConnector(
        dict(target.config), target.shutdown, sleep=lambda _: None
    )
    thief = make_target().lock

    def take_over() -> None:
        _terminate(database)
        thief.hold()

    with pytest.raises(DatabaseUnavailableError, match="Another load into schema"):
        play(
            target,
            schemas(),
            [state_message(1)],
            take_over,
            [record("events", event(1)), state_message(2)],
        )
    assert len(states(capsys.readouterr().out)) == 1
    assert database.value("SELECT events_seen FROM checkpoint") == 1
    thief.__exit__()
