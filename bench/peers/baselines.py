"""Baselines: loads that leave out most of the work.

* ``fetch``: request page after page and discard them.
* ``copy DIRECTORY``: COPY prepared rows into the table.
* ``upsert DIRECTORY``: COPY them into a temporary table, then ``INSERT ... ON CONFLICT``.
* ``prepare DIRECTORY``: write the rows of ``datasync-sandbox feed`` as COPY text, a file for each
  page; not measured.

``copy`` and ``upsert`` commit after every page, durably, as this project does. Addresses come from
the environment.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import islice
from pathlib import Path

import msgspec
import psycopg
import requests

PAGE_EVENTS = 5000
COLUMNS = "id, session_id, user_id, type, name, properties, timestamp, session"
TABLE = """
CREATE TABLE events (
    id TEXT PRIMARY KEY, session_id TEXT, user_id TEXT, type TEXT, name TEXT, properties JSONB,
    timestamp TIMESTAMPTZ, session JSONB, ingested_at TIMESTAMPTZ DEFAULT now()
)
"""
STAGING = f"""
CREATE TEMPORARY TABLE staging ON COMMIT DELETE ROWS AS SELECT {COLUMNS} FROM events WITH NO DATA
"""  # noqa: S608 - constants
INSERT = f"""
INSERT INTO events ({COLUMNS}) SELECT {COLUMNS} FROM staging ON CONFLICT (id) DO NOTHING
"""  # noqa: S608 - constants
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


class _Pagination(msgspec.Struct, rename="camel"):
    next_cursor: str | None = None


class _Page(msgspec.Struct):
    pagination: _Pagination


def fetch() -> None:
    """Request every page."""
    session = requests.Session()
    session.headers["X-API-Key"] = os.environ["API_KEY"]
    url = os.environ["API_BASE_URL"] + "/events"
    params: dict[str, str | int] = {"limit": PAGE_EVENTS}
    while True:
        response = session.get(url, params=params, timeout=60)
        response.raise_for_status()
        cursor = msgspec.json.decode(response.content, type=_Page).pagination.next_cursor
        if not cursor:
            return
        params["cursor"] = cursor


def copy_line(line: str) -> str:
    """Return a row, an object in JSON, as a line of COPY text."""
    row = json.loads(line)
    values = (row[name] for name in COLUMNS.split(", "))
    texts = (value if isinstance(value, str) else json.dumps(value) for value in values)
    return "\t".join(text.translate(_ESCAPES) for text in texts) + "\n"


def prepare(directory: Path) -> None:
    """Write rows from stdin as COPY text."""
    number = 0
    while page := list(islice(sys.stdin, PAGE_EVENTS)):
        number += 1
        (directory / f"{number:06}").write_text("".join(map(copy_line, page)))


def load(directory: Path, step: str) -> None:
    """Load prepared rows with ``copy`` or ``upsert``."""
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        connection.execute(TABLE)
        connection.execute(STAGING)
        connection.commit()
        table = "events" if step == "copy" else "staging"
        cursor = connection.cursor()
        for path in sorted(directory.iterdir()):
            with cursor.copy(f"COPY {table} ({COLUMNS}) FROM STDIN".encode()) as stream:
                stream.write(path.read_bytes())
            if step == "upsert":
                cursor.execute(INSERT)
            connection.commit()


def main(step: str, directory: str) -> None:
    """Run one step."""
    if step == "fetch":
        fetch()
    elif step == "prepare":
        prepare(Path(directory))
    else:
        load(Path(directory), step)


if __name__ == "__main__":
    main(*sys.argv[1:])
