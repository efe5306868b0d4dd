"""Applies the SQL files that make the tables."""

from __future__ import annotations

import logging
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from importlib.abc import Traversable

    import sqlalchemy
    from psycopg.errors import Diagnostic

logger = logging.getLogger("target-postgres.sql")

# Two loaders that start together must not make the same table at once. Any number will do.
_LOCK = 7_204_318_551


def files() -> list[Traversable]:
    """Return the SQL files in the order of their names.

    They lie in target-config/sql; a wheel carries them inside the package.
    """
    packed = resources.files("target_config") / "sql"
    folder: Traversable = packed if packed.is_dir() else Path(__file__).parents[2] / "sql"
    found = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".sql")),
        key=lambda file: file.name,
    )
    if not found:
        message = f"No SQL files in {folder}: the installation is broken."
        raise FileNotFoundError(message)
    return found


def apply(engine: sqlalchemy.Engine, schema: str) -> None:
    """Apply all files in one transaction, in the given schema, which is made if it is missing.

    Idempotent, and on a database that is already right it takes no lock that others could feel.
    """
    with engine.connect() as connection, connection.begin():
        # A file holds many statements: only the driver takes them as they are.
        cursor = connection.connection.cursor()
        cursor.connection.add_notice_handler(_tell)
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,))
        if cursor.fetchone() is None:
            cursor.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        cursor.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(schema)))
        for file in files():
            cursor.execute(file.read_text(encoding="utf-8"))
        cursor.connection.remove_notice_handler(_tell)


def _tell(notice: Diagnostic) -> None:
    if notice.severity_nonlocalized == "WARNING":
        logger.warning("%s", notice.message_primary)
