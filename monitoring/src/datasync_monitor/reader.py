"""A connection that comes back by itself, shared by all who look at the same time."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import psycopg

from datasync_monitor.database import Settings, Unreachable, connect, reason

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class Reader:
    """Runs one query at a time on a connection that is opened when it is needed."""

    def __init__(self, settings: Settings) -> None:
        """Remember where the database is; nothing is opened yet."""
        self.settings = settings
        self._connection: psycopg.Connection[Any] | None = None
        self._lock = Lock()

    def read(
        self,
        query: Callable[Concatenate[psycopg.Connection[Any], str, P], T],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """Call `query(connection, schema, ...)` and return what it returns.

        Raises:
            Unreachable: the database does not answer. The next call tries again.
        """
        with self._lock:
            try:
                self._connection = self._connection or connect(self.settings)
                return query(self._connection, self.settings.schema, *arguments, **named)
            except (Unreachable, psycopg.OperationalError, psycopg.InterfaceError) as error:
                self.close()
                if isinstance(error, Unreachable):
                    raise
                message = f"The database {self.settings.place} went away: {reason(error)}."
                raise Unreachable(message) from None

    def close(self) -> None:
        """Close the connection; the next call of `read` opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
