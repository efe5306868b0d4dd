"""A connection that comes back by itself, shared by all who look at the same time."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from datasync_monitor.database import Settings, Unreachable, connect, translated

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

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
            self._connection = self._connection or connect(self.settings)
            try:
                with translated(self._connection, self.settings):
                    return query(self._connection, self.settings.schema, *arguments, **named)
            except Unreachable:
                self.close()
                raise

    def close(self) -> None:
        """Close the connection; the next call of `read` opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
