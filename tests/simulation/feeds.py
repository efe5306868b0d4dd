"""Loads from feeds that are wrong in themselves, and from an API that contradicts itself.

Totals that dip, pages that overlap, timestamps in the future or in 1970, shards one after
the other, cursors in a circle, deletions, another account: each drawn at random, growing
all the while. A run that finishes has to leave nothing out that existed when it started.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from tap_datasync.client import RawResponse

from tests.simulation.harness import API_URL, LOOKBACK, START, World

if TYPE_CHECKING:
    import random

CURSOR_LIFETIME = 120.0
MAX_RUNS = 60
DEFECT_RUNS = 12
"""Runs after which the API is repaired."""


@dataclass
class Event:
    """One event: its place in the feed follows ``sort_at``, its timestamp is ``at``."""

    id: str
    shard: int
    sort_at: float
    at: float

    def to_json(self) -> dict[str, Any]:
        """Return the event as the API sends it."""
        parts = dict.fromkeys(("sessionId", "userId", "type", "name"), "x")
        timestamp = datetime.fromtimestamp(self.at, tz=timezone.utc).isoformat()
        return {"id": self.id, "timestamp": timestamp, **parts} | {
            "properties": {},
            "session": {},
        }


class DefectiveApi:
    """A feed with defects, served by cursors that name a position."""

    def __init__(self, draw: random.Random, account: str) -> None:
        """Draw the feed and its defects."""
        self.draw = draw
        self.account = account
        self.page_size = draw.choice([1, 2, 5, 20, 100])
        self.shards = draw.choice([1, 1, 1, 2, 3])
        self.spacing = draw.choice([0.2, 5.0, 60.0, 2000.0])
        # A feed may lag behind the clock, or lead; an event may be hours ahead of a lagging one.
        self.lag = draw.choice([0.0, 0.0, 0.0, 90.0, 20_000.0, -300.0, -5000.0])
        self.outliers = draw.choice([0.0, 0.0, 0.02])
        self.future = draw.choice([0.0, 0.0, 0.05])
        self.growth = draw.choice([0.0, 0.0, 0.01, 0.1])
        self.deletions = draw.choice([0.0, 0.0, 0.0, 0.02])
        self.overlap = draw.choice([0.0, 0.0, 0.3, 1.0])
        self.dip = draw.choice([None, None, 0.0, 0.3])
        self.dip_parity = draw.choice([0, 1])
        self.false_end = draw.choice([0.0, 0.0, 0.05, 0.3])
        self.sticky_end = draw.random() < 0.3
        self.empty_page = draw.choice([0.0, 0.0, 0.1])
        self.circle = draw.random() < 0.1
        self.total_zero = draw.random() < 0.05
        self.events: list[Event] = []
        self.number = 0
        self.requests = 0
        self.deleted = 0
        self.at_start: dict[int, set[str]] = {}
        self.scan_of: dict[float, int] = {}
        self._grown_at = START
        self._bad_cursors: set[str | None] = set()
        count = draw.choice([1, 2, 3, 30, 90, 400]) if self.page_size > 1 else draw.randint(1, 60)
        at = START - self.lag
        for _ in range(count):
            self._add(at)
            at -= draw.expovariate(1 / self.spacing)
        self._sort()

    def heal(self) -> None:
        """Repair everything but the timestamps and the order."""
        self.dip, self.total_zero, self.circle = None, False, False
        self.false_end = self.empty_page = self.overlap = self.growth = self.deletions = 0.0
        self._bad_cursors.clear()

    def grow(self, now: float) -> None:
        """Let events arrive, some of them late, and be deleted, up to now."""
        elapsed, self._grown_at = now - self._grown_at, now
        draw = self.draw
        for _ in range(min(20, int(elapsed * self.growth + draw.random()))):
            late = draw.choice([0.0, 0.0, draw.uniform(0, LOOKBACK.total_seconds() * 0.8)])
            self._add(now - self.lag - late)
        if draw.random() < self.deletions and self.events:
            self.deleted += 1
            self.events.remove(draw.choice(self.events[: draw.choice([1, 10_000])]))
        self._sort()

    def get(self, cursor: str | None, now: float) -> RawResponse:
        """Return a page; a cursor names account, page, last event and time of issue."""
        self.requests += 1
        page, after, scan = 0, None, self.requests
        if cursor is None:
            self.grow(now)
            self.at_start[scan] = {event.id for event in self.events}
        else:
            account, number, after, issued, scan_number, _ = cursor.split("|")
            page, scan = int(number), int(scan_number)
            if account != self.account or now - float(issued) > CURSOR_LIFETIME:
                return RawResponse(400, {}, b'{"code":"CURSOR_EXPIRED"}')
        self.scan_of[now] = scan
        start = self._start(after)
        if self.circle and page >= 4:
            start = min(start, self.page_size * (page % 4))
        if page and self.draw.random() < self.overlap:
            start = max(0, start - self.draw.randint(1, self.page_size))
        body = self._page(cursor, page, start, after, f"{now}|{scan}|{self.requests}")
        return RawResponse(200, {}, json.dumps(body).encode())

    def _page(
        self, cursor: str | None, page: int, start: int, after: str | None, issue: str
    ) -> dict[str, Any]:
        draw = self.draw
        part = self.events[start : start + self.page_size]
        more = start + self.page_size < len(self.events)
        total = len(self.events)
        bad = cursor in self._bad_cursors or (page > 0 and draw.random() < self.false_end)
        if bad and self.sticky_end:
            self._bad_cursors.add(cursor)
        if self.total_zero or (bad and self.dip is not None):
            total = 0
        elif self.dip is not None and page % 2 == self.dip_parity and total > 60:
            # Another page of the scan has the true one, or no one could know better.
            total = round(total * self.dip)
        if more and bad:
            part, more = part[: draw.choice([0, len(part)])], False
        elif more and draw.random() < self.empty_page:
            part = []
        # An empty page leads on to where it began.
        last = part[-1].id if part else after or "-"
        following = f"{self.account}|{page + 1}|{last}|{issue}"
        return {
            "data": [event.to_json() for event in part],
            "pagination": {
                "hasMore": more,
                "nextCursor": following if more else None,
                "cursorExpiresIn": CURSOR_LIFETIME,
            },
            "meta": {"total": total, "returned": len(part)},
        }

    def _start(self, after: str | None) -> int:
        if after in {None, "-"}:
            return 0
        for index, event in enumerate(self.events):
            if event.id == after:
                return index + 1
        # It was deleted: the place where it stood.
        key = self._keys.get(after or "")
        return sum(self._key(event) < key for event in self.events) if key else 0

    def _add(self, at: float) -> None:
        draw = self.draw
        self.number += 1
        sort_at = at
        if draw.random() < self.future:
            # In a feed that lags, time must not pass them: they would lead it for good.
            ahead = [3e9, 3e10] if self.lag > LOOKBACK.total_seconds() else [60.0, 5000.0, 3e10]
            sort_at = at = at + draw.choice(ahead)
        elif draw.random() < self.outliers:
            at = draw.choice([0.0, 1000.0, at - 500_000])
        event = Event(f"{self.account}-{self.number:05}", draw.randrange(self.shards), sort_at, at)
        self.events.append(event)

    @staticmethod
    def _key(event: Event) -> tuple[int, float, str]:
        return event.shard, -event.sort_at, event.id

    def _sort(self) -> None:
        self.events.sort(key=self._key)
        self._keys = {event.id: self._key(event) for event in self.events} | getattr(
            self, "_keys", {}
        )


class FeedWorld(World):
    """A feed with defects, and runs of the tap that are checked one by one."""

    def __init__(self, seed: int) -> None:
        """Draw an API, how often runs are killed, and whether the account changes."""
        super().__init__(seed)
        draw = self.draw
        self.api = DefectiveApi(draw, "a")
        self.kill_share = draw.choice([0.0, 0.0, 0.02, 0.1])
        self.latency = draw.choice([0.0, 1.0, 5.0, 20.0])
        self.changes_account = draw.random() < 0.1

    def get(self, cursor: str | None, limit: int) -> RawResponse:
        del limit
        self.maybe_kill()
        self.requests += 1
        self.clock.time += 0.001
        response = self.api.get(cursor, self.clock.time)
        self.clock.time += self.draw.uniform(0, self.latency)
        self.maybe_kill()
        return response

    def run_tap(self) -> bool:
        """Run the tap once and check it; return whether the scan is finished."""
        before = self.requests
        finished = super().run_tap()
        self._check_requests(self.requests - before)
        if finished:
            self._check_complete()
        return finished

    def _check_requests(self, requests: int) -> None:
        pages = len(self.api.events) // self.api.page_size + 2
        # Five requests a page, ten idle ones, and four scans; circles end by their pages.
        bound = 4 * (6 * pages + 60) + 1100 // self.api.page_size
        assert requests <= bound, f"seed {self.seed}: {requests} requests for {pages} pages"

    def _check_complete(self) -> None:
        rows = self.target.rows
        sent = self.run.last_requested_at.timestamp() + 0.001
        time = min(self.api.scan_of, key=lambda at: abs(at - sent))
        at_start = self.api.at_start[self.api.scan_of[time]]
        missing = []
        for event in self.api.events:
            if event.id in at_start and event.id not in rows:
                missing.append(event)
            elif event.id in at_start:
                at = datetime.fromtimestamp(event.at, tz=timezone.utc)
                assert rows[event.id].timestamp == at, f"seed {self.seed}: timestamp of {event}"
        # Arrivals that were read, and deletions, stand in the count for as many at a false end.
        changed = self.api.deleted + sum(event.id not in at_start for event in self.api.events)
        allowed = changed if self.api.false_end else 0
        assert len(missing) <= allowed, f"seed {self.seed}: missing {missing[:3]}"


def check(seed: int) -> FeedWorld:
    """Simulate loads of one feed, with everything that happens to it.

    Raises:
        AssertionError: Something is missing, or requests have no bound.
    """
    world = FeedWorld(seed)
    finished = 0
    while finished < 4:
        assert world.runs < MAX_RUNS, f"seed {seed}: not finished after {MAX_RUNS} runs"
        finished += world.run_tap()
        if world.runs >= DEFECT_RUNS:
            world.api.heal()
            world.kill_share = 0.0
        if world.changes_account and finished == 1:
            # The same key of the state, another feed: at the same address, or at another.
            world.changes_account = False
            world.api = DefectiveApi(world.draw, "b")
            if len(world.api.events) < (world.target.state.get("known_total") or 0):
                # A smaller feed looks truncated until the state is reset.
                world.target.state.clear()
            world.source = world.draw.choice([API_URL, "https://other.example.com/api/v1"])
        world.clock.time += world.draw.choice([0.1, 5.0, 200.0, 4000.0])
        world.api.grow(world.clock.time)
    return world
