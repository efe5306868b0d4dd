"""Singer messages as the tap writes them, a database to query, and the target as a process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sysconfig
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from target_config.tables import tables
from target_config.target import TargetPostgresCheckpoint

from tests.helpers import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.helpers import Database

SCRIPTS = Path(sysconfig.get_path("scripts"))

Make = Callable[..., TargetPostgresCheckpoint]
"""The fixture `make_target`: settings in, a target out."""


PROPERTIES = {
    "text": {"type": ["string", "null"]},
    "timestamp with time zone": {"type": ["string", "null"], "format": "date-time"},
    "jsonb": {"type": ["object", "null"]},
    "integer": {"type": ["integer", "null"]},
    "bigint": {"type": ["integer", "null"]},
    "numeric": {"type": ["number", "null"]},
}

STREAMS: dict[str, tuple[list[str], dict[str, Any]]] = {
    name: (
        list(table.key),
        {
            column: PROPERTIES[kind]
            for column, (kind, has_default) in table.columns.items()
            if not has_default
        },
    )
    for name, table in tables().items()
    if name != "checkpoint"
}
"""Key and properties of each stream."""

STREAMS["rejected_events"][1]["errors"] = {"type": ["array", "null"]}

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
        "cursor": None if done else f"cursor-{seen}",
        "cursor_expires_at": None if done else NOW,
        "scan_newest_at": None if done else NOW,
        "scan_oldest_at": None if done else "2026-01-01T00:00:00.000000Z",
        "loaded_ranges": [],
        "high_watermark": NOW if done else None,
        "events_seen": seen,
        "events_emitted": seen,
        "events_expected": total,
        "total_events": total,
    }
    return {"bookmarks": {"events": bookmark, "pages": {}, "rejected_events": {}}}


def state_message(seen: int, total: int = 1000, *, done: bool = False) -> dict[str, Any]:
    return {"type": "STATE", "value": state(seen, total, done=done)}


def page(number: int, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records of a page of events, and its STATE; one event by default."""
    rows = rows or (event(number),)
    return [*(record("events", row) for row in rows), state_message(number)]


def page_row(number: int, seen: int) -> dict[str, Any]:
    return {
        "sync_id": "sync-1",
        "page": number,
        "received_at": NOW,
        "response_bytes": 1_732_547,
        "events": 10,
        "retries": {"http_502": 1},
        "rate_limit_wait_seconds": 0.25,
        "events_seen": seen,
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


def exchange(target: subprocess.Popen[bytes], messages: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Send messages to a running target, and return the STATE that it prints."""
    target.stdin.write(lines(messages))
    target.stdin.flush()
    return json.loads(target.stdout.readline())


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
