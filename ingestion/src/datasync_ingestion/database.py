"""Queries of a run: checks of the database, row counts, and the table `pipeline_runs`.

Each function takes the connection of a `ReconnectingConnection.run` call, one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from datasync_monitor.database import has_table

from datasync_ingestion.config import SANDBOX
from datasync_ingestion.errors import ConfigError

if TYPE_CHECKING:
    from datasync_monitor.database import DatabaseSettings

SCHEMA = "public"
APPLICATION_NAME = "datasync-ingestion"
CONNECT_ATTEMPTS = 10

_LOAD_TABLES = ("events", "rejected_events", "pages", "checkpoint")

# Columns, and their types, without which a table of that name belongs to another application.
# Stream maps may remove columns of `events`, but never its key.
_OWN_COLUMNS = {
    "events": {"id": "text"},
    "checkpoint": {"id": "integer", "state": "jsonb", "scan_in_progress": "boolean"},
    "pipeline_runs": {"id": "bigint", "source": "text", "outcome": "text", "restarts": "integer"},
}

# Key and query are documented in the README of target-config, whose target holds the lock.
_LOAD_LOCK_CLASS = 1_684_107_116
_LOAD_LOCK_HOLDER = """
    SELECT a.pid, a.application_name, host(a.client_addr), a.xact_start
    FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
    WHERE (l.locktype, l.granted, l.objsubid) = ('advisory', true, 2)
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (l.classid, l.objid) = (%s::oid, hashtext(%s)::oid)
"""

PIPELINE_RUNS = """
CREATE TABLE public.pipeline_runs (
    id            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    ended_at      TIMESTAMPTZ,
    source        TEXT NOT NULL,
    outcome       TEXT,
    restarts      INTEGER NOT NULL DEFAULT 0,
    events_before BIGINT,
    events_after  BIGINT,
    message       TEXT
);
COMMENT ON TABLE public.pipeline_runs IS 'One row per run of run-ingestion.sh.';
COMMENT ON COLUMN public.pipeline_runs.source IS
    'Address of the API, or the sample events of the local sandbox.';
COMMENT ON COLUMN public.pipeline_runs.outcome IS
    'finished, failed, stopped (by a signal) or killed; NULL while the run is in progress.';
COMMENT ON COLUMN public.pipeline_runs.restarts IS
    'How often the pipeline was started again after a failure.';
COMMENT ON COLUMN public.pipeline_runs.events_before IS
    'Rows in events when the run started.';
COMMENT ON COLUMN public.pipeline_runs.events_after IS
    'Rows in events when the run ended.';
COMMENT ON COLUMN public.pipeline_runs.message IS 'Why the run failed.'
"""


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """The row of the current run. `events_before` is the row count of `events` at the start."""

    id: int
    events_before: int


def check_tables(connection: psycopg.Connection[Any], settings: DatabaseSettings) -> None:
    """Refuse a database in which another application uses one of our table names.

    Raises:
        ConfigError: Such a table exists, or the database is not encoded in UTF-8.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in {None, "UTF8"}:
        message = (
            f"The database {settings.location} has the encoding {encoding}: create one with "
            "ENCODING 'UTF8'."
        )
        raise ConfigError(message)
    query = """
        SELECT attname, format_type(atttypid, NULL) AS type FROM pg_attribute
        WHERE attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))
          AND attnum > 0 AND NOT attisdropped
    """
    for table, expected in _OWN_COLUMNS.items():
        found = dict(connection.execute(query, (SCHEMA, table)).fetchall())
        wrong = [f"{name} {kind}" for name, kind in expected.items() if found.get(name) != kind]
        if found and wrong:
            message = (
                f"The table {SCHEMA}.{table} of the database {settings.location} was not created "
                f"by this project (no column {wrong[0]}): rename it, or set DB_NAME to another "
                "database."
            )
            raise ConfigError(message)


def load_lock_holder(connection: psycopg.Connection[Any]) -> str | None:
    """Return a description of the session that loads into this database; None for none."""
    row = connection.execute(_LOAD_LOCK_HOLDER, (_LOAD_LOCK_CLASS, SCHEMA)).fetchone()
    if row is None:
        return None
    # All but the process id is NULL for the session of another role.
    pid, name, address, since = row
    holder = f"{name or 'a session of another role'}, server process {pid}"
    if address:
        holder += f", from {address}"
    if since:
        holder += f", since {since:%Y-%m-%d %H:%M:%S} UTC"
    return holder


def begin_run(
    connection: psycopg.Connection[Any], settings: DatabaseSettings, source: str
) -> PipelineRun:
    """Insert the row of a run. Earlier runs that never ended are marked as killed.

    Raises:
        ConfigError: The role may not create the table.
    """
    if not has_table(connection, "pipeline_runs"):
        try:
            connection.execute(PIPELINE_RUNS)
        except psycopg.errors.InsufficientPrivilege:
            message = (
                f"The role {settings.user} may not create tables in schema {SCHEMA} of the "
                f"database {settings.location}. Run this as the owner of the database: "
                f'GRANT CREATE ON SCHEMA {SCHEMA} TO "{settings.user}"'
            )
            raise ConfigError(message) from None
    connection.execute("UPDATE public.pipeline_runs SET outcome = 'killed' WHERE outcome IS NULL")
    before = count_rows(connection, "events")
    query = "INSERT INTO public.pipeline_runs (source, events_before) VALUES (%s, %s) RETURNING id"
    row = connection.execute(query, (source, before)).fetchone()
    assert row is not None  # noqa: S101 - RETURNING returns
    return PipelineRun(row[0], before)


def record_restart(connection: psycopg.Connection[Any], run: PipelineRun, restarts: int) -> None:
    """Store how often the pipeline was started again."""
    query = "UPDATE public.pipeline_runs SET restarts = %s WHERE id = %s"
    connection.execute(query, (restarts, run.id))


def end_run(
    connection: psycopg.Connection[Any],
    run: PipelineRun,
    outcome: str,
    message: str | None = None,
) -> int:
    """Store how the run ended.

    Args:
        connection: In a transaction.
        run: The row.
        outcome: finished, failed or stopped.
        message: Why it failed.

    Returns:
        The number of rows in `events`.
    """
    after = count_rows(connection, "events")
    query = (
        "UPDATE public.pipeline_runs SET ended_at = now(), outcome = %s, message = %s, "
        "events_after = %s WHERE id = %s"
    )
    connection.execute(query, (outcome, message, after, run.id))
    return after


def last_source(connection: psycopg.Connection[Any]) -> str | None:
    """Return the source of the events in the database; None where nothing was loaded.

    A run that ended before it loaded anything does not count: its address may have been mistyped.
    Row counts alone are not sufficient, because existing events are loaded without adding rows; in
    that case the checkpoint is newer than the start of the run.
    """
    if not has_table(connection, "pipeline_runs"):
        return None
    loaded = "outcome = 'finished' OR events_after <> events_before"
    if has_table(connection, "checkpoint"):
        loaded += " OR started_at < (SELECT updated_at FROM public.checkpoint WHERE id = 1)"
    query = f"SELECT source FROM public.pipeline_runs WHERE {loaded} ORDER BY id DESC LIMIT 1"  # noqa: S608 - constants
    row = connection.execute(query).fetchone()
    return row[0] if row else None


def check_source_change(
    last: str | None, current: str, settings: DatabaseSettings, *, embedded: bool
) -> bool:
    """Compare the source of the events in the database with that of this run.

    A change between two real addresses is not handled here: the tap compares the address in its
    state.

    Args:
        last: Source of the events in the database; None where it is new.
        current: Source of this run.
        settings: The database.
        embedded: Whether it is the embedded one, which the user may remove.

    Returns:
        Whether the sandbox serves other sample events than those in the database, which have to be
        removed.

    Raises:
        ConfigError: Sample events and real events would be mixed.
    """
    if last is None or last == current:
        return False
    had_samples, has_samples = (source.partition(" ")[0] == SANDBOX for source in (last, current))
    if had_samples == has_samples:
        return has_samples
    alternative = ""
    if embedded:
        alternative = (
            ", or remove the embedded database with `sh run-ingestion.sh --stop-sandbox` and "
            "`rm -r .sandbox`"
        )
    if had_samples:
        message = (
            f"The database {settings.location} holds sample events of the sandbox, and real events "
            f"are not mixed with them: set DB_NAME to another database{alternative}."
        )
    else:
        message = (
            f"The database {settings.location} holds events from {last}, and sample events are not "
            f"mixed with them: set API_KEY and API_BASE_URL again{alternative}."
        )
    raise ConfigError(message)


def count_rows(connection: psycopg.Connection[Any], table: str) -> int:
    """Count the rows of a table of the load; 0 where it does not exist."""
    if not has_table(connection, table):
        return 0
    query = f"SELECT count(*) FROM public.{table}"  # noqa: S608 - a constant name
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def truncate_load(connection: psycopg.Connection[Any]) -> None:
    """Empty the tables of the load."""
    tables = [f"public.{name}" for name in _LOAD_TABLES if has_table(connection, name)]
    if tables:
        connection.execute(f"TRUNCATE {', '.join(tables)}")
