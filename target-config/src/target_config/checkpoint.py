"""The STATE: as text, into the table `checkpoint`, and on to whoever started us."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import msgspec
from psycopg import sql

from target_config.failures import LoaderError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import sqlalchemy

# The reader makes Decimals of fractions; the SDK's own way out of json.dumps fails on them.
_encoder = msgspec.json.Encoder(decimal_format="number")

_UPSERT = """
    INSERT INTO {}.checkpoint AS c (id, state, updated_at) VALUES (1, %s, now())
    ON CONFLICT (id) DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at
"""


def save(engine: sqlalchemy.Engine, schema: str, state: Mapping[str, Any]) -> None:
    """Commit the STATE as the one row of `checkpoint`.

    What the other columns say is the SQL's business; here the STATE is an opaque document.
    """
    with engine.connect() as connection, connection.begin():
        cursor = connection.connection.cursor()
        cursor.execute(
            sql.SQL(_UPSERT).format(sql.Identifier(schema)), (_encoder.encode(state).decode(),)
        )


def hand_on(state: Mapping[str, Any]) -> None:
    """Print the STATE on stdout, one line, and flush: Meltano saves it at once.

    Raises:
        LoaderError: If nobody reads stdout any more.
    """
    try:
        sys.stdout.write(_encoder.encode(state).decode() + "\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        # What is left in the buffer must not fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        message = (
            "Nobody reads the STATE any more: stdout is closed. "
            "The rows and the checkpoint are committed."
        )
        raise LoaderError(message) from error
