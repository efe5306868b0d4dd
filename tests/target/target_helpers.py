"""Singer messages as our tap writes them, a database to look into, the loader as a process."""

from __future__ import annotations

import io
import json
import subprocess
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from datasync_sandbox.testing import Cluster

SCRIPTS = Path(sysconfig.get_path("scripts"))


@dataclass
class Database:
    """A database of its own in the cluster of the tests."""

    cluster: Cluster
    name: str

    @property
    def config(self) -> dict[str, Any]:
        """Settings of the loader for this database, and none that has a default."""
        return {
            "host": self.cluster.host,
            "port": self.cluster.port,
            "user": self.cluster.user,
            "password": self.cluster.password,
            "database": self.name,
        }

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        config = self.config
        return psycopg.connect(dbname=config.pop("database"), autocommit=True, **config)

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
            "reasons": _nullable("array"),
            "raw": TEXT,
            "run_id": TEXT,
            "page": COUNT,
            "rejected_at": TIME,
        },
    ),
    "pages": (
        ["run_id", "page"],
        {
            "run_id": {"type": "string"},
            "page": {"type": "integer"},
            "requested_at": TIME,
            "received_at": TIME,
            **dict.fromkeys(("bytes", "events", "emitted", "skipped", "rejected"), COUNT),
            "retries": OBJECT,
            "waited": _nullable("number"),
            **dict.fromkeys(("budget_limit", "budget_remaining", "budget_reset"), COUNT),
            **dict.fromkeys(("cursor_expires_at", "oldest", "newest"), TIME),
            "events_seen": COUNT,
            "total_events": COUNT,
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


def batch(*files: Path | str, compression: str = "none") -> dict[str, Any]:
    manifest = [file if isinstance(file, str) else file.as_uri() for file in files]
    encoding = {"format": "jsonl", "compression": compression}
    return {"type": "BATCH", "stream": "events", "encoding": encoding, "manifest": manifest}


def state(seen: int, total: int = 1000, *, done: bool = False) -> dict[str, Any]:
    bookmark: dict[str, Any] = {
        "version": 1,
        "cursor": None if done else f"cursor-{seen}",
        "cursor_expires_at": None if done else NOW,
        "walk": None if done else {"newest": NOW, "oldest": "2026-01-01T00:00:00.000000Z"},
        "loaded": [],
        "complete_to": NOW if done else None,
        "events_seen": seen,
        "events_emitted": seen,
        "total_events": total,
    }
    return {"bookmarks": {"events": bookmark, "pages": {}, "rejected_events": {}}}


def state_message(seen: int, total: int = 1000, *, done: bool = False) -> dict[str, Any]:
    return {"type": "STATE", "value": state(seen, total, done=done)}


def page_row(number: int, seen: int) -> dict[str, Any]:
    return {
        "run_id": "run-1",
        "page": number,
        "requested_at": NOW,
        "received_at": NOW,
        "bytes": 1_732_547,
        "events": 10,
        "emitted": 10,
        "skipped": 0,
        "rejected": 0,
        "retries": {"502": 1},
        "waited": 0.25,
        "budget_limit": 10,
        "budget_remaining": 9,
        "budget_reset": 60,
        "cursor_expires_at": NOW,
        "oldest": NOW,
        "newest": NOW,
        "events_seen": seen,
        "total_events": 1000,
    }


def rejection(number: int) -> dict[str, Any]:
    return {
        "rejection_id": f"{number:064x}", "event_id": None, "reasons": ["no id", "no type"],
        "raw": '{"name": "a\\u0000b"}', "run_id": "run-1", "page": number, "rejected_at": NOW,
    }  # fmt: skip


def walk(pages: int, size: int = 10) -> list[dict[str, Any]]:
    """Return all messages of a walk: events, a `pages` record and a STATE a page."""
    total = pages * size
    messages = schemas()
    for page in range(pages):
        numbers = range(page * size, (page + 1) * size)
        seen = (page + 1) * size
        messages += [record("events", event(number)) for number in numbers]
        messages.append(record("pages", page_row(page + 1, seen)))
        messages.append(state_message(seen, total, done=seen == total))
    return messages


def lines(messages: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def raw_stdin(text: bytes) -> Any:
    """Return what `listen` reads; it says text, and our reader takes the bytes below it."""
    return io.BytesIO(text)


def stdin(messages: Iterable[dict[str, Any]]) -> Any:
    return raw_stdin(lines(messages))


def states(output: str | bytes) -> list[dict[str, Any]]:
    """Return the STATEs that were printed."""
    return [json.loads(line) for line in output.splitlines()]


def write_batch(folder: Path, name: str, rows: Iterable[dict[str, Any]]) -> Path:
    """Write a batch file as the tap does: a private directory, an object a line."""
    batches = folder / "batches"
    batches.mkdir(mode=0o700, exist_ok=True)
    file = batches / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def start(
    database: Database,
    folder: Path,
    *arguments: str,
    program: str = "target-postgres-checkpoint",
    stdin: int | IO[bytes] = subprocess.PIPE,
    **settings: Any,
) -> subprocess.Popen[bytes]:
    """Start the loader as Meltano does: settings in a file, messages on stdin."""
    config = folder / f"config-{program}.json"
    config.write_text(json.dumps({**database.config, **settings}))
    return subprocess.Popen(
        [str(SCRIPTS / program), "--config", str(config), *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_until(condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Ask again and again; the limit is only there so that a test that fails comes to an end."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
