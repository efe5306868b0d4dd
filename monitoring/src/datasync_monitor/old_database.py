"""The one door to PostgreSQL: settings from the environment, read-only connections."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT_TIMEOUT_S = 5
_SESSION = "-c default_transaction_read_only=on -c statement_timeout=10s -c timezone=UTC"
_DEFAULT_PORT = 5432


class Unreachable(Exception):  # noqa: N818 - named after what it means to the reader
    """The database does not answer, or refuses to. The message is one plain sentence.

    The password is not in it.
    """


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the tables are. An empty password lets libpq find one (`~/.pgpass`).

    The defaults are those of the sandbox, so that nothing has to be set on a laptop.
    """

    host: str = "127.0.0.1"
    port: int = 54329
    user: str = "datasync"
    password: str = field(default="sandbox", repr=False)
    dbname: str = "events"
    schema: str = "public"

    @classmethod
    def from_environment(cls, *, schema: str = "public") -> Settings:
        """Read `DB_HOST`, `DB_PORT`, `DB_USER`, `DB_PASSWORD` and `DB_NAME`.

        An empty value counts as unset. Port and password of the sandbox are taken only while no
        host is named: another database has PostgreSQL's port, and no password that we know.

        Raises:
            ValueError: `DB_PORT` is not a port number.
        """
        sandbox = cls()
        host = os.environ.get("DB_HOST")
        port = os.environ.get("DB_PORT") or str(_DEFAULT_PORT if host else sandbox.port)
        if not is_port(port):
            message = f"DB_PORT is {port!r}, not a port number."
            raise ValueError(message)
        return cls(
            host=host or sandbox.host,
            port=int(port),
            user=os.environ.get("DB_USER") or sandbox.user,
            password=os.environ.get("DB_PASSWORD") or ("" if host else sandbox.password),
            dbname=os.environ.get("DB_NAME") or sandbox.dbname,
            schema=schema,
        )

    @property
    def place(self) -> str:
        """The database in a form fit for people, without the password."""
        return f"{self.dbname} at {self.host}:{self.port}"


def is_port(text: str) -> bool:
    """Whether a text is the number of a TCP port."""
    return text.isascii() and text.isdecimal() and 0 < int(text) < 65536  # noqa: PLR2004 - one more than the highest


def connect(settings: Settings) -> psycopg.Connection:
    """Open a connection that cannot write and cannot hang.

    Autocommit, because a monitor that stays inside a transaction would hold back vacuum.

    Raises:
        Unreachable: no connection within five seconds, or refused.
    """
    try:
        return psycopg.connect(
            host=settings.host,
            port=settings.port,
            user=settings.user,
            password=settings.password or None,
            dbname=settings.dbname,
            connect_timeout=CONNECT_TIMEOUT_S,
            autocommit=True,
            application_name="datasync-monitor",
            options=_SESSION,
            # A host that vanished without a word is noticed in about ten seconds, not in two hours.
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=10_000,
        )
    except psycopg.Error as error:
        message = f"No database {settings.place}: {reason(error)}."
        raise Unreachable(message) from None


@contextmanager
def translated(connection: psycopg.Connection[Any], settings: Settings) -> Iterator[None]:
    """Turn whatever goes wrong with a query into one plain sentence.

    Raises:
        Unreachable: the connection was lost, the answer took too long, or it was refused, as to a
            role that may not read a table.
    """
    try:
        yield
    except psycopg.Error as error:
        if connection.closed:
            happened = "went away"
        elif isinstance(error, psycopg.OperationalError):
            happened = "did not answer"
        else:
            happened = "refuses"
        message = f"The database {settings.place} {happened}: {reason(error)}."
        raise Unreachable(message) from None


def reason(error: Exception) -> str:
    """Take the sentence that matters out of an error of several lines: the first one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[0].removeprefix("connection failed: ").removesuffix(".")


def has_table(connection: psycopg.Connection[Any], schema: str, table: str) -> bool:
    """Tell whether a table is there: before the first load none is, and `pages` may never be."""
    query = "SELECT to_regclass(format('%%I.%%I', %s::text, %s::text)) IS NOT NULL"
    row = connection.execute(query, (schema, table)).fetchone()
    return bool(row and row[0])


def in_schema(schema: str, query: str, **parts: sql.Composable) -> sql.Composed:
    """Put the schema, and what else differs, into the query's `{schema}` and its like."""
    return sql.SQL(query).format(schema=sql.Identifier(schema), **parts)
