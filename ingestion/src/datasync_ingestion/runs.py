"""The table `runs`: a short history of what the supervisor did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasync_ingestion.database import count, exists

if TYPE_CHECKING:
    import psycopg

_TABLE = """
    CREATE TABLE IF NOT EXISTS public.runs (
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
    COMMENT ON TABLE public.runs IS 'One row for each run of the supervisor, run-ingestion.sh.';
    COMMENT ON COLUMN public.runs.source IS 'Address of the API, or which events of the sandbox.';
    COMMENT ON COLUMN public.runs.outcome IS 'finished, failed, stopped (by a signal) or killed.';
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One row. `events_before` is the number of rows in `events` when it began."""

    id: int
    events_before: int


def last_source(connection: psycopg.Connection[Any]) -> str | None:
    """Tell where the events in the database came from last.

    A run that ended before it had loaded anything says nothing about that: the address may
    have been mistyped. The number of rows alone does not tell: events that are there already
    are loaded without a new one. The checkpoint tells: it was written since the run began.
    """
    if not exists(connection, "runs"):
        return None
    loaded = "outcome = 'finished' OR events_after <> events_before"
    if exists(connection, "checkpoint"):
        loaded += " OR started_at < (SELECT updated_at FROM public.checkpoint WHERE id = 1)"
    query = f"SELECT source FROM public.runs WHERE {loaded} ORDER BY id DESC LIMIT 1"  # noqa: S608 - no input in it
    row = connection.execute(query).fetchone()
    return row[0] if row else None


def begin(connection: psycopg.Connection[Any], source: str) -> Run:
    """Begin a run; those that never ended are marked as killed.

    Args:
        connection: In autocommit mode.
        source: Where the events come from.
    """
    connection.execute(_TABLE)
    connection.execute("UPDATE public.runs SET outcome = 'killed' WHERE outcome IS NULL")
    before = count(connection, "events")
    row = connection.execute(
        "INSERT INTO public.runs (source, events_before) VALUES (%s, %s) RETURNING id",
        (source, before),
    ).fetchone()
    assert row is not None  # noqa: S101 - RETURNING returns
    return Run(row[0], before)


def restarted(connection: psycopg.Connection[Any], run: Run, restarts: int) -> None:
    """Note how often the run was started again."""
    connection.execute("UPDATE public.runs SET restarts = %s WHERE id = %s", (restarts, run.id))


def end(
    connection: psycopg.Connection[Any], run: Run, outcome: str, message: str | None = None
) -> int:
    """Note how the run ended; returns the number of rows in `events`.

    Args:
        connection: In autocommit mode.
        run: Which.
        outcome: finished, failed or stopped.
        message: Why it failed.
    """
    after = count(connection, "events")
    connection.execute(
        "UPDATE public.runs SET ended_at = now(), outcome = %s, message = %s, events_after = %s "
        "WHERE id = %s",
        (outcome, message, after, run.id),
    )
    return after
