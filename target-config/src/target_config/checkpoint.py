"""The STATE: its row in the table `checkpoint`, and its line on stdout."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from psycopg import sql

from target_config.errors import TargetError

if TYPE_CHECKING:
    import psycopg

_UPSERT = """
    INSERT INTO {} AS c (id, state, updated_at) VALUES (1, %s, now())
    ON CONFLICT (id) DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at
"""


def save(cursor: psycopg.Cursor[Any], schema: str, state: str) -> None:
    """Write the STATE, a JSON text, as the one row of `checkpoint`.

    The STATE is opaque here: a trigger derives the other columns from it.
    """
    cursor.execute(sql.SQL(_UPSERT).format(sql.Identifier(schema, "checkpoint")), (state,))


def emit_state(state: str) -> None:
    """Print the STATE on stdout, one line, and flush: Meltano saves it at once.

    Raises:
        TargetError: If stdout is closed.
    """
    try:
        sys.stdout.write(f"{state}\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        # What is left in the buffer must not fail again when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        message = (
            "stdout is closed: the STATE cannot be printed. Rows and checkpoint are committed."
        )
        raise TargetError(message) from error
