"""Generate the tables of two reference pages from the programs and the database.

* ``docs/settings.md`` from ``tap-datasync --about`` and ``target-postgres-checkpoint --about``,
* ``docs/tables.md`` from the catalog of a database with the target's SQL.

Of each page, the text between the two markers is replaced.

    .venv-dev/bin/python docs/generate.py            write them
    .venv-dev/bin/python docs/generate.py --check    fail if they are outdated
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from datasync_ingestion.database import PIPELINE_RUNS
from datasync_sandbox.testing import temporary_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).resolve().parent
# Directory of this environment's executables.
BIN = Path(sys.executable).parent
BEGIN, END = "<!-- generated -->\n", "<!-- end of generated -->\n"

# In the order in which they are created.
_TABLES = """
    SELECT c.relname, obj_description(c.oid, 'pg_class')
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relkind = 'r'
    ORDER BY c.oid
"""
_COLUMNS = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid),
           CASE WHEN a.attnum = ANY (k.conkey) THEN 'Key.' END,
           col_description(a.attrelid, a.attnum)
    FROM pg_attribute AS a
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN pg_constraint AS k ON k.conrelid = a.attrelid AND k.contype = 'p'
    WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
"""
_TYPES = {"timestamp with time zone": "timestamptz"}

# The SDK declares these for every tap and target. Faker is not installed, and the target ignores
# the load method.
_WITHOUT_EFFECT = ("| faker_config", "| load_method")


def settings() -> Iterator[str]:
    """Yield the sections of `settings.md`."""
    for title, program in (
        ("The tap, `tap-datasync`", "tap-datasync"),
        ("The target, `target-postgres`", "target-postgres-checkpoint"),
    ):
        about = _output(program, "--about", "--format=markdown")
        rows = about[about.index("| Setting") :].split("\n\n")[0].splitlines()
        table = "\n".join(row for row in rows if not row.startswith(_WITHOUT_EFFECT))
        yield f"## {title}\n\n{table}\n"


def tables() -> Iterator[str]:
    """Yield the sections of `tables.md`."""
    with tempfile.TemporaryDirectory() as directory, temporary_postgres(Path(directory)) as server:
        # In a file, so that settings of another database in the environment have no effect.
        config = Path(directory) / "config.json"
        names = ("host", "port", "user", "password", "database")
        config.write_text(json.dumps({name: getattr(server, name) for name in names}))
        _output("target-postgres-checkpoint", "--config", str(config), "--apply-sql")
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(PIPELINE_RUNS)
            for table, description in connection.execute(_TABLES).fetchall():
                columns = connection.execute(_COLUMNS, (table,)).fetchall()
                rows = "\n".join(_row(*column) for column in columns)
                yield f"## {table}\n\n{description}\n\n| column | type | |\n|---|---|---|\n{rows}\n"


def _row(name: str, kind: str, default: str | None, key: str | None, comment: str | None) -> str:
    about = [key, comment, default and f"Default `{default}`."]
    return f"| `{name}` | {_TYPES.get(kind, kind)} | {' '.join(filter(None, about))} |"


def _output(program: str, *arguments: str) -> str:
    """Return the output of a program, without settings that could replace a default."""
    env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [str(BIN / program), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)  # noqa: S603
    return done.stdout


def main() -> int:
    """Write the pages; with `--check` report which are outdated."""
    outdated = []
    for name, sections in (("settings.md", settings()), ("tables.md", tables())):
        path = DOCS / name
        page = path.read_text()
        head, rest = page.split(BEGIN)
        _, tail = rest.split(END)
        updated = "\n".join([head + BEGIN, *sections, END + tail])
        if updated != page:
            outdated.append(name)
            if "--check" not in sys.argv[1:]:
                path.write_text(updated)
                print(f"Wrote docs/{name}")
    if outdated and "--check" in sys.argv[1:]:
        print(f"Outdated: {', '.join(outdated)}. Run docs/generate.py.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
