"""Checks of the database, the table `pipeline_runs`, and the source of the events."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from datasync_ingestion import database
from datasync_ingestion.errors import ConfigError
from datasync_monitor.database import DatabaseSettings, ReconnectingConnection

from tests.ingestion.ingestion_helpers import begin_run
from tests.monitoring.monitoring_helpers import settings_of

if TYPE_CHECKING:
    from datasync_ingestion.database import PipelineRun
    from datasync_sandbox.testing import Cluster

REAL, OTHER = "https://a.test/api/v1", "https://b.test/api/v1"


def test_last_source_is_that_of_the_last_run_that_loaded_events(
    empty: Cluster, connection: ReconnectingConnection
) -> None:
    """Independent of its outcome, and also if every event existed already."""

    def last_source() -> str | None:
        return connection.run(database.last_source)

    def fail(run: PipelineRun) -> None:
        connection.run(lambda conn: database.end_run(conn, run, "failed"))

    first = begin_run(connection, "a")
    assert last_source() is None
    empty.sql("CREATE TABLE checkpoint (id INT PRIMARY KEY DEFAULT 1, updated_at TIMESTAMPTZ)")
    empty.sql("INSERT INTO checkpoint VALUES (1, clock_timestamp())")
    assert last_source() == "a"
    fail(first)
    # Killed before it had loaded anything.
    begin_run(connection, "b")
    assert last_source() == "a"
    # Events that existed already: not one row more.
    second = begin_run(connection, "c")
    empty.sql("UPDATE checkpoint SET updated_at = clock_timestamp()")
    fail(second)
    assert last_source() == "c"
    # Rows of a page whose checkpoint was not reached.
    third = begin_run(connection, "d")
    empty.sql("CREATE TABLE events (id TEXT PRIMARY KEY); INSERT INTO events VALUES ('e')")
    fail(third)
    assert last_source() == "d"


@pytest.mark.parametrize(
    ("last", "current", "samples_changed"),
    [
        (None, REAL, False),
        (None, "sandbox", False),
        (REAL, REAL, False),
        ("sandbox", "sandbox", False),
        ("sandbox", "sandbox events=20", True),
        # The tap compares real addresses itself.
        (REAL, OTHER, False),
        # An address is not the sandbox, whatever its name.
        ("https://sandbox.test", "https://sandbox.test/2", False),
    ],
)
def test_detects_change_of_source(
    last: str | None,
    current: str,
    samples_changed: bool,  # noqa: FBT001 - a case of the table
) -> None:
    at = DatabaseSettings("db")
    assert database.check_source_change(last, current, at, embedded=True) is samples_changed


@pytest.mark.parametrize(
    ("last", "current", "message"),
    [
        ("sandbox events=5", REAL, "holds sample events of the sandbox"),
        (REAL, "sandbox", f"holds events from {REAL}"),
    ],
)
def test_refuses_to_mix_sample_and_real_events(last: str, current: str, message: str) -> None:
    """And suggests to remove the database only if it is the embedded one."""
    at = DatabaseSettings("db")
    with pytest.raises(ConfigError, match=f"events at db:5432 {message}") as caught:
        database.check_source_change(last, current, at, embedded=False)
    assert not str(caught.value).count(", or")
    with pytest.raises(ConfigError, match=r", or remove .*`rm -r \.sandbox`\.$"):
        database.check_source_change(last, current, at, embedded=True)


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


def test_missing_create_privilege_is_reported_with_the_grant(
    empty: Cluster, connection: ReconnectingConnection
) -> None:
    empty.sql(f"REVOKE CREATE ON SCHEMA public FROM {empty.user}, PUBLIC")
    with pytest.raises(ConfigError, match=f'GRANT CREATE ON SCHEMA public TO "{empty.user}"'):
        begin_run(connection, "a")


def test_no_table_of_the_load_is_empty_and_can_be_truncated(
    connection: ReconnectingConnection,
) -> None:
    connection.run(database.truncate_load)
    assert connection.run(lambda conn: database.count_rows(conn, "events")) == 0
