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
from typing import TYPE_CHECKING, Any, ClassVar
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


def driver_error(error: BaseException) -> psycopg.Error | None:
    """Return the error of psycopg, which COPY raises as it is and SQLAlchemy wraps."""
    origin = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    return origin if isinstance(origin, psycopg.Error) else None


def is_transient(error: BaseException) -> bool:
    """Return whether the same transaction may succeed if it is sent again.

    True for a connection that failed, broke or was shut down; False for what the server will reject
    again: a wrong password, a missing database, invalid data, a missing privilege.
    """
    origin = driver_error(error)
    if origin is None:
        return False
    if _LOST_WORKER.search(str(origin)):
        return True
    if origin.sqlstate is None:
        is_connection_error = isinstance(origin, (psycopg.OperationalError, psycopg.InterfaceError))
        return is_connection_error and not is_connection_rejected(origin)
    return origin.sqlstate in _TRANSIENT_STATES or origin.sqlstate.startswith("08")


def is_connection_rejected(error: BaseException) -> bool:
    """Return whether a server responded and rejected the connection."""
    origin = driver_error(error)
    return origin is not None and origin.sqlstate is None and bool(_REJECTIONS.search(str(origin)))


def needs_user_action(error: BaseException) -> bool:
    """Return whether a setting, a privilege, a table or a column is missing or wrong."""
    origin = driver_error(error)
    return origin is not None and (origin.sqlstate or "").startswith(_USER_STATES)


def is_data_error(error: BaseException) -> bool:
    """Return whether PostgreSQL rejects the rows themselves."""
    origin = driver_error(error)
    return origin is not None and (origin.sqlstate or "").startswith(_DATA_STATES)


def summarize(error: BaseException) -> str:
    """Return the message of PostgreSQL in one line, and the position within a COPY."""
    origin = driver_error(error)
    lines = [line.strip() for line in str(origin or error).splitlines() if line.strip()]
    if not lines:
        return type(origin or error).__name__
    # For a host with several addresses the first line is the heading of a list of failures.
    message = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    # The server's own message of a failed connection follows that of libpq.
    message = re.sub(r"\s+", " ", message.rsplit("FATAL:", maxsplit=1)[-1]).strip(" .")
    # The context of a COPY quotes the row after a colon: data, which must not reach the log.
    context = origin.diag.context if origin else None
    return (
        f"{message} ({context.splitlines()[0].split(':', maxsplit=1)[0]})" if context else message
    )


def find_secrets(config: Mapping[str, Any]) -> list[str]:
    """Return every secret in the settings, as text."""
    tunnel = config.get("ssh_tunnel")
    places: list[tuple[Mapping[str, Any], str]] = [
        (config, "password"),
        (config, "ssl_client_private_key"),
    ]
    if isinstance(tunnel, dict):
        places += [(tunnel, "private_key"), (tunnel, "private_key_password")]
    found = [str(place[name]) for place, name in places if place.get(name)]
    if url := config.get("sqlalchemy_url"):
        # Whole, because it may be no valid URL; and its password, both escaped and unescaped.
        found.append(str(url))
        with contextlib.suppress(sqlalchemy.exc.ArgumentError):
            if password := sqlalchemy.make_url(str(url)).password:
                found += [password, quote(password), quote_plus(password)]
    return found


def redact(secrets: list[str], text: str) -> str:
    """Return the text with every secret replaced."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
