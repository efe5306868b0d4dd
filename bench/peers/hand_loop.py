"""A hand-written loop: request, INSERT, pause.

One request, one multi-row ``INSERT ... ON CONFLICT DO NOTHING``, the checkpoint in the same
transaction, the next request. Events are not validated.

Usage: ``hand_loop.py PAUSE``: seconds between two requests (6 keep it below the rate limit).
Addresses come from the environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import datetime, timezone
from typing import Any

import psycopg
import requests

TABLES = """
CREATE TABLE IF NOT EXISTS events (
    id TEXT PRIMARY KEY, session_id TEXT, user_id TEXT, type TEXT, name TEXT, properties JSONB,
    timestamp TIMESTAMPTZ, session JSONB, ingested_at TIMESTAMPTZ DEFAULT now()
);
CREATE TABLE IF NOT EXISTS checkpoint (
    id INTEGER PRIMARY KEY DEFAULT 1, next_cursor TEXT, total_events INTEGER,
    updated_at TIMESTAMPTZ DEFAULT now()
);
"""
CHECKPOINT = """
INSERT INTO checkpoint (id, next_cursor, total_events) VALUES (1, %s, %s)
ON CONFLICT (id) DO UPDATE SET next_cursor = excluded.next_cursor,
    total_events = excluded.total_events, updated_at = now()
"""
INSERT = """
INSERT INTO events (id, session_id, user_id, type, name, properties, timestamp, session)
VALUES {} ON CONFLICT (id) DO NOTHING
"""
ROW = "(%s,%s,%s,%s,%s,%s,%s,%s)"
HTTP_TOO_MANY = 429


def rows(events: list[dict[str, Any]]) -> list[Any]:
    """Return the values of a page in one flat list."""
    values: list[Any] = []
    for event in events:
        timestamp = event["timestamp"]
        if isinstance(timestamp, int):
            timestamp = datetime.fromtimestamp(timestamp / 1000, timezone.utc).isoformat()
        values += (
            event["id"],
            event["sessionId"],
            event["userId"],
            event["type"],
            event["name"],
            json.dumps(event["properties"]),
            timestamp,
            json.dumps(event["session"]),
        )
    return values


def get_page(session: requests.Session, url: str, cursor: str | None) -> dict[str, Any]:
    """Request a page; after a 429 wait as long as Retry-After demands."""
    params: dict[str, str | int] = {"limit": 5000}
    if cursor:
        params["cursor"] = cursor
    while True:
        response = session.get(url, params=params, timeout=60)
        if response.status_code != HTTP_TOO_MANY:
            response.raise_for_status()
            page: dict[str, Any] = response.json()
            return page
        time.sleep(float(response.headers["Retry-After"]))


def main(pause: float) -> None:
    """Load the feed to its end."""
    env = os.environ
    session = requests.Session()
    session.headers["X-API-Key"] = env["API_KEY"]
    # Interpolating 40,000 values on the client is faster than binding them.
    with psycopg.connect(env["DATABASE_URL"], cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute(TABLES)
        connection.commit()
        cursor = None
        while True:
            page = get_page(session, env["API_BASE_URL"] + "/events", cursor)
            events, cursor = page["data"], page["pagination"].get("nextCursor")
            if events:
                values = ",".join([ROW] * len(events))
                connection.execute(INSERT.format(values), rows(events))
            connection.execute(CHECKPOINT, (cursor, page["meta"]["total"]))
            connection.commit()
            if not cursor or not page["pagination"].get("hasMore"):
                return
            time.sleep(pause)


if __name__ == "__main__":
    main(float(sys.argv[1]))
