"""Errors of the target, grouped by what the caller should do.

TargetError                      exit 1    try again
├── DatabaseUnavailableError     exit 1    PostgreSQL is unreachable, or cannot write at present
├── TruncatedInputError          exit 1    the input ends within a message
├── SettingsError                exit 2    change a setting, a grant or a table first
├── InvalidDataError             exit 3    not a Singer message, or a row that PostgreSQL rejects
└── LockedError                  exit 75   another load into the same schema is running

Every message is one line without a password and without data of a row.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, ClassVar, cast
from urllib.parse import quote, quote_plus

import psycopg
import sqlalchemy
import sqlalchemy.exc

if TYPE_CHECKING:
    from collections.abc import Mapping

# A connection that the server (or PgBouncer) rejects carries no SQLSTATE, because libpq does not
# expose it: only the message distinguishes it from an unreachable server.
_REJECTIONS = re.compile(
    r"authentication failed|no password supplied|does not exist|is not permitted to log in|"
    r"pg_hba\.conf|permission denied for database|does not support SSL|certificate|"
    r"invalid port number|invalid connection option|no such (?:database|user)|"
    r"unsupported startup parameter",
)

# Errors of the server that end by themselves: shutdown or startup in progress, a session ended for
# idleness (25P03, 57P05), too many connections, a lock or serialization conflict.
_TRANSIENT_STATES = frozenset(
    {"25P03", "40001", "40P01", "53300", "55P03", "57P01", "57P02", "57P03", "57P05"}
)

# How Citus reports a lost worker, with SQLSTATE XX000.
_LOST_WORKER = re.compile(
    r"failure on connection marked as essential|server closed the connection unexpectedly"
)

# Errors that persist until a user acts: a missing or different object or privilege (class 42), an
# operation that the object does not support (0A), no such database or schema (3D, 3F), a server
# that accepts no writes (25006: a standby).
# Source: https://www.postgresql.org/docs/current/errcodes-appendix.html.
_USER_STATES = ("42", "0A", "3D", "3F", "25006")

# Errors of the data: a value or a constraint (21, 22, 23). The same rows fail again.
_DATA_STATES = ("21", "22", "23")

_DISK_FULL = "53100"


class TargetError(Exception):
    """The load stopped; the message is one line."""

    exit_code: ClassVar[int] = 1


class DatabaseUnavailableError(TargetError):
    """PostgreSQL cannot be reached, or cannot write at present."""


class TruncatedInputError(TargetError):
    """The input ends within a message."""


class SettingsError(TargetError):
    """A setting, a privilege or a table has to be changed first."""

    exit_code = 2


class InvalidDataError(TargetError):
    """A line is not a Singer message, or PostgreSQL rejects a row."""

    exit_code = 3


class LockedError(TargetError):
    """Another load into the same schema is running."""

    exit_code = 75


def driver_error(error: psycopg.Error | sqlalchemy.exc.DBAPIError) -> psycopg.Error:
    """Return the error of psycopg, which COPY raises as it is and SQLAlchemy wraps."""
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        return cast("psycopg.Error", error.orig)
    return error


def is_transient(error: psycopg.Error) -> bool:
    """Return whether the same transaction may succeed if it is sent again.

    True for a connection that failed, broke or was shut down; False for what the server will reject
    again: a wrong password, a missing database, invalid data, a missing privilege.
    """
    if _LOST_WORKER.search(str(error)):
        return True
    if error.sqlstate is None:
        is_connection_error = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
        return is_connection_error and not _is_rejection(error)
    return error.sqlstate in _TRANSIENT_STATES or error.sqlstate.startswith("08")


def _is_rejection(error: psycopg.Error) -> bool:
    """Return whether a server responded and rejected the connection."""
    return error.sqlstate is None and bool(_REJECTIONS.search(str(error)))


def translate(error: psycopg.Error, what: str, url: sqlalchemy.URL, waited: float) -> TargetError:
    """Return the error that ends the load.

    Args:
        error: An error that is not retried, or no longer.
        what: What was written, such as `a batch of "events"`.
        url: The database.
        waited: How long an unavailable server was waited for, in seconds.
    """
    address = f"{url.host}:{url.port}" if url.host else f"{url.query.get('host')}"
    message = summarize(error)
    state = error.sqlstate or ""
    if _is_rejection(error):
        message = (
            f"PostgreSQL at {address} rejected the connection: {message}. "
            "Check the settings host, port, user, password and database."
        )
        return SettingsError(message)
    if is_transient(error):
        message = (
            f"PostgreSQL at {address} was not available for {waited:g} s "
            f"while writing {what}: {message}."
        )
        return DatabaseUnavailableError(message)
    if state == _DISK_FULL:
        message = f"The disk of PostgreSQL is full, {what} was not written: {message}."
        return DatabaseUnavailableError(message)
    message = f"PostgreSQL refused {what}: {message}."
    if state.startswith(_USER_STATES):
        return SettingsError(message)
    if state.startswith(_DATA_STATES):
        return InvalidDataError(message)
    return DatabaseUnavailableError(message)


def summarize(error: psycopg.Error) -> str:
    """Return the message of PostgreSQL in one line, and the position within a COPY."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # For a host with several addresses the first line is the heading of a list of failures.
    message = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    # The server's own message of a failed connection follows that of libpq.
    message = re.sub(r"\s+", " ", message.rsplit("FATAL:", maxsplit=1)[-1]).strip(" .")
    if context := error.diag.context:
        # The context of a COPY quotes the row after a colon: data, which must not reach the log.
        message += f" ({context.splitlines()[0].split(':', maxsplit=1)[0]})"
    return message


def redact(text: str, config: Mapping[str, Any]) -> str:
    """Return the text with every secret of the settings replaced."""
    tunnel = config.get("ssh_tunnel")
    if not isinstance(tunnel, dict):
        tunnel = {}
    values = [
        config.get("password"),
        config.get("ssl_client_private_key"),
        tunnel.get("private_key"),
        tunnel.get("private_key_password"),
    ]
    secrets = [str(value) for value in values if value]
    if url := config.get("sqlalchemy_url"):
        # Whole, because it may be no valid URL; and its password, both escaped and unescaped.
        secrets.append(str(url))
        with contextlib.suppress(sqlalchemy.exc.ArgumentError):
            if password := sqlalchemy.make_url(str(url)).password:
                secrets += [password, quote(password), quote_plus(password)]
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
