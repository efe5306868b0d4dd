"""Checks of the database, and the table `pipeline_runs`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from datasync_ingestion import database
from datasync_ingestion.errors import ConfigError
from datasync_monitor.database import ReconnectingConnection
from ingestion_helpers import load, settings_of

if TYPE_CHECKING:
    from datasync_ingestion.database import PipelineRun
    from datasync_sandbox.testing import Cluster


def begin(connection: ReconnectingConnection, source: str) -> PipelineRun:
    settings = connection.settings
    return connection.run(lambda conn: database.begin_run(conn, settings, source))


def end(connection: ReconnectingConnection, run: PipelineRun, outcome: str) -> None:
    connection.run(lambda conn: database.end_run(conn, run, outcome))


def test_last_source_is_that_of_the_last_run_that_loaded_events(
    empty: Cluster, connection: ReconnectingConnection
) -> None:
    """Independent of its outcome, and also if every event existed already."""

    def last_source() -> str | None:
        return connection.run(database.last_source)

    first = begin(connection, "a")
    assert last_source() is None
    empty.sql("CREATE TABLE checkpoint (id INT PRIMARY KEY DEFAULT 1, updated_at TIMESTAMPTZ)")
    empty.sql("INSERT INTO checkpoint VALUES (1, clock_timestamp())")
    assert last_source() == "a"
    end(connection, first, "failed")
    # Killed before it had loaded anything.
    begin(connection, "b")
    assert last_source() == "a"
    # Events that existed already: not one row more.
    second = begin(connection, "c")
    empty.sql("UPDATE checkpoint SET updated_at = clock_timestamp()")
    end(connection, second, "failed")
    assert last_source() == "c"
    # Rows of a page whose checkpoint was not reached.
    third = begin(connection, "d")
    empty.sql("CREATE TABLE events (id TEXT PRIMARY KEY); INSERT INTO events VALUES ('e')")
    end(connection, third, "failed")
    assert last_source() == "d"


def test_marks_unfinished_earlier_run_as_killed(
    empty: Cluster, connection: ReconnectingConnection
) -> None:
    begin(connection, "a")
    begin(connection, "a")
    rows = empty.sql("SELECT coalesce(outcome, 'in progress') FROM pipeline_runs ORDER BY id")
    assert rows.splitlines() == ["killed", "in progress"]


@pytest.mark.parametrize(
    ("table", "missing"),
    [
        ("events (id INTEGER PRIMARY KEY, title TEXT)", "no column id text"),
        ("checkpoint (id INTEGER, state TEXT)", "no column state jsonb"),
        ("pipeline_runs (id BIGINT, name TEXT)", "no column source text"),
    ],
)
def test_refuses_table_of_another_application_by_name(
    empty: Cluster, connection: ReconnectingConnection, table: str, missing: str
) -> None:
    empty.sql(f"CREATE TABLE {table}")
    name = table.partition(" ")[0]
    settings = connection.settings
    with pytest.raises(ConfigError, match=rf"public\.{name} .* was not created by .*{missing}"):
        connection.run(lambda conn: database.check_tables(conn, settings))


def test_refuses_database_with_another_encoding(empty: Cluster) -> None:
    empty.sql("DROP DATABASE IF EXISTS ascii")
    empty.sql("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    settings = replace(settings_of(empty), name="ascii")
    with (
        ReconnectingConnection(settings) as connection,
        pytest.raises(ConfigError, match="has the encoding SQL_ASCII"),
    ):
        connection.run(lambda conn: database.check_tables(conn, settings))


def test_accepts_own_tables(empty: Cluster, connection: ReconnectingConnection) -> None:
    settings = connection.settings
    connection.run(lambda conn: database.check_tables(conn, settings))
    empty.sql(load(5))
    begin(connection, "a")
    connection.run(lambda conn: database.check_tables(conn, settings))


def test_missing_create_privilege_is_reported_with_the_grant(
    empty: Cluster, connection: ReconnectingConnection
) -> None:
    empty.sql(f"REVOKE CREATE ON SCHEMA public FROM {empty.user}, PUBLIC")
    with pytest.raises(ConfigError, match=f'GRANT CREATE ON SCHEMA public TO "{empty.user}"'):
        begin(connection, "a")


def test_describes_holder_of_load_lock(empty: Cluster, connection: ReconnectingConnection) -> None:
    assert connection.run(database.load_lock_holder) is None
    at = settings_of(empty)
    parameters: dict[str, Any] = {
        "host": at.host,
        "port": at.port,
        "user": at.user,
        "password": at.password,
        "dbname": at.name,
    }
    with psycopg.connect(**parameters, application_name="target-postgres-checkpoint") as holder:
        key = (database._LOAD_LOCK_CLASS, "public")
        holder.execute("SELECT pg_try_advisory_xact_lock(%s, hashtext(%s))", key)
        found = connection.run(database.load_lock_holder)
        assert found is not None
        assert found.startswith(
            f"target-postgres-checkpoint, server process {holder.info.backend_pid}"
        )
        assert found.endswith(" UTC")
    assert connection.run(database.load_lock_holder) is None


def test_truncate_does_not_affect_other_tables(
    empty: Cluster, connection: ReconnectingConnection
) -> None:
    connection.run(database.truncate_load)
    empty.sql(load(5))
    begin(connection, "a")
    connection.run(database.truncate_load)
    assert connection.run(lambda conn: database.count_rows(conn, "events")) == 0
    assert connection.run(lambda conn: database.count_rows(conn, "pipeline_runs")) == 1
