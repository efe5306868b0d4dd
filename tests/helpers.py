"""What the tests of several packages use: a database of the tests, and waiting."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasync_sandbox.testing import Cluster

_Found = TypeVar("_Found")


@dataclass
class Database:
    """A database of a server."""

    cluster: Cluster
    name: str

    @property
    def config(self) -> dict[str, Any]:
        """The required settings of the target for it."""
        return {
            "host": self.cluster.host,
            "port": self.cluster.port,
            "user": self.cluster.user,
            "password": self.cluster.password,
            "database": self.name,
        }

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        config = self.config
        # Overrides what a test sets for the sessions of the target.
        own = "-c default_transaction_read_only=off -c lock_timeout=0"
        dbname = config.pop("database")
        return psycopg.connect(dbname=dbname, autocommit=True, options=own, **config)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            return connection.execute(query.encode()).fetchall()

    def value(self, query: str) -> Any:
        return self.rows(query)[0][0]

    def execute(self, statements: str) -> None:
        with self.connect() as connection:
            connection.execute(statements.encode())

    def count(self, table: str = "events") -> int:
        """Count the rows of a table; 0 where it does not exist."""
        if self.value(f"SELECT to_regclass('{table}') IS NULL"):
            return 0
        return int(self.value(f"SELECT count(*) FROM {table}"))

    def progress(self) -> tuple[int, int | None]:
        """Return the number of events in the table and in the checkpoint."""
        return self.value("SELECT count(*) FROM events"), self.value(
            "SELECT max(events_seen) FROM checkpoint"
        )

    def end_sessions(self) -> None:
        """End all other sessions, as a restart of the server does."""
        self.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def wait_until(condition: Callable[[], _Found], *, seconds: float = 60.0) -> _Found:
    """Poll a condition until it is true; the limit only ends a test that fails.

    Returns:
        What the condition returned.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "the condition was not met"
        time.sleep(0.01)
    return found
