"""A connection that is opened again when it was lost."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from datasync_monitor.database import (
    DatabaseRejected,
    DatabaseSettings,
    DatabaseUnavailable,
    ReconnectingConnection,
    table_size,
)
from datasync_monitor.snapshot import read_snapshot

from tests.monitoring.monitoring_helpers import (
    free_port,
    partition_events,
    server_process,
    settings_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from datasync_sandbox.testing import Cluster

    from tests.monitoring.monitoring_helpers import TableWriter

UNUSED = DatabaseSettings("127.0.0.1", port=1, password="hunter2")  # noqa: S106
SERVER = 'connection to server at "::1", port 5432 failed:'


def one(connection: psycopg.Connection[Any]) -> int:
    return connection.execute("SELECT 1").fetchone()[0]


def test_without_a_password_libpq_looks_for_one(
    settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"*:*:*:*:{settings.password}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "missing"))
    with ReconnectingConnection(replace(settings, password="")) as database:
        with pytest.raises(DatabaseRejected, match="no password supplied"):
            database.run(one)
        monkeypatch.setenv("PGPASSFILE", str(passwords))
        assert database.run(one) == 1


def test_every_transaction_has_its_own_settings(
    settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDATESTYLE", "SQL, DMY")
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    query = """SELECT current_setting('TimeZone'), current_setting('transaction_read_only'),
                      current_setting('statement_timeout'), current_setting('application_name'),
                      '2026-01-27 19:00:00+00'::timestamptz::text"""
    with ReconnectingConnection(settings) as reading:
        values = reading.run(lambda connection: connection.execute(query).fetchone())
    assert values == ("UTC", "on", "10s", "datasync-monitor", "2026-01-27 19:00:00+00")
    with ReconnectingConnection(
        settings, application_name="writer", read_only=False, statement_timeout_seconds=0
    ) as writing:
        values = writing.run(lambda connection: connection.execute(query).fetchone())
    assert values == ("UTC", "off", "0", "writer", "2026-01-27 19:00:00+00")


@contextmanager
def pgbouncer(cluster: Cluster, directory: Path) -> Iterator[DatabaseSettings]:
    """Run PgBouncer with one server connection in transaction mode."""
    port = free_port()
    users = directory / "users"
    users.write_text(f'"{cluster.user}" "{cluster.password}"\n')
    config = directory / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host={cluster.host} port={cluster.port} password={cluster.password}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = plain\nauth_file = {users}\npool_mode = transaction\ndefault_pool_size = 1\n"
    )
    command = ["pgbouncer", "-q", str(config)]
    if os.getuid() == 0:
        # It refuses to run as root, and reads its files before it changes the user.
        command[1:1] = ["-u", "nobody"]
    with server_process(command, port):
        yield replace(settings_of(cluster), port=port)


@pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="pgbouncer is not installed")
def test_pgbouncer_in_transaction_mode_is_supported(cluster: Cluster, tmp_path: Path) -> None:
    with (
        pgbouncer(cluster, tmp_path) as settings,
        ReconnectingConnection(settings) as reading,
        ReconnectingConnection(settings, read_only=False) as writing,
    ):
        for number in range(8):  # more often than psycopg's threshold for prepared statements
            writing.run(lambda connection: connection.execute("CREATE TEMP TABLE t (n int)"))
            writing.run(lambda connection: connection.execute("DROP TABLE t"))
            read = reading.run(
                lambda connection, number=number: connection.execute(
                    "SELECT %s, current_setting('transaction_read_only')", (number,)
                ).fetchone()
            )
            assert read == (number, "on")


def test_a_failed_transaction_leaves_nothing_behind(settings: DatabaseSettings) -> None:
    def work(connection: psycopg.Connection[Any]) -> None:
        connection.execute("CREATE TABLE t ()")
        raise KeyError

    with ReconnectingConnection(settings, read_only=False) as database:
        with pytest.raises(KeyError):
            database.run(work)
        assert database.run(lambda connection: table_size(connection, "t")) is None


def test_a_connection_that_was_lost_is_replaced_and_work_is_not_repeated(
    cluster: Cluster, settings: DatabaseSettings
) -> None:
    calls = []

    def work(connection: psycopg.Connection[Any]) -> int:
        calls.append(connection)
        return one(connection)

    with ReconnectingConnection(settings) as database:
        database.run(work)
        port = cluster.port
        cluster.stop("immediate")
        try:
            with pytest.raises(DatabaseUnavailable, match="Cannot connect to the database"):
                database.run(work)
        finally:
            cluster.start(port)
        assert database.run(work, attempts=10) == 1
    assert len(calls) == 2


def test_a_connection_lost_in_the_middle_is_reported(settings: DatabaseSettings) -> None:
    with ReconnectingConnection(settings, read_only=False) as database:
        with pytest.raises(DatabaseUnavailable, match="was lost: terminating connection"):
            database.run(
                lambda connection: connection.execute(
                    "SELECT pg_terminate_backend(pg_backend_pid())"
                )
            )
        assert database.run(one) == 1


def test_connecting_is_repeated_as_often_as_asked_for() -> None:
    pauses: list[float] = []
    database = ReconnectingConnection(UNUSED, sleep=pauses.append)
    with pytest.raises(DatabaseUnavailable) as unavailable:
        database.run(one, attempts=3)
    assert pauses == [2.0, 2.0]
    assert str(unavailable.value) == (
        "Cannot connect to the database events at 127.0.0.1:1: Connection refused."
    )
    assert "hunter2" not in str(unavailable.value) + repr(UNUSED)


def test_a_refused_login_is_not_repeated(settings: DatabaseSettings) -> None:
    pauses: list[float] = []
    missing = replace(settings, name="missing")
    database = ReconnectingConnection(missing, sleep=pauses.append)
    with pytest.raises(DatabaseRejected, match='database "missing" does not exist'):
        database.run(one, attempts=3)
    assert pauses == []


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (f'{SERVER} FATAL:  role "u" does not exist', DatabaseRejected, 'role "u" does not exist'),
        (
            f'{SERVER} FATAL:  password authentication failed for user "u"',
            DatabaseRejected,
            'password authentication failed for user "u"',
        ),
        (
            f'{SERVER} refused\n\tIs it up?\n{SERVER} FATAL:  permission denied for database "n".',
            DatabaseRejected,
            'permission denied for database "n"',
        ),
        (
            f"{SERVER} FATAL:  the database system is starting up",
            DatabaseUnavailable,
            "the database system is starting up",
        ),
        (f"{SERVER} Permission denied", DatabaseUnavailable, "Permission denied"),
        ("out of memory\nDETAIL:  more", DatabaseUnavailable, "out of memory"),
        ("", DatabaseUnavailable, "OperationalError"),
    ],
)
def test_only_a_server_that_answers_and_refuses_is_taken_for_a_refusal(
    monkeypatch: pytest.MonkeyPatch, text: str, kind: type[DatabaseUnavailable], reason: str
) -> None:
    """The reason of several addresses is that of the last one, in one line."""

    def refuse(**_: object) -> None:
        raise psycopg.OperationalError(text)

    monkeypatch.setattr(psycopg, "connect", refuse)
    with pytest.raises(DatabaseUnavailable) as unavailable:
        ReconnectingConnection(UNUSED).run(one)
    assert type(unavailable.value) is kind
    assert str(unavailable.value).endswith(f" events at 127.0.0.1:1: {reason}.")


def test_a_statement_that_takes_too_long_is_cancelled(settings: DatabaseSettings) -> None:
    with (
        ReconnectingConnection(settings, statement_timeout_seconds=0.01) as database,
        pytest.raises(DatabaseUnavailable, match="canceling statement due to statement timeout"),
    ):
        database.run(lambda connection: connection.execute("SELECT pg_sleep(60)"))


def test_reading_gives_way_to_a_transaction_that_would_deadlock(
    database: ReconnectingConnection, writer: TableWriter
) -> None:
    """`read_snapshot` holds a lock on `checkpoint` while it waits for `pages`."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'pages'::regclass"
    with ThreadPoolExecutor() as executor, writer.connection.transaction():
        writer.connection.execute("LOCK TABLE pages")
        snapshot = executor.submit(database.run, read_snapshot)
        while not writer.connection.execute(waiting).fetchone()[0]:
            time.sleep(0.01)
        writer.connection.execute("LOCK TABLE checkpoint")
        with pytest.raises(DatabaseUnavailable, match="lock timeout"):
            snapshot.result()
    assert database.run(read_snapshot).pages == ()


@pytest.mark.parametrize("partitioned", [False, True])
def test_the_size_of_a_table_includes_its_partitions(
    database: ReconnectingConnection, writer: TableWriter, *, partitioned: bool
) -> None:
    writer.connection.execute(
        "INSERT INTO events (id, name) SELECT n, repeat('x', 100) FROM generate_series(1, 9000) n"
    )
    if partitioned:
        partition_events(writer.connection)
    # Counts of inserted rows that arrive after ANALYZE would be added to its result.
    writer.connection.execute("SELECT pg_stat_force_next_flush()")
    writer.connection.execute("ANALYZE events")
    size = database.run(lambda connection: table_size(connection, "events"))
    assert size is not None
    assert size.rows == 9000
    assert size.rows_per_block == pytest.approx(size.rows / size.blocks, rel=0.01)
    parts = 4 if partitioned else 1
    assert size.largest_partition_blocks == pytest.approx(size.blocks / parts, rel=0.1)
