"""The tables: created from the SQL files, and compared with them at every start.

The SQL files are the only definition of the tables. On a database that is up to date a start reads
the catalog once, writes nothing and takes no lock.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from psycopg import sql

from target_config.errors import SettingsError

if TYPE_CHECKING:
    from importlib.abc import Traversable

    import psycopg

# The SQL files follow these conventions: a statement starts at the beginning of a line, a column
# takes one indented line.
_TABLE = re.compile(r"^CREATE TABLE IF NOT EXISTS (\w+) \((.*?)^\);", re.MULTILINE | re.DOTALL)
_COLUMN = re.compile(r"^    ([a-z_]+) +([A-Z]+)(.*?),?$", re.MULTILINE)
_KEY = re.compile(r"^    PRIMARY KEY \((.*)\)", re.MULTILINE)
_TYPE_NAMES = {"timestamptz": "timestamp with time zone"}

_CATALOG = """
    SELECT c.relname, c.relkind IN ('r', 'p'),
           (SELECT jsonb_object_agg(a.attname, jsonb_build_array(
                       format_type(a.atttypid, a.atttypmod), a.atthasdef))
              FROM pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
           ARRAY(SELECT a.attname::text
                   FROM pg_constraint AS k
                  CROSS JOIN unnest(k.conkey) WITH ORDINALITY AS u (attnum, position)
                   JOIN pg_attribute AS a ON (a.attrelid, a.attnum) = (c.oid, u.attnum)
                  WHERE k.conrelid = c.oid AND k.contype = 'p'
                  ORDER BY u.position)
      FROM pg_class AS c
     WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)
       AND c.relname = ANY(%s)
"""

# The version of the SQL files is kept as the comment of the trigger: both go with the table.
_VERSION = """
    SELECT obj_description(t.oid, 'pg_trigger')
      FROM pg_trigger AS t
      JOIN pg_class AS c ON c.oid = t.tgrelid
     WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)
       AND (c.relname, t.tgname) = ('checkpoint', 'checkpoint_from_state')
"""

_SCHEMA = """
    SELECT n.oid IS NOT NULL,
           CASE WHEN n.oid IS NULL AND NOT has_database_privilege(current_database(), 'CREATE')
                THEN format('GRANT CREATE ON DATABASE %%I TO %%I', current_database(), current_user)
                WHEN NOT (has_schema_privilege(n.oid, 'CREATE')
                          AND has_schema_privilege(n.oid, 'USAGE'))
                THEN format('GRANT CREATE, USAGE ON SCHEMA %%I TO %%I', n.nspname, current_user)
           END
      FROM (SELECT) AS one_row
      LEFT JOIN pg_namespace AS n ON n.nspname = %s
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table: type and default of its columns by name, and the columns of its primary key."""

    columns: dict[str, tuple[str, bool]]
    key: tuple[str, ...]


@cache
def script() -> str:
    """Return the text of all SQL files, in the order of their names.

    They are at target-config/sql; a wheel contains them inside the package.
    """
    packed = resources.files("target_config") / "sql"
    folder: Traversable = packed if packed.is_dir() else Path(__file__).parents[2] / "sql"
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".sql")),
        key=lambda file: file.name,
    )
    if not files:
        message = f"No SQL files in {folder}: the installation is broken."
        raise FileNotFoundError(message)
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


@cache
def tables() -> dict[str, Table]:
    """Return the tables that the SQL files define, by name."""
    found = {}
    for name, body in _TABLE.findall(script()):
        columns, key = {}, tuple(re.findall(r"\w+", "".join(_KEY.findall(body))))
        for column, kind, rest in _COLUMN.findall(body):
            kind_name = kind.lower()
            columns[column] = (_TYPE_NAMES.get(kind_name, kind_name), "DEFAULT" in rest)
            if "PRIMARY KEY" in rest:
                key = (column,)
        found[name] = Table(columns, key)
    return found


def ensure_tables(cursor: psycopg.Cursor[Any], schema: str) -> None:
    """Create what is missing, in the current transaction; nothing if all is up to date.

    Raises:
        SettingsError: If a table of the same name has other columns or another key, if the role may
            not create the tables, or if the database cannot store every character.
    """
    cursor.execute("SHOW server_encoding")
    if (row := cursor.fetchone()) and row[0] != "UTF8":
        message = f"The database has the encoding {row[0]}: create it with ENCODING 'UTF8'."
        raise SettingsError(message)
    present = _present_tables(cursor, schema)
    for name, table in present.items():
        if difference := _difference(tables()[name], table):
            message = (
                f"Table {schema}.{name} {difference}. It was not created by this version: "
                "change, rename or drop it, then start again."
            )
            raise SettingsError(message)
    version = hashlib.sha256(script().encode()).hexdigest()[:16]
    cursor.execute(_VERSION, (schema,))
    if len(present) == len(tables()) and cursor.fetchone() == (version,):
        return
    cursor.execute(_SCHEMA, (schema,))
    schema_exists, missing_grant = cast("tuple[bool, str | None]", cursor.fetchone())
    if missing_grant:
        message = (
            f'The role may not create tables in schema "{schema}". '
            f"Run as its owner: {missing_grant};"
        )
        raise SettingsError(message)
    identifier = sql.Identifier(schema)
    if not schema_exists:
        cursor.execute(sql.SQL("CREATE SCHEMA {}").format(identifier))
    cursor.execute(sql.SQL("SET LOCAL search_path TO {}").format(identifier))
    cursor.execute(script())
    comment = sql.SQL("COMMENT ON TRIGGER checkpoint_from_state ON checkpoint IS {}")
    cursor.execute(comment.format(sql.Literal(version)))


def _present_tables(cursor: psycopg.Cursor[Any], schema: str) -> dict[str, Table | None]:
    """Read the tables of these names from the catalog; None for a view or another relation."""
    cursor.execute(_CATALOG, (schema, list(tables())))
    present: dict[str, Table | None] = {}
    for name, is_table, columns, key in cursor.fetchall():
        found = {column: (kind, default) for column, (kind, default) in (columns or {}).items()}
        present[name] = Table(found, tuple(key)) if is_table else None
    return present


def _difference(expected: Table, present: Table | None) -> str | None:
    """Describe the first difference that prevents loading; further columns do not."""
    if present is None:
        return "is not a table"
    for name, (kind, has_default) in expected.columns.items():
        present_kind, present_default = present.columns.get(name, (None, False))
        if present_kind is None:
            return f"has no column {name} of type {kind}"
        if present_kind != kind:
            return f"has column {name} of type {present_kind} instead of {kind}"
        if has_default and not present_default:
            return f"has column {name} without a default"
    if present.key != expected.key:
        key = f"the primary key ({', '.join(present.key)})" if present.key else "no primary key"
        return f"has {key} instead of ({', '.join(expected.key)})"
    return None
