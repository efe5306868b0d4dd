"""Tables as tap, target and ingestion write them, and servers that a test starts."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasync_ingestion.database import PIPELINE_RUNS
from datasync_monitor.database import DatabaseSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import psycopg
    from datasync_sandbox.testing import Cluster

SQL_FILES = Path(__file__).parents[2] / "target-config" / "sql"

T0 = datetime(2026, 1, 27, 19, 0, 0, tzinfo=timezone.utc)
"""When the loads of the tests start; also the timestamp of their newest event."""

SECONDS_PER_EVENT = 0.864

_NO_SCAN = dict.fromkeys(("cursor", "cursor_expires_at", "scan_newest_at", "scan_oldest_at"))


@dataclass
class TableWriter:
    """Writes pages, checkpoints and runs. The clock changes only by `took` and `advance`."""

    connection: psycopg.Connection
    now: datetime = T0
    sync_id: str = "11111111-1111-4111-8111-111111111111"
    total: int = 100_000
    incremental_to: datetime | None = None
    page_number: int = 0
    events_seen: int = 0
    bookmark: dict[str, Any] = field(default_factory=dict)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    def page(  # noqa: PLR0913 - a page has this many columns
        self,
        *,
        events: int = 5000,
        took: float = 1.0,
        remaining: int = 9,
        reset: int = 60,
        waited: float = 0.0,
        rejected: int = 0,
        skipped: int = 0,
        retries: dict[str, int] | None = None,
        limit: int | None = 10,
        checkpoint: bool = True,
        last: bool = False,
    ) -> None:
        """Receive and load one page in `took` seconds, and write the checkpoint."""
        requested, self.now = self.now, self.now + timedelta(seconds=took)
        self.page_number += 1
        self.events_seen += events
        expires = requested + timedelta(seconds=120)
        oldest = T0 - timedelta(seconds=self.events_seen * SECONDS_PER_EVENT)
        row = {
            "sync_id": self.sync_id,
            "page": self.page_number,
            "requested_at": requested,
            "received_at": self.now,
            "response_bytes": 346 * events,
            "events": events,
            "emitted": events - skipped,
            "skipped": skipped,
            "rejected": rejected,
            "retries": json.dumps(retries or {}),
            "rate_limit_wait_seconds": waited,
            "rate_limit": limit,
            "rate_limit_remaining": None if limit is None else remaining,
            "rate_limit_reset_seconds": None if limit is None else reset,
            "cursor_expires_at": None if last else expires,
            "oldest_event_at": oldest,
            "newest_event_at": oldest + timedelta(seconds=events * SECONDS_PER_EVENT),
            "events_seen": self.events_seen,
            "events_expected": self.total,
            "total_events": self.total,
            "incremental_to": self.incremental_to,
        }
        values = ", ".join(f"%({name})s" for name in row)
        self.connection.execute(f"INSERT INTO pages ({', '.join(row)}) VALUES ({values})", row)
        self.bookmark |= {
            "version": 2,
            "cursor": f"cursor-{self.events_seen}",
            "cursor_expires_at": expires.isoformat(),
            "scan_newest_at": T0.isoformat(),
            "scan_oldest_at": oldest.isoformat(),
            "events_seen": self.events_seen,
            "events_emitted": self.bookmark.get("events_emitted", 0) + events - skipped,
            "events_expected": self.total,
            "total_events": self.total,
        }
        if checkpoint:
            self.write_checkpoint()

    def write_checkpoint(self) -> None:
        """Write the STATE as the target does; a trigger derives the columns."""
        state = {"bookmarks": {"events": self.bookmark, "pages": {}, "rejected_events": {}}}
        self.connection.execute(
            """INSERT INTO checkpoint (id, state, updated_at) VALUES (1, %s, %s)
               ON CONFLICT (id) DO UPDATE
               SET state = EXCLUDED.state, updated_at = EXCLUDED.updated_at""",
            (json.dumps(state), self.now),
        )

    def fail_on_first_page(self, *, events: int = 5000) -> None:
        """Receive the first page of a scan, on which the sync fails: the state stays before it."""
        self.new_scan()
        before = dict(self.bookmark)
        self.page(events=events, checkpoint=False, last=True)
        self.bookmark = before
        self.events_seen = 0
        self.write_checkpoint()

    def finish(self) -> None:
        """End the scan, as the state after its last page does."""
        self.bookmark |= {"high_watermark": self.bookmark["scan_newest_at"], **_NO_SCAN}
        self.connection.execute(
            "UPDATE pages SET cursor_expires_at = NULL WHERE sync_id = %s AND page = %s",
            (self.sync_id, self.page_number),
        )
        self.write_checkpoint()

    def new_sync(self, sync_id: str = "22222222-2222-4222-8222-222222222222") -> None:
        """Start the tap again, with the saved state."""
        self.sync_id, self.page_number = sync_id, 0

    def new_scan(self) -> None:
        """Start at the newest event again."""
        self.events_seen = 0
        self.bookmark |= {
            **_NO_SCAN,
            "events_seen": 0,
            "events_emitted": 0,
            "events_expected": None,
            "total_events": None,
        }

    def start_run(self) -> None:
        """Start a run of the pipeline."""
        self.connection.execute(
            "INSERT INTO pipeline_runs (started_at, source) VALUES (%s, 'the API')", (self.now,)
        )

    def end_run(self, outcome: str, message: str | None = None) -> None:
        """End the newest run."""
        self.connection.execute(
            """UPDATE pipeline_runs SET ended_at = %s, outcome = %s, message = %s
               WHERE id = (SELECT max(id) FROM pipeline_runs)""",
            (self.now, outcome, message),
        )


def create_tables(connection: psycopg.Connection) -> None:
    """Create the tables with the project's SQL files."""
    with connection.transaction():
        for file in sorted(SQL_FILES.glob("*.sql")):
            connection.execute(file.read_text(encoding="utf-8"))
        connection.execute(PIPELINE_RUNS)


def partition_events(connection: psycopg.Connection) -> None:
    """Replace `events` by four partitions by hash(id), as a user may create them beforehand."""
    connection.execute("ALTER TABLE events RENAME TO events_before")
    connection.execute(
        """CREATE TABLE events (LIKE events_before INCLUDING DEFAULTS, PRIMARY KEY (id))
           PARTITION BY HASH (id)"""
    )
    for number in range(4):
        connection.execute(
            f"""CREATE TABLE events_{number} PARTITION OF events
                FOR VALUES WITH (MODULUS 4, REMAINDER {number})"""
        )
    connection.execute("INSERT INTO events SELECT * FROM events_before ORDER BY timestamp DESC")
    connection.execute("DROP TABLE events_before")


def settings_of(cluster: Cluster) -> DatabaseSettings:
    """Return the settings of the database of a server."""
    return DatabaseSettings(
        cluster.host, cluster.port, cluster.user, cluster.password, cluster.database
    )


def environment(settings: DatabaseSettings) -> dict[str, str]:
    """Return the environment variables that name a database."""
    return {
        "DB_HOST": settings.host,
        "DB_PORT": str(settings.port),
        "DB_USER": settings.user,
        "DB_PASSWORD": settings.password,
        "DB_NAME": settings.name,
    }


def write_load(writer: TableWriter, state: str) -> None:
    """Write the tables as they are in the middle of a load that runs now, by the real clock.

    Args:
        writer: over empty tables.
        state: `idle`, `running`, `waiting`, `stuck` or `finished`.
    """
    if state == "idle":
        return
    ago = {"running": 2, "waiting": 2, "stuck": 900, "finished": 40}[state]
    pages = {"running": 17, "waiting": 10, "stuck": 13, "finished": 20}[state]
    writer.now = datetime.now(timezone.utc) - timedelta(seconds=ago + 6 * pages + 7 * 60)
    _write_interrupted_sync(writer)
    length = pages * 2.6 + (pages - 1) // 10 * (60 - 26)
    writer.now = datetime.now(timezone.utc) - timedelta(seconds=ago + length)
    for number in range(pages):
        if number == 8:
            writer.new_sync("3f0d6a2e-93a5-4d0b-9a57-0c1f3c1d2a44")
        used = number % 10
        wait = 60 - 10 * 2.6 if number and used == 0 else 0.0
        writer.advance(wait)
        writer.page(
            took=2.6,
            remaining=9 - used,
            reset=round(60 - 2.6 * used),
            waited=wait,
            rejected={4: 2, 11: 1}.get(number, 0),
            retries={
                3: {"http_503": 2},
                7: {"timeout": 1},
                12: {"http_503": 1, "corrupted_page": 1},
            }.get(number),
        )
    _write_events(writer)
    if state == "finished":
        writer.finish()


def _write_interrupted_sync(writer: TableWriter) -> None:
    """Write a sync whose cursor expired, so that the next one starts a new scan."""
    for number in range(6):
        writer.page(took=2.6, remaining=9 - number, reset=round(60 - 2.6 * number))
    writer.new_scan()
    writer.new_sync("b7a9c1de-5a0e-4a53-8d0c-7b1f0f6c2e19")


def _write_events(writer: TableWriter) -> None:
    """Write the events that the pages count, and rejected events."""
    writer.connection.execute(
        """INSERT INTO events (id, session_id, user_id, type, name, properties, timestamp, session)
           SELECT md5(n::text), md5((n / 50)::text), md5((n %% 3000)::text),
                  types[1 + (n * 7919) %% 20],
                  'event_' || substr(md5(n::text), 1, 6), '{"page": "/home"}',
                  %(newest)s - n * interval '864 milliseconds',
                  '{"deviceType": "mobile", "browser": "Chrome"}'
           FROM generate_series(0, %(seen)s - 1) AS n,
                (SELECT string_to_array(
                     repeat('page_view,', 7) || repeat('click,', 5) || 'api_call,api_call,'
                     'form_submit,form_submit,scroll,purchase,error,video_play', ',') AS types
                ) AS t""",
        {"newest": T0, "seen": writer.events_seen},
    )
    errors = ["timestamp: cannot be read", "timestamp: cannot be read", "id: missing"]
    for number, error in enumerate(errors):
        writer.connection.execute(
            """INSERT INTO rejected_events
                   (rejection_id, event_id, errors, raw_event, sync_id, page, rejected_at)
               VALUES (%s, %s, %s, %s, %s, %s, %s)""",
            (
                f"{number:064x}",
                None if error.startswith("id") else f"0000000{number}-1111-4111-8111-111111111111",
                json.dumps([error]),
                '{"type": "click", "timestamp": "last \\\\u0000 tuesday"}',
                writer.sync_id,
                5,
                writer.now - timedelta(seconds=30 * number),
            ),
        )


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def server_process(
    command: Sequence[str], port: int, *, env: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run a program while it is needed, from the time it accepts connections."""
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", port)) != 0:
                assert process.poll() is None, f"{command[0]} has ended"
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()
