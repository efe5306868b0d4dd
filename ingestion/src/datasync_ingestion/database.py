"""PostgreSQL, as the supervisor sees it: a connection that comes back, and what it reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from datasync_monitor.database import reason
from psycopg.rows import class_row

from datasync_ingestion.errors import IngestionError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from typing_extensions import Self

    from datasync_ingestion.settings import Database

Answer = TypeVar("Answer")

ATTEMPTS = 10
PAUSE_S = 2.0
CONNECT_TIMEOUT_S = 5
_TABLES = ("events", "rejected_events", "pages", "checkpoint")

# What libpq says when the server is there and will go on saying no. The error of a
# failed connection carries no SQLSTATE, so the words are all there is to tell by.
_REFUSED = re.compile(
    r"authentication failed|no password supplied|is not permitted to log in|"
    r"(?:database|role) \"[^\"]*\" does not exist|permission denied for database|"
    r"no pg_hba\.conf entry|server does not support SSL|certificate|"
    r"invalid port number|invalid connection option"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The row of `checkpoint`, as far as it tells how a run ended.

    Attributes:
        state: The Singer STATE.
        updated_at: When it was written, by the database's clock.
        walk_open: Whether a walk has begun that has not ended.
        complete_to: Everything up to this instant is loaded.
        total_events: Events that the API reports.
    """

    state: dict[str, Any] | None
    updated_at: datetime
    walk_open: bool
    complete_to: datetime | None
    total_events: int | None

    @property
    def finished(self) -> bool:
        """Whether the last walk came to its end; a feed without events has no newest one."""
        return not self.walk_open and (self.complete_to is not None or not self.total_events)


def connect(
    database: Database, sleep: Callable[[float], None], attempts: int = ATTEMPTS
) -> psycopg.Connection[Any]:
    """Connect, with patience for a server that is starting.

    Args:
        database: Where.
        sleep: Waits some seconds.
        attempts: How often it is tried.

    Raises:
        UsageError: The server refuses, and would refuse again.
        IngestionError: It cannot be reached.
    """
    for attempt in range(1, attempts + 1):
        try:
            return psycopg.connect(
                host=database.host,
                port=database.port,
                user=database.user,
                password=database.password or None,
                dbname=database.name,
                connect_timeout=CONNECT_TIMEOUT_S,
                autocommit=True,
                application_name="datasync-ingest",
                options="-c timezone=UTC",
            )
        except psycopg.Error as error:
            said = reason(error)
            if _REFUSED.search(str(error)):
                message = f"PostgreSQL refuses the connection to {database.place}: {said}."
                raise UsageError(message) from None
        if attempt < attempts:
            sleep(PAUSE_S)
    message = f"PostgreSQL cannot be reached, {database.place}: {said}."
    raise IngestionError(message)


def checkpoint(connection: psycopg.Connection[Any]) -> Checkpoint | None:
    """Read the checkpoint; None when nothing was ever loaded."""
    if not exists(connection, "checkpoint"):
        return None
    query = """
        SELECT state, coalesce(updated_at, 'epoch') AS updated_at,
               coalesce(walk_open, false) AS walk_open, complete_to, total_events
        FROM public.checkpoint WHERE id = 1
    """
    with connection.cursor(row_factory=class_row(Checkpoint)) as cursor:
        return cursor.execute(query).fetchone()


def count(connection: psycopg.Connection[Any], table: str) -> int:
    """Count the rows of a table of ours; 0 when it is not there."""
    if not exists(connection, table):
        return 0
    row = connection.execute(f"SELECT count(*) FROM public.{table}").fetchone()  # noqa: S608
    return int(row[0]) if row else 0


def now(connection: psycopg.Connection[Any]) -> datetime:
    """Tell the time by the database's clock."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has a row
    moment: datetime = row[0]
    return moment


def forget_events(connection: psycopg.Connection[Any]) -> None:
    """Empty the tables of the load."""
    tables = [f"public.{table}" for table in _TABLES if exists(connection, table)]
    if tables:
        connection.execute(f"TRUNCATE {', '.join(tables)}")


class Door:
    """A connection that is opened when it is needed, and again when it was lost."""

    def __init__(self, database: Database, sleep: Callable[[float], None]) -> None:
        """Prepare it; nothing is opened yet.

        Args:
            database: Where.
            sleep: Waits some seconds.
        """
        self._database = database
        self._sleep = sleep
        self._connection: psycopg.Connection[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(
        self, question: Callable[[psycopg.Connection[Any]], Answer], *, attempts: int = ATTEMPTS
    ) -> Answer:
        """Ask the database something, once more when the connection turns out to be lost.

        Args:
            question: What is asked.
            attempts: How often a connection is tried.

        Raises:
            UsageError: The server refuses the connection.
            IngestionError: It cannot be reached, or does not know what to make of the question.
        """
        for last in (False, True):
            if self._connection is None:
                self._connection = connect(self._database, self._sleep, attempts)
            try:
                return question(self._connection)
            except psycopg.OperationalError as error:
                self.close()
                if last:
                    raise _failed(error) from error
            except psycopg.Error as error:
                raise _failed(error) from error
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _failed(error: psycopg.Error) -> IngestionError:
    return IngestionError(f"PostgreSQL says: {reason(error)}.")


def exists(connection: psycopg.Connection[Any], table: str) -> bool:
    """Whether a table of ours is there."""
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f"public.{table}",)).fetchone()
    return bool(row and row[0])
