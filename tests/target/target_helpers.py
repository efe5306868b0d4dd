"""Singer messages as the tap writes them, a database to query, and the target as a process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psycopg
from target_config.target import TargetPostgresCheckpoint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from datasync_sandbox.testing import Cluster

SCRIPTS = Path(sysconfig.get_path("scripts"))

Make = Callable[..., TargetPostgresCheckpoint]
"""The fixture `make_target`: settings in, a target out."""


@dataclass
class Database:
    """A database of the tests' cluster."""

    cluster: Cluster
    name: str

    @property
    def config(self) -> dict[str, Any]:
        """The required settings of the target for this database."""
        return {
            "host": self.cluster.host,
            "port": self.cluster.port,
            "user": self.cluster.user,
            "password": self.cluster.password,
            "database": self.name,
        }

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        config = self.config
        # Overrides what a test sets for the sessions of the target.
        own = "-c default_transaction_read_only=off -c lock_timeout=0"
        dbname = config.pop("database")
        return psycopg.connect(dbname=dbname, autocommit=True, options=own, **config)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            return connection.execute(query.encode()).fetchall()

    def value(self, query: str) -> Any:
        return self.rows(query)[0][0]

    def execute(self, statements: str) -> None:
        with self.connect() as connection:
            connection.execute(statements.encode())


def _nullable(kind: str, **more: str) -> dict[str, Any]:
    return {"type": [kind, "null"], **more}


TIME = _nullable("string", format="date-time")
TEXT = _nullable("string")
OBJECT = _nullable("object")
COUNT = _nullable("integer")

STREAMS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "events": (
        ["id"],
        {
            "id": {"type": "string"},
            "session_id": TEXT,
            "user_id": TEXT,
            "type": TEXT,
            "name": TEXT,
            "properties": OBJECT,
            "timestamp": TIME,
            "session": OBJECT,
        },
    ),
    "rejected_events": (
        ["rejection_id"],
        {
            "rejection_id": {"type": "string"},
            "event_id": TEXT,
            "errors": _nullable("array"),
            "raw_event": TEXT,
            "sync_id": TEXT,
            "page": COUNT,
            "rejected_at": TIME,
        },
    ),
    "pages": (
        ["sync_id", "page"],
        {
            "sync_id": {"type": "string"},
            "page": {"type": "integer"},
            "requested_at": TIME,
            "received_at": TIME,
            **dict.fromkeys(("response_bytes", "events", "emitted", "skipped", "rejected"), COUNT),
            "retries": OBJECT,
            "rate_limit_wait_seconds": _nullable("number"),
            **dict.fromkeys(("rate_limit", "rate_limit_remaining"), COUNT),
            "rate_limit_reset_seconds": COUNT,
            **dict.fromkeys(("cursor_expires_at", "oldest_event_at", "newest_event_at"), TIME),
            **dict.fromkeys(("events_seen", "events_expected", "total_events"), COUNT),
            "incremental_to": TIME,
        },
    ),
}

NOW = "2026-02-01T00:00:00.125000Z"


def schemas() -> list[dict[str, Any]]:
    return [
        {
            "type": "SCHEMA",
            "stream": stream,
            "schema": {"type": "object", "properties": columns},
            "key_properties": keys,
        }
        for stream, (keys, columns) in STREAMS.items()
    ]


def event(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"event-{number}",
        "session_id": f"session-{number // 50}",
        "user_id": "user-1",
        "type": "click",
        "name": f"event_{number:06x}",
        "properties": {"page": "/home"},
        "timestamp": f"2026-01-27T19:{number // 60 % 60:02}:{number % 60:02}.369000Z",
        "session": {"id": f"session-{number // 50}", "deviceType": "mobile"},
        **changes,
    }


def record(stream: str, row: dict[str, Any]) -> dict[str, Any]:
    return {"type": "RECORD", "stream": stream, "record": row}


def state(seen: int, total: int = 1000, *, done: bool = False) -> dict[str, Any]:
    bookmark: dict[str, Any] = {
        "version": 2,
        "source": "http://127.0.0.1:1/api/v1",
        "cursor": None if done else f"cursor-{seen}",
        "cursor_expires_at": None if done else NOW,
        "scan_newest_at": None if done else NOW,
        "scan_newest_id": None if done else "event-0",
        "scan_oldest_at": None if done else "2026-01-01T00:00:00.000000Z",
        "scan_last_id": None if done else f"event-{seen}",
        "scan_sorted": True,
        "feed_sorted": True,
        "loaded_ranges": [],
        "high_watermark": NOW if done else None,
        "high_watermark_id": "event-0" if done else None,
        "events_seen": seen,
        "events_emitted": seen,
        "events_expected": total,
        "total_events": total,
    }
    return {"bookmarks": {"events": bookmark, "pages": {}, "rejected_events": {}}}


def state_message(seen: int, total: int = 1000, *, done: bool = False) -> dict[str, Any]:
    return {"type": "STATE", "value": state(seen, total, done=done)}


def page_row(number: int, seen: int) -> dict[str, Any]:
    return {
        "sync_id": "sync-1",
        "page": number,
        "requested_at": NOW,
        "received_at": NOW,
        "response_bytes": 1_732_547,
        "events": 10,
        "emitted": 10,
        "skipped": 0,
        "rejected": 0,
        "retries": {"http_502": 1},
        "rate_limit_wait_seconds": 0.25,
        "rate_limit": 10,
        "rate_limit_remaining": 9,
        "rate_limit_reset_seconds": 60,
        "cursor_expires_at": NOW,
        "oldest_event_at": NOW,
        "newest_event_at": NOW,
        "events_seen": seen,
        "events_expected": 1000,
        "total_events": 1000,
        "incremental_to": None,
    }


def rejection(number: int) -> dict[str, Any]:
    return {
        "rejection_id": f"{number:064x}",
        "event_id": None,
        "errors": ["id is missing", "type is missing"],
        "raw_event": '{"name": "a\\u0000b"}',
        "sync_id": "sync-1",
        "page": number,
        "rejected_at": NOW,
    }


def scan(pages: int, size: int = 10, *, first: int = 0) -> list[dict[str, Any]]:
    """Return all messages of a scan: events, a `pages` record and a STATE per page."""
    total = pages * size
    messages = schemas()
    for page in range(pages):
        numbers = range(first + page * size, first + (page + 1) * size)
        seen = (page + 1) * size
        messages += [record("events", event(number)) for number in numbers]
        messages.append(record("pages", page_row(page + 1, seen)))
        messages.append(state_message(seen, total, done=seen == total))
    return messages


def lines(messages: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def stdin(messages: Iterable[dict[str, Any]]) -> io.BytesIO:
    return io.BytesIO(lines(messages))


def states(output: str | bytes) -> list[dict[str, Any]]:
    """Return the STATEs that were printed."""
    return [json.loads(line) for line in output.splitlines()]


def start(
    database: Database,
    folder: Path,
    *arguments: str,
    program: str = "target-postgres-checkpoint",
    stdin: int | IO[bytes] = subprocess.PIPE,
    **settings: Any,
) -> subprocess.Popen[bytes]:
    """Start the target as Meltano does: settings in a file, messages on stdin."""
    config = folder / f"config-{program}.json"
    config.write_text(json.dumps({**database.config, **settings}))
    return subprocess.Popen(
        [str(SCRIPTS / program), "--config", str(config), *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_until(condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Poll a condition; the limit only ends a test that fails."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not met"
        time.sleep(0.005)


def play(
    target: TargetPostgresCheckpoint, *parts: Iterable[dict[str, Any]] | Callable[[], object]
) -> None:
    """Load messages from a pipe; a callable runs when all messages before it are committed."""
    reading, writing = os.pipe()

    def write() -> None:
        last_state = None
        # A load that fails closes the pipe.
        with suppress(BrokenPipeError), open(writing, "wb", buffering=0) as pipe:  # noqa: PTH123
            for part in parts:
                if callable(part):
                    wait_until(lambda expected=last_state: target._last_state == expected)
                    part()
                    continue
                for message in part:
                    pipe.write(lines([message]))
                    if message["type"] == "STATE":
                        last_state = json.dumps(message["value"])

    tap = threading.Thread(target=write)
    tap.start()
    try:
        with open(reading, "rb") as pipe:  # noqa: PTH123
            target.load(pipe)
    finally:
        tap.join()
