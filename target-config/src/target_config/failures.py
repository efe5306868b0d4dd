"""What can go wrong in the loader, grouped by what the caller should do.

LoaderError             exit 1   trying again may help
├── DatabaseError       exit 1   PostgreSQL stayed away too long, or refused these rows
├── InputError          exit 1   what came on stdin is no Singer message, or was cut off
└── SettingsError       exit 2   a person has to change a setting, a grant or a table first

Every message is one plain sentence for a person, without a password.
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

# What libpq says when the server is there and will go on saying no. An error of a failed connection
# carries no SQLSTATE (libpq keeps it to itself), so the words are all there is to tell them by.
_REFUSALS = re.compile(
    r"password authentication failed|no password supplied|authentication failed|"
    r"(?:database|role) \"[^\"]*\" does not exist|is not permitted to log in|"
    r"no pg_hba\.conf entry|pg_hba\.conf rejects|permission denied for database|"
    r"server does not support SSL|certificate|invalid port number|invalid connection option",
)

# Failures that pass by themselves although the server answered: it is going down or coming up, it
# has ended a session that was idle for long (57P05), or two transactions stood in each other's way.
# The whole transaction may be sent again.
_PASSING_STATES = frozenset({"40001", "40P01", "57P01", "57P02", "57P03", "57P05", "53300"})

# Failures that stay until a person acts: something is missing, wrong or not granted (class 42), or
# is of a kind that PostgreSQL cannot do this with (class 0A), or it takes no writes (25006: a
# standby). Source: https://www.postgresql.org/docs/current/errcodes-appendix.html.
_STRUCTURAL_STATES = ("42", "0A", "25006")


class LoaderError(Exception):
    """The load stopped; the message says why in one sentence."""

    exit_code: ClassVar[int] = 1


class DatabaseError(LoaderError):
    """PostgreSQL could not be reached, or refused rows."""


class InputError(LoaderError):
    """The input is no Singer message, or ended in the middle of one."""


class SettingsError(LoaderError):
    """A setting is missing or wrong, or the database is not made for this load."""

    exit_code = 2


def driver_error(error: BaseException) -> psycopg.Error | None:
    """Return psycopg's own error: COPY raises it bare, SQLAlchemy wraps it."""
    origin = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    return origin if isinstance(origin, psycopg.Error) else None


def is_passing(error: BaseException) -> bool:
    """Tell whether sending the same transaction again can help.

    True for a connection that failed, broke or was shut down, False for what the server will refuse
    again: a wrong password, a missing database, bad data, a missing privilege.
    """
    origin = driver_error(error)
    if not isinstance(origin, (psycopg.OperationalError, psycopg.InterfaceError)):
        return False
    if origin.sqlstate is None:
        return not _REFUSALS.search(str(origin))
    return origin.sqlstate in _PASSING_STATES or origin.sqlstate.startswith("08")


def is_structural(error: BaseException) -> bool:
    """Tell whether a person has to act: a grant, a table or a column is missing or wrong."""
    origin = driver_error(error)
    return origin is not None and (origin.sqlstate or "").startswith(_STRUCTURAL_STATES)


def is_refused_connection(error: BaseException) -> bool:
    """Tell whether the server is there but will not let us in."""
    origin = driver_error(error)
    return origin is not None and origin.sqlstate is None and bool(_REFUSALS.search(str(origin)))


def in_one_line(error: BaseException) -> str:
    """Say what PostgreSQL said: its first line, and where in a COPY it was."""
    origin = driver_error(error)
    lines = [line.strip() for line in str(origin or error).splitlines() if line.strip()]
    if not lines:
        return type(origin or error).__name__
    # A host with several addresses: the first line only announces the list of failures.
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    # What a server said while we connected stands behind libpq's own words.
    said = re.sub(r"\s+", " ", said.rsplit("FATAL:", maxsplit=1)[-1]).strip(" .")
    # The context of a COPY quotes the row behind a colon: it is data and stays out of the log.
    context = origin.diag.context if origin else None
    return f"{said} ({context.splitlines()[0].split(':', maxsplit=1)[0]})" if context else said


def secrets_of(config: Mapping[str, Any]) -> list[str]:
    """Return every secret that the settings hold, as text."""
    tunnel = config.get("ssh_tunnel")
    places: list[tuple[Mapping[str, Any], str]] = [
        (config, "password"),
        (config, "ssl_client_private_key"),
    ]
    if isinstance(tunnel, dict):
        places += [(tunnel, "private_key"), (tunnel, "private_key_password")]
    found = [str(place[name]) for place, name in places if place.get(name)]
    if url := config.get("sqlalchemy_url"):
        # Whole, since it may be no URL at all; and the password in it, as it is and unescaped.
        found.append(str(url))
        with contextlib.suppress(sqlalchemy.exc.ArgumentError):
            if password := sqlalchemy.make_url(str(url)).password:
                found += [password, quote(password), quote_plus(password)]
    return found


def without(secrets: list[str], text: str) -> str:
    """Return the text with every secret replaced: the one place that redacts."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
