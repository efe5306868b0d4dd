"""Baselines: loads that leave out most of the work.

* ``fetch``: request page after page and discard them.
* ``prepare FILE``: fetch the feed and write its rows as COPY text, page by page; not measured.
* ``copy FILE``: COPY the prepared rows into the table.
* ``upsert FILE``: COPY them into a temporary table, then ``INSERT ... ON CONFLICT DO NOTHING``.

``copy`` and ``upsert`` commit after every page, durably, as this project does. Addresses come from
the environment.
"""

from __future__ import annotations

import os
import struct
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psycopg
import requests

if TYPE_CHECKING:
    from collections.abc import Iterator

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
_LENGTH = struct.Struct("<I")
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


class _Pagination(msgspec.Struct, rename="camel"):
    next_cursor: str | None = None


class _Cursor(msgspec.Struct):
    pagination: _Pagination


class _Event(msgspec.Struct, rename="camel"):
    id: str
    session_id: str
    user_id: str
    type: str
    name: str
    properties: msgspec.Raw
    timestamp: int | str
    session: msgspec.Raw


class _Page(msgspec.Struct):
    data: list[_Event]


def bodies() -> Iterator[bytes]:
    """Yield the bodies of all pages."""
    session = requests.Session()
    session.headers["X-API-Key"] = os.environ["API_KEY"]
    url = os.environ["API_BASE_URL"] + "/events"
    cursor = None
    while True:
        params: dict[str, str | int] = {"limit": 5000}
        if cursor:
            params["cursor"] = cursor
        response = session.get(url, params=params, timeout=60)
        response.raise_for_status()
        body = response.content
        yield body
        cursor = msgspec.json.decode(body, type=_Cursor).pagination.next_cursor
        if not cursor:
            return


def copy_text(body: bytes) -> bytes:
    """Return a page as COPY text."""
    lines = []
    for event in msgspec.json.decode(body, type=_Page).data:
        timestamp = event.timestamp
        if isinstance(timestamp, int):
            timestamp = datetime.fromtimestamp(timestamp / 1000, timezone.utc).isoformat()
        values = (event.id, event.session_id, event.user_id, event.type, event.name)
        objects = (bytes(event.properties).decode(), timestamp, bytes(event.session).decode())
        lines.append("\t".join(value.translate(_ESCAPES) for value in (*values, *objects)))
    return "".join(f"{line}\n" for line in lines).encode()


def prepare(path: Path) -> None:
    """Write every page of the feed as COPY text, preceded by its length."""
    with path.open("wb") as file:
        for body in bodies():
            text = copy_text(body)
            file.write(_LENGTH.pack(len(text)) + text)


def pages(path: Path) -> Iterator[bytes]:
    """Yield the pages of a prepared file."""
    with path.open("rb") as file:
        while head := file.read(_LENGTH.size):
            yield file.read(_LENGTH.unpack(head)[0])


def load(path: Path, step: str) -> None:
    """Load prepared rows with ``copy`` or ``upsert``."""
    env = os.environ
    with psycopg.connect(
        host=env["DB_HOST"],
        port=int(env["DB_PORT"]),
        user=env["DB_USER"],
        password=env["DB_PASSWORD"],
        dbname=env["DB_NAME"],
    ) as connection:
        connection.execute(TABLE)
        connection.execute(STAGING)
        connection.commit()
        table = "events" if step == "copy" else "staging"
        cursor = connection.cursor()
        for text in pages(path):
            with cursor.copy(f"COPY {table} ({COLUMNS}) FROM STDIN".encode()) as stream:
                stream.write(text)
            if step == "upsert":
                cursor.execute(INSERT)
            connection.commit()


def main(step: str, path: str = "") -> None:
    """Run one step."""
    if step == "fetch":
        for _ in bodies():
            pass
    elif step == "prepare":
        prepare(Path(path))
    else:
        load(Path(path), step)


if __name__ == "__main__":
    main(*sys.argv[1:])
