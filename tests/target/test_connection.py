"""Connections: outages and rejections, the load lock, session settings, sockets and PgBouncer."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy
from target_config.connector import LOCK_CLASS, CheckpointConnector
from target_config.errors import (
    DatabaseUnavailableError,
    InvalidDataError,
    LockedError,
    SettingsError,
    is_transient,
)
from target_config.sink import CheckpointSink
from target_config.target import TargetPostgresCheckpoint

from tests.helpers import Database, wait_until
from tests.target.target_helpers import (
    STREAMS,
    Make,
    event,
    exchange,
    page,
    play,
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

PATHS = pytest.mark.parametrize(
    "settings", [{}, {"validate_records": True}], ids=["lines", "records"]
)
"""Records that are copied, and records that the SDK transforms."""

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

# As in target-config/README.md.
HOLDER = f"""
    SELECT a.pid, a.application_name, host(a.client_addr), a.xact_start
      FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
     WHERE (l.locktype, l.granted, l.objsubid) = ('advisory', true, 2)
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND (l.classid, l.objid) = ({LOCK_CLASS}::oid, hashtext('public')::oid)
"""


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


@PATHS
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
    assert database.progress() == (2, 3)
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
    assert database.progress() == (1, 1)


def test_batch_is_repeated_after_lost_connection(
    database: Database, make_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session ends between COPY and INSERT: the whole transaction is repeated."""
    copy, ended = CheckpointSink._copy, []

    def copy_and_lose_connection(self: CheckpointSink, *arguments: Any) -> None:
        copy(self, *arguments)
        if not ended:
            ended.append(True)
            database.end_sessions()

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
    ("error", "expected", "message"),
    [
        (psycopg.errors.QueryCanceled, DatabaseUnavailableError, "refused a batch: QueryCanceled"),
        (psycopg.errors.DiskFull, DatabaseUnavailableError, "The disk of PostgreSQL is full"),
        (psycopg.errors.InsufficientPrivilege, SettingsError, "refused a batch: Insufficient"),
        (psycopg.errors.ReadOnlySqlTransaction, SettingsError, "refused a batch: ReadOnly"),
        (psycopg.errors.UndefinedTable, SettingsError, "refused a batch: UndefinedTable"),
        (psycopg.errors.FeatureNotSupported, SettingsError, "refused a batch: FeatureNotSupp"),
        (psycopg.errors.NumericValueOutOfRange, InvalidDataError, "refused a batch: NumericValue"),
        (psycopg.errors.UniqueViolation, InvalidDataError, "refused a batch: UniqueViolation"),
    ],
)
def test_permanent_error_is_not_retried(
    make_target: Make, error: type[psycopg.Error], expected: type[Exception], message: str
) -> None:
    """One message; after a full disk the caller may retry, within its limits."""
    sleep = Sleep()

    def fail() -> None:
        raise error

    with pytest.raises(expected, match=message):
        with_sleep(make_target(), sleep).target_connector.retry("a batch", fail)
    assert sleep.slept == []


def test_exit_codes() -> None:
    """As documented: try again, change a setting or privilege, invalid data, another load."""
    errors = (DatabaseUnavailableError, SettingsError, InvalidDataError, LockedError)
    assert [error.exit_code for error in errors] == [1, 2, 3, 75]


def test_second_load_is_refused_until_the_first_one_ends(
    database: Database, make_target: Make, tmp_path: Path
) -> None:
    """The message names the holder; a kill releases the lock as well as the end of the input."""
    for end in (signal.SIGKILL, None):
        with start(database, tmp_path) as first:
            exchange(first, [state_message(1)])
            pid, name, address, since = database.rows(HOLDER)[0]
            assert (name, address) == ("target-postgres-checkpoint", "127.0.0.1")
            with pytest.raises(LockedError) as caught:
                make_target().load(stdin([]))
            assert f"target-postgres-checkpoint, server process {pid}" in str(caught.value)
            assert f"since {since:%Y-%m-%d %H:%M}" in str(caught.value)
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
        _, errors = second.communicate()
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


def test_lost_lock_is_acquired_again(database: Database, make_target: Make) -> None:
    holders: list[int] = []
    play(
        make_target(),
        schemas(),
        [state_message(1)],
        database.end_sessions,
        page(2),
        lambda: holders.append(len(database.rows(HOLDER))),
    )
    assert holders == [1]
    assert database.value("SELECT events_seen FROM checkpoint") == 2


def test_load_ends_when_another_one_has_taken_the_lost_lock(
    database: Database, make_target: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tried for as long as PostgreSQL may take to notice a lost connection; no checkpoint then."""
    target = with_sleep(make_target(), Sleep())
    thief = make_target().lock

    def take_over() -> None:
        database.end_sessions()
        thief.hold()

    with pytest.raises(DatabaseUnavailableError, match="Another load into schema"):
        play(
            target,
            schemas(),
            [state_message(1)],
            take_over,
            page(2),
        )
    assert len(states(capsys.readouterr().out)) == 1
    assert database.value("SELECT events_seen FROM checkpoint") == 1
    thief.__exit__()


SETTINGS = ("synchronous_commit", "TimeZone", "DateStyle", "client_encoding")

# Records the settings of the session that writes a row.
NOTE_SETTINGS = """
    CREATE TABLE noted (name TEXT, settings TEXT[]);
    CREATE FUNCTION note() RETURNS TRIGGER LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO noted
        SELECT TG_TABLE_NAME, array_agg(split_part(current_setting(s), ',', 1) ORDER BY o)
          FROM unnest(string_to_array(TG_ARGV[0], ' ')) WITH ORDINALITY AS u (s, o);
        RETURN NULL;
    END $$;
"""


@PATHS
def test_sessions_do_not_depend_on_the_role_or_the_environment(
    database: Database,
    make_target: Make,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
) -> None:
    """Durable commits above all: a crash must not take back what the checkpoint covers."""
    make_target().load(stdin([]))
    database.execute(NOTE_SETTINGS)
    for table in (*STREAMS, "checkpoint"):
        function = f"note('{' '.join(SETTINGS)}')"
        database.execute(f"CREATE TRIGGER note AFTER INSERT ON {table} EXECUTE FUNCTION {function}")
    database.execute(
        f"ALTER ROLE {database.cluster.user} SET DateStyle = 'SQL, DMY';"
        f"ALTER DATABASE {database.name} SET TimeZone = 'Asia/Tokyo';"
        f"ALTER DATABASE {database.name} SET synchronous_commit = off"
    )
    messages = scan(1)
    messages.insert(3, record("events", event(90, name="é€", timestamp="2026-02-03T04:05:06Z")))
    with monkeypatch.context() as environment:
        environment.setenv("PGDATESTYLE", "German")
        environment.setenv("PGTZ", "America/New_York")
        environment.setenv("PGCLIENTENCODING", "LATIN1")
        make_target(**settings).load(stdin(messages))
    expected = ["on", "UTC", "ISO", "UTF8"]
    assert database.rows("SELECT DISTINCT name, settings FROM noted ORDER BY 1") == [
        (table, expected) for table in ("checkpoint", "events", "pages")
    ]
    assert database.rows(
        "SELECT name, timestamp = '2026-02-03 04:05:06+00' FROM events WHERE id = 'event-90'"
    ) == [("é€", True)]


@pytest.fixture
def socket_directory(database: Database) -> Iterator[Path]:
    """The cluster, restarted so that it listens on a Unix socket too."""
    # A socket's path must be short.
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    directory.chmod(0o777)
    data = database.cluster.directory.resolve() / "data"
    rules, settings = data / "pg_hba.conf", data / "postgresql.auto.conf"
    before = rules.read_text(), settings.read_text()
    rules.write_text(f"local all all scram-sha-256\n{before[0]}")
    settings.write_text(f"{before[1]}\nunix_socket_directories = '{directory}'\n")
    database.cluster.stop()
    database.cluster.start()
    yield directory
    rules.write_text(before[0])
    settings.write_text(before[1])
    database.cluster.stop()
    database.cluster.start()
    shutil.rmtree(directory)


def test_host_may_be_a_socket_directory(
    database: Database, make_target: Make, socket_directory: Path
) -> None:
    make_target(host=str(socket_directory)).load(stdin(scan(1)))
    assert database.value("SELECT count(*) FROM events") == 10
    with pytest.raises(Exception, match=f"PostgreSQL at {socket_directory} rejected"):
        make_target(host=str(socket_directory), password="wrong").load(stdin([]))  # noqa: S106


@pytest.fixture
def pgbouncer(database: Database, tmp_path: Path) -> Iterator[int]:
    """PgBouncer in transaction mode with two server connections; yields its port."""
    if PGBOUNCER is None:
        pytest.skip("PgBouncer is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = database.config
    (tmp_path / "users.txt").write_text(f'"{config["user"]}" "{config["password"]}"\n')
    (tmp_path / "pgbouncer.ini").write_text(
        f"""
        [databases]
        {database.name} = host={config["host"]} port={config["port"]}
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = scram-sha-256
        auth_file = {tmp_path / "users.txt"}
        pool_mode = transaction
        default_pool_size = 4
        server_round_robin = 1
        logfile =
        """.replace("\n        ", "\n")
    )
    # It refuses to run as root.
    command = [PGBOUNCER, "pgbouncer.ini"]
    if os.geteuid() == 0:
        for path in (tmp_path, *tmp_path.parents):
            if path.owner() == "root" and path.is_relative_to(tempfile.gettempdir()):
                path.chmod(path.stat().st_mode | 0o055)
        command += ["-u", "nobody"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:

        def is_up() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            wait_until(is_up)
            yield port
        finally:
            process.kill()  # SIGTERM waits for the clients, since version 1.23


@PATHS
def test_loads_through_pgbouncer_in_transaction_mode(
    database: Database, make_target: Make, pgbouncer: int, settings: dict[str, Any]
) -> None:
    """Tables, upserts and checkpoints, though each transaction may use another session."""
    pages = scan(8)
    make_target(port=pgbouncer, **settings).load(stdin([*pages, *pages]))
    assert database.progress() == (80, 80)


def test_lock_is_held_behind_pgbouncer(
    database: Database, make_target: Make, pgbouncer: int, tmp_path: Path
) -> None:
    """Held against a load that connects directly; released when the process is killed."""
    with start(database, tmp_path, port=pgbouncer) as first:
        assert exchange(first, [state_message(1)]) == state(1)
        with pytest.raises(Exception, match="is running: target-postgres-checkpoint"):
            make_target().load(stdin([]))
        first.kill()
        first.communicate()
    wait_until(lambda: not database.rows(HOLDER))
    make_target().load(stdin(scan(1)))


def test_rejection_by_pgbouncer_is_not_retried(make_target: Make, pgbouncer: int) -> None:
    with pytest.raises(Exception, match=r"rejected the connection.*no such database"):
        make_target(port=pgbouncer, database="nowhere").load(stdin([]))
