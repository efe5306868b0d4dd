"""Writes the tables as tap and loader do, for tests that need a load without running one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from datasync_monitor.database import Settings

if TYPE_CHECKING:
    from datasync_sandbox.testing import Cluster

SQL_FILES = Path(__file__).parents[2] / "target-config" / "sql"

T0 = datetime(2026, 1, 27, 19, 0, 0, tzinfo=timezone.utc)
"""The moment at which the tests' loads begin."""


@dataclass
class Scribe:
    """Writes what tap and loader write. The clock moves only when it is told to."""

    connection: psycopg.Connection
    now: datetime = T0
    run_id: str = "11111111-1111-4111-8111-111111111111"
    total: int = 100_000
    page_number: int = 0
    seen: int = 0
    bookmark: dict[str, Any] = field(default_factory=dict)

    def clock(self) -> datetime:
        """Tell the time of this story."""
        return self.now

    def page(  # noqa: PLR0913 - a page has this many facts
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
        save: bool = True,
    ) -> None:
        """Receive and load one page that takes `took` seconds, and write the checkpoint."""
        requested, self.now = self.now, self.now + timedelta(seconds=took)
        self.page_number += 1
        self.seen += events
        expires = requested + timedelta(seconds=120)
        newest = T0 - timedelta(seconds=(self.seen - events) * 0.864)
        oldest = T0 - timedelta(seconds=self.seen * 0.864)
        row = {
            "run_id": self.run_id,
            "page": self.page_number,
            "requested_at": requested,
            "received_at": self.now,
            "bytes": 346 * events,
            "events": events,
            "emitted": events - skipped,
            "skipped": skipped,
            "rejected": rejected,
            "retries": json.dumps(retries or {}),
            "waited": waited,
            "budget_limit": limit,
            "budget_remaining": None if limit is None else remaining,
            "budget_reset": None if limit is None else reset,
            "cursor_expires_at": expires,
            "oldest": oldest,
            "newest": newest,
            "events_seen": self.seen,
            "total_events": self.total,
        }
        values = ", ".join(f"%({name})s" for name in row)
        self.connection.execute(f"INSERT INTO pages ({', '.join(row)}) VALUES ({values})", row)
        self.bookmark |= {
            "version": 1,
            "cursor": f"cursor-{self.seen}",
            "cursor_expires_at": expires.isoformat(),
            "walk": {"newest": T0.isoformat(), "oldest": oldest.isoformat()},
            "events_seen": self.seen,
            "events_emitted": self.bookmark.get("events_emitted", 0) + events - skipped,
            "total_events": self.total,
        }
        if save:
            self.save()

    def save(self) -> None:
        """Write the checkpoint as the loader does: the STATE; the SQL derives the columns."""
        state = json.dumps(
            {"bookmarks": {"events": self.bookmark, "pages": {}, "rejected_events": {}}}
        )
        self.connection.execute(
            """INSERT INTO checkpoint (id, state, updated_at) VALUES (1, %s, %s)
               ON CONFLICT (id) DO UPDATE
               SET state = EXCLUDED.state, updated_at = EXCLUDED.updated_at""",
            (state, self.now),
        )

    def lost_page(self, *, events: int = 5000) -> None:
        """Receive a page behind which there is no place, as a walk that has seen nothing.

        So the tap tells of the first page of a walk on which its run fails, and of one that makes
        the walk start over.
        """
        self.page(events=events, save=False)
        self.seen = 0
        self.connection.execute(
            """UPDATE pages SET cursor_expires_at = NULL, events_seen = 0, total_events = NULL
               WHERE run_id = %s AND page = %s""",
            (self.run_id, self.page_number),
        )
        self.bookmark |= {
            "cursor": None,
            "cursor_expires_at": None,
            "walk": None,
            "events_seen": 0,
            "events_emitted": 0,
            "total_events": None,
        }
        self.save()

    def finish(self) -> None:
        """Close the walk, as the state after its last page does."""
        newest = self.bookmark["walk"]["newest"]
        self.bookmark |= {
            "cursor": None,
            "cursor_expires_at": None,
            "walk": None,
            "complete_to": newest,
        }
        self.connection.execute(
            "UPDATE pages SET cursor_expires_at = NULL WHERE run_id = %s AND page = %s",
            (self.run_id, self.page_number),
        )
        self.save()

    def new_run(self, run_id: str) -> None:
        """Start the tap again, with the bookmark that was saved."""
        self.run_id, self.page_number = run_id, 0

    def new_walk(self) -> None:
        """Begin at the newest event again."""
        self.seen = 0
        self.bookmark |= {"cursor": None, "walk": None, "events_seen": 0, "events_emitted": 0}

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


def apply_tables(connection: psycopg.Connection, schema: str = "public") -> None:
    """Make the tables with the project's SQL files."""
    with connection.transaction():
        connection.execute(f'SET LOCAL search_path TO "{schema}"')
        for file in sorted(SQL_FILES.glob("*.sql")):
            connection.execute(file.read_text(encoding="utf-8"))


def database(cluster: Cluster, name: str) -> Settings:
    """Make an empty database, and give the way to it."""
    place = Settings(cluster.host, cluster.port, cluster.user, cluster.password, cluster.database)
    with writer(place) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return replace(place, dbname=name)


def writer(settings: Settings) -> psycopg.Connection:
    """Connect as the loader may: able to write."""
    return psycopg.connect(
        host=settings.host,
        port=settings.port,
        user=settings.user,
        password=settings.password,
        dbname=settings.dbname,
        autocommit=True,
    )


def tell(scribe: Scribe, story: str) -> None:
    """Write the tables as they look in the middle of a load that runs now, by the real clock.

    Args:
        scribe: over empty tables.
        story: `empty`, `running`, `waiting`, `stuck` or `finished`.
    """
    if story == "empty":
        return
    ago = {"running": 2, "waiting": 2, "stuck": 900, "finished": 40}[story]
    pages = {"running": 17, "waiting": 10, "stuck": 13, "finished": 20}[story]
    scribe.now = datetime.now(timezone.utc) - timedelta(seconds=ago + 60 * (pages / 10) + 7 * 60)
    _earlier_run(scribe)
    scribe.now = datetime.now(timezone.utc) - timedelta(seconds=ago + _length(pages))
    for number in range(pages):
        if number == 8:
            scribe.new_run("3f0d6a2e-93a5-4d0b-9a57-0c1f3c1d2a44")
        place = number % 10
        pause = 60 - 10 * 2.6 if number and place == 0 else 0.0
        scribe.later(pause)
        scribe.page(
            took=2.6,
            remaining=9 - place,
            reset=round(60 - 2.6 * place),
            waited=pause,
            rejected={4: 2, 11: 1}.get(number, 0),
            retries={
                3: {"503": 2},
                7: {"timeout": 1},
                12: {"503": 1, "broken page": 1},
            }.get(number),
        )
    _events(scribe)
    if story == "finished":
        scribe.finish()


def _length(pages: int) -> float:
    """Seconds that the pages of a story take."""
    return pages * 2.6 + (pages - 1) // 10 * (60 - 26)


def _earlier_run(scribe: Scribe) -> None:
    """Write a run that was cut off: its walk's place was lost, and a new walk began."""
    for number in range(6):
        scribe.page(took=2.6, remaining=9 - number, reset=round(60 - 2.6 * number))
    scribe.new_walk()
    scribe.new_run("b7a9c1de-5a0e-4a53-8d0c-7b1f0f6c2e19")


def _events(scribe: Scribe) -> None:
    """Write the events and the rejected ones that the pages tell of."""
    scribe.connection.execute(
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
        {"newest": T0, "seen": scribe.seen},
    )
    for number, reason in enumerate(
        ["timestamp: cannot be read", "timestamp: cannot be read", "id: missing"]
    ):
        scribe.connection.execute(
            """INSERT INTO rejected_events
                   (rejection_id, event_id, reasons, raw, run_id, page, rejected_at)
               VALUES (%s, %s, %s, %s, %s, %s, %s)""",
            (
                f"{number:064x}",
                None if reason.startswith("id") else f"0000000{number}-1111-4111-8111-111111111111",
                json.dumps([reason]),
                '{"type": "click", "timestamp": "last \\\\u0000 tuesday"}',
                scribe.run_id,
                5,
                scribe.now - timedelta(seconds=30 * number),
            ),
        )
