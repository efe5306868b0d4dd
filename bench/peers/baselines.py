"""The floors: what cannot be beaten, since it leaves out all other work.

* `fetch`: ask for page after page and throw them away, with the least that a client can do.
* `prepare FILE`: fetch once more and write the rows as COPY text, page by page; not measured.
* `copy FILE`: COPY of those ready rows straight into the table.
* `upsert FILE`: COPY into a temporary table, then `INSERT ... ON CONFLICT DO NOTHING`.
* `keyless FILE`: the same into a table without a primary key, and so without a conflict.
* `upsert-once FILE`: as `upsert`, all of it in one transaction.
* `upsert-durable FILE`: as `upsert`, and every page is on the disk before the next one begins.

All but `upsert-once` commit page by page, as the lanes do; all but `upsert-durable` with
`synchronous_commit` off. The lanes have it on, so that they wait for the disk as `upsert-durable`
does. Addresses come from the environment.
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
KEY = " PRIMARY KEY"
TABLE = """
CREATE TABLE events (
    id TEXT{key}, session_id TEXT, user_id TEXT, type TEXT, name TEXT, properties JSONB,
    timestamp TIMESTAMPTZ, session JSONB, ingested_at TIMESTAMPTZ DEFAULT now()
)
"""
STAGING = """
CREATE TEMPORARY TABLE staging ON COMMIT DELETE ROWS AS SELECT {columns} FROM events WITH NO DATA
"""
INSERT = "INSERT INTO events ({columns}) SELECT {columns} FROM staging {conflict}"
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
    """Walk the feed; yields the pages as they come."""
    session = requests.Session()
    session.headers["X-API-Key"] = os.environ["API_KEY"]
    url = os.environ["API_BASE_URL"] + "/events"
    cursor = None
    while True:
        params: dict[str, str | int] = {"limit": 5000}
        if cursor:
            params["cursor"] = cursor
        reply = session.get(url, params=params, timeout=60)
        reply.raise_for_status()
        body = reply.content
        yield body
        cursor = msgspec.json.decode(body, type=_Cursor).pagination.next_cursor
        if not cursor:
            return


def ready(body: bytes) -> bytes:
    """A page as COPY text."""
    lines = []
    for event in msgspec.json.decode(body, type=_Page).data:
        moment = event.timestamp
        if isinstance(moment, int):
            moment = datetime.fromtimestamp(moment / 1000, timezone.utc).isoformat()
        values = (event.id, event.session_id, event.user_id, event.type, event.name)
        objects = (bytes(event.properties).decode(), moment, bytes(event.session).decode())
        lines.append("\t".join(value.translate(_ESCAPES) for value in (*values, *objects)))
    return "".join(f"{line}\n" for line in lines).encode()


def prepare(path: Path) -> None:
    """Write the pages of the feed as COPY text, each after its length."""
    with path.open("wb") as file:
        for body in bodies():
            text = ready(body)
            file.write(_LENGTH.pack(len(text)) + text)


def pages(path: Path) -> Iterator[bytes]:
    """Read what `prepare` wrote."""
    with path.open("rb") as file:
        while head := file.read(_LENGTH.size):
            yield file.read(_LENGTH.unpack(head)[0])


def load(path: Path, way: str) -> None:
    """Load the ready rows in one of the ways above."""
    env = os.environ
    with psycopg.connect(
        host=env["DB_HOST"],
        port=int(env["DB_PORT"]),
        user=env["DB_USER"],
        password=env["DB_PASSWORD"],
        dbname=env["DB_NAME"],
    ) as connection:
        if way != "upsert-durable":
            connection.execute("SET synchronous_commit TO off")
        connection.execute(TABLE.format(key="" if way == "keyless" else KEY).encode())
        connection.execute(STAGING.format(columns=COLUMNS).encode())
        connection.commit()
        table = "events" if way == "copy" else "staging"
        copy = f"COPY {table} ({COLUMNS}) FROM STDIN".encode()
        conflict = "" if way == "keyless" else "ON CONFLICT (id) DO NOTHING"
        insert = INSERT.format(columns=COLUMNS, conflict=conflict).encode()
        cursor = connection.cursor()
        if way == "upsert-once":
            with cursor.copy(copy) as stream:
                for text in pages(path):
                    stream.write(text)
            cursor.execute(insert)
            return
        for text in pages(path):
            with cursor.copy(copy) as stream:
                stream.write(text)
            if way != "copy":
                cursor.execute(insert)
            connection.commit()


def main(way: str, path: str = "") -> None:
    """Run one floor."""
    if way == "fetch":
        for _ in bodies():
            pass
    elif way == "prepare":
        prepare(Path(path))
    else:
        load(Path(path), way)


if __name__ == "__main__":
    main(*sys.argv[1:])
