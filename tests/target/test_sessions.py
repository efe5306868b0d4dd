"""Sessions with any defaults of role and environment, over sockets, and through PgBouncer."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from target_helpers import (
    STREAMS,
    Database,
    Make,
    event,
    lines,
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
    from collections.abc import Iterator


PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

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


@pytest.mark.parametrize("settings", [{}, {"validate_records": True}], ids=["lines", "records"])
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


@pytest.mark.parametrize("settings", [{}, {"validate_records": True}], ids=["lines", "records"])
def test_loads_through_pgbouncer_in_transaction_mode(
    database: Database, make_target: Make, pgbouncer: int, settings: dict[str, Any]
) -> None:
    """Tables, upserts and checkpoints, though each transaction may use another session."""
    pages = scan(8)
    make_target(port=pgbouncer, **settings).load(stdin([*pages, *pages]))
    assert database.rows("SELECT count(*), (SELECT events_seen FROM checkpoint) FROM events") == [
        (80, 80)
    ]


def test_lock_is_held_behind_pgbouncer(
    database: Database, make_target: Make, pgbouncer: int, tmp_path: Path
) -> None:
    """Held against a load that connects directly; released when the process is killed."""
    with start(database, tmp_path, port=pgbouncer) as first:
        assert first.stdin
        assert first.stdout
        first.stdin.write(lines([*schemas(), state_message(1)]))
        first.stdin.flush()
        assert len(states(first.stdout.readline())) == 1
        with pytest.raises(Exception, match="is running: target-postgres-checkpoint"):
            make_target().load(stdin([]))
        first.kill()
        first.communicate()
    wait_until(lambda: not database.rows("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"))
    make_target().load(stdin(scan(1)))


def test_rejection_by_pgbouncer_is_not_retried(make_target: Make, pgbouncer: int) -> None:
    with pytest.raises(Exception, match=r"rejected the connection.*no such database"):
        make_target(port=pgbouncer, database="nowhere").load(stdin([]))
