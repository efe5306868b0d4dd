"""PostgreSQL: where it is, and a connection that is opened again when it was lost.

```
DatabaseUnavailable      the connection failed or was lost, or a statement took too long: try again
└── DatabaseRejected     the server answers and refuses: a setting or a privilege has to change
```
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from datasync_monitor.environment import read_env_file, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Self

Result = TypeVar("Result")

CONNECT_TIMEOUT_SECONDS = 5
RECONNECT_DELAY_SECONDS = 2.0
SANDBOX_ENV = Path(".sandbox/env")
"""Where `datasync-sandbox up` writes the address of its database."""

_NAMES = ("DB_HOST", "DB_PORT", "DB_USER", "DB_PASSWORD", "DB_NAME")
_HIGHEST_PORT = 65535

# The error of a failed connection carries no SQLSTATE: the text is the only way to tell a server
# that refuses from one that cannot be reached.
_REJECTED = re.compile(
    r"authentication failed|no password supplied|is not permitted to log in|"
    r"(?:database|role) \"[^\"]*\" (?:does not exist|is not currently accepting)|"
    r"no such (?:database|user)|permission denied for database|"
    r"no pg_hba\.conf entry|server does not support SSL|certificate|"
    r"invalid port number|invalid connection option|unsupported startup parameter"
)

_CONNECTION_FAILED = re.compile(r"connection to server .* failed: (?:FATAL: +)?(.+)")


class DatabaseUnavailable(Exception):  # noqa: N818 - names the condition, as asyncio.TimeoutError
    """The database cannot be reached or did not answer. The message holds no password."""


class DatabaseRejected(DatabaseUnavailable):
    """The server answers and refuses the login or the statement; a retry fails likewise."""


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """Where the tables are.

    `host` may be the directory of a Unix socket. With an empty password libpq looks for one
    (`~/.pgpass`).
    """

    host: str
    port: int = 5432
    user: str = "datasync"
    password: str = field(default="", repr=False)
    name: str = "events"
    schema: str = "public"

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        directory: Path = Path(),
        schema: str = "public",
    ) -> Self:
        """Read `DB_HOST`, `DB_PORT`, `DB_USER`, `DB_PASSWORD` or `DB_PASSWORD_FILE`, `DB_NAME`.

        The environment wins over `.env`, and an empty value counts as unset. Without `DB_HOST`,
        the database is the sandbox's.

        Args:
            environ: Instead of the environment of the process.
            directory: The project's, with `.env` and `.sandbox`.
            schema: Schema of the tables.

        Raises:
            ValueError: a value cannot be used; the message names it.
        """
        environ = os.environ if environ is None else environ
        values = read_settings(_NAMES, environ, read_env_file(directory / ".env"))
        if "DB_HOST" not in values:
            values = read_settings(_NAMES, read_env_file(directory / SANDBOX_ENV))
        host = values.get("DB_HOST")
        if not host:
            message = (
                "No database: set DB_HOST in the environment or in .env, or start the sandbox with "
                "`datasync-sandbox up`. Run this in the project's directory."
            )
            raise ValueError(message)
        return cls(
            host=host,
            port=_parse_port(values.get("DB_PORT", "5432")),
            user=values.get("DB_USER", "datasync"),
            password=values.get("DB_PASSWORD", ""),
            name=values.get("DB_NAME", "events"),
            schema=schema,
        )

    @property
    def location(self) -> str:
        """The database in readable form, without the password: `events at 127.0.0.1:5432`."""
        return f"{self.name} at {self.host}:{self.port}"


def _parse_port(text: str) -> int:
    if text.isascii() and text.isdecimal() and 0 < int(text[:6]) <= _HIGHEST_PORT:
        return int(text[:6])
    message = f"DB_PORT must be a port number from 1 to {_HIGHEST_PORT}, not {text[:40]!r}."
    raise ValueError(message)


class ReconnectingConnection:
    """Runs work in transactions, on a connection that is opened when it is needed.

    Each transaction sets what it relies on (schema, UTC, ISO dates, read-only, time limit) itself,
    because behind PgBouncer in transaction mode the next one may run in another session. For the
    same reason there are no startup options and no prepared statements.

    Threads may share an object; they take turns.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        *,
        application_name: str = "datasync-monitor",
        read_only: bool = True,
        statement_timeout_seconds: float = 10.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Store the settings; nothing is opened yet.

        Args:
            settings: where the database is.
            application_name: how `pg_stat_activity` names the session.
            read_only: whether PostgreSQL refuses to write in these transactions.
            statement_timeout_seconds: after which a statement is cancelled; 0 for never.
            sleep: waits between attempts to connect.
        """
        self.settings = settings
        self._application_name = application_name
        begin = (
            f"SET TRANSACTION {'READ ONLY' if read_only else 'READ WRITE'}; "
            "SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'; "
            "SET LOCAL search_path = {schema}; "
            f"SET LOCAL statement_timeout = {round(1000 * statement_timeout_seconds)}"
        )
        if read_only:
            # Less than deadlock_timeout: in a deadlock with a TRUNCATE or the like, which reads of
            # several tables make possible, it is this transaction that fails.
            begin += "; SET LOCAL lock_timeout = '500ms'"
        self._begin = sql.SQL(begin).format(schema=sql.Literal(settings.schema))
        self._sleep = sleep
        self._connection: psycopg.Connection[Any] | None = None
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self, work: Callable[[psycopg.Connection[Any]], Result], *, attempts: int = 1
    ) -> Result:
        """Call `work(connection)` in one transaction, commit it, and return the result.

        A connection that was lost since the last call is replaced. `work` itself is never repeated.

        Args:
            work: runs statements; its exceptions, but for those of psycopg, are passed on.
            attempts: how often to try to connect, `RECONNECT_DELAY_SECONDS` apart.

        Raises:
            DatabaseRejected: the server refuses the login or a statement.
            DatabaseUnavailable: the server cannot be reached, or the connection was lost, or a
                statement took too long. The cause is psycopg's error.
        """
        with self._lock:
            if self._connection is not None:
                try:
                    self._connection.execute("")
                except psycopg.Error:
                    self.close()
            if self._connection is None:
                self._connection = self._connect_repeatedly(attempts)
            connection = self._connection
            try:
                with connection.transaction():
                    connection.execute(self._begin)
                    return work(connection)
            except psycopg.Error as error:
                raise self._wrap(error, connection) from error
            finally:
                if connection.closed or connection.broken:
                    self.close()

    def close(self) -> None:
        """Close the connection; the next `run` opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _connect_repeatedly(self, attempts: int) -> psycopg.Connection[Any]:
        for _ in range(attempts - 1):
            try:
                return self._connect()
            except DatabaseUnavailable as error:
                if isinstance(error, DatabaseRejected):
                    raise
            self._sleep(RECONNECT_DELAY_SECONDS)
        return self._connect()

    def _connect(self) -> psycopg.Connection[Any]:
        settings = self.settings
        try:
            return psycopg.connect(
                host=settings.host,
                port=settings.port,
                user=settings.user,
                password=settings.password or None,
                dbname=settings.name,
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                application_name=self._application_name,
                autocommit=True,  # transactions are opened by `run`; none stays open between calls
                prepare_threshold=None,
                # A host that vanished is noticed within about ten seconds instead of two hours.
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
                tcp_user_timeout=10_000,
            )
        except psycopg.Error as error:
            reason = connection_error_reason(error)
            if _REJECTED.search(str(error)):
                message = f"PostgreSQL refuses the connection to {settings.location}: {reason}."
                raise DatabaseRejected(message) from error
            message = f"Cannot connect to the database {settings.location}: {reason}."
            raise DatabaseUnavailable(message) from error

    def _wrap(
        self, error: psycopg.Error, connection: psycopg.Connection[Any]
    ) -> DatabaseUnavailable:
        message, location = connection_error_reason(error), self.settings.location
        if connection.closed:
            return DatabaseUnavailable(
                f"The connection to the database {location} was lost: {message}."
            )
        if isinstance(error, psycopg.OperationalError):
            return DatabaseUnavailable(
                f"The database {location} could not finish the statement: {message}."
            )
        return DatabaseRejected(f"The database {location} refuses the statement: {message}.")


def connection_error_reason(error: Exception) -> str:
    """Return why PostgreSQL failed: one line, without libpq's prefixes and the final full stop.

    Where several addresses of a host were tried, it is the reason of the last one.
    """
    text = str(error)
    reasons = _CONNECTION_FAILED.findall(text)
    lines = [line.strip() for line in [*reasons[-1:], *text.splitlines()] if line.strip()]
    return lines[0].removesuffix(".") if lines else type(error).__name__


# With the schema in front, PostgreSQL refuses a schema that may not be used, instead of finding no
# table there.
_TABLE = "to_regclass(current_setting('search_path') || '.' || quote_ident(%(table)s))"


def has_table(connection: psycopg.Connection[Any], table: str) -> bool:
    """Whether a table exists in the schema of a `ReconnectingConnection.run` call."""
    row = connection.execute(f"SELECT {_TABLE} IS NOT NULL", {"table": table}).fetchone()
    return bool(row and row[0])


@dataclass(frozen=True, slots=True)
class TableSize:
    """The size of a table, with all its partitions.

    `blocks` are counted; `rows` and `rows_per_block` are estimates of PostgreSQL's statistics.
    """

    rows: int
    blocks: int
    largest_partition_blocks: int
    rows_per_block: float | None


# A partitioned table holds no rows itself, its leaves do. For a plain table, pg_partition_tree
# returns nothing.
_TABLE_SIZE = f"""
    SELECT coalesce(sum(greatest(s.n_live_tup, c.reltuples::bigint, 0)), 0)::bigint AS rows,
           coalesce(sum(size.blocks), 0)::bigint AS blocks,
           coalesce(max(size.blocks), 0)::bigint AS largest_partition_blocks,
           (sum(c.reltuples) FILTER (WHERE c.reltuples > 0 AND c.relpages > 0)
            / sum(c.relpages) FILTER (WHERE c.reltuples > 0 AND c.relpages > 0))::float8
               AS rows_per_block
    FROM (SELECT {_TABLE} AS oid) AS root
    CROSS JOIN LATERAL (
        SELECT relid FROM pg_partition_tree(root.oid) WHERE isleaf UNION SELECT root.oid
    ) AS leaf
    JOIN pg_class AS c ON c.oid = leaf.relid AND c.relkind <> 'p'
    CROSS JOIN LATERAL (
        SELECT pg_relation_size(c.oid) / current_setting('block_size')::int AS blocks
    ) AS size
    LEFT JOIN pg_stat_user_tables AS s ON s.relid = c.oid
    HAVING count(*) > 0
"""  # noqa: S608 - joined from constants of this module


def table_size(connection: psycopg.Connection[Any], table: str) -> TableSize | None:
    """Return the size of a table, without reading it; None where it does not exist."""
    cursor = connection.cursor(row_factory=class_row(TableSize))
    return cursor.execute(_TABLE_SIZE, {"table": table}).fetchone()
