"""Compare the table `events` with a feed of the sandbox, row by row and field by field.

    python tests/docker/compare.py --events 60000 --seed 1

The options are those of `datasync-sandbox feed`; the database is that of DB_HOST, DB_PORT,
DB_USER, DB_PASSWORD or DB_PASSWORD_FILE, and DB_NAME. Runs in the image too, from stdin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
from psycopg import sql

COLUMNS = ("id", "session_id", "user_id", "type", "name", "properties", "session")
UTC = "to_char(timestamp AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS')"


def feed(options: list[str]) -> dict[str, list[object]]:
    """The expected rows by id: the columns, then the timestamp to the millisecond."""
    program = Path(sys.executable).with_name("datasync-sandbox")
    command = [str(program), "feed", *options]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    events = map(json.loads, lines)
    return {row["id"]: [*(row[name] for name in COLUMNS), row["timestamp"][:23]] for row in events}


def table() -> list[list[object]]:
    """The rows that were loaded, in the same form."""
    password = os.environ.get("DB_PASSWORD")
    if not password and (path := os.environ.get("DB_PASSWORD_FILE")):
        password = Path(path).read_text(encoding="utf-8").strip()
    query = sql.SQL("SELECT {}, {} FROM events").format(
        sql.SQL(", ").join(map(sql.Identifier, COLUMNS)), sql.SQL(UTC)
    )
    with psycopg.connect(
        host=os.environ["DB_HOST"],
        port=os.environ["DB_PORT"],
        user=os.environ["DB_USER"],
        dbname=os.environ["DB_NAME"],
        password=password,
    ) as connection:
        return [list(row) for row in connection.execute(query)]


def main() -> int:
    """Print the result; returns 0 if the table equals the feed."""
    expected, rows = feed(sys.argv[1:]), table()
    different = [str(row[0]) for row in rows if expected.get(str(row[0])) != row]
    print(f"{len(rows)} rows, {len(expected)} events in the feed, {len(different)} rows differ")
    if different:
        print(f"for example {different[:3]}")
    return int(bool(different) or len(rows) != len(expected))


if __name__ == "__main__":
    sys.exit(main())
