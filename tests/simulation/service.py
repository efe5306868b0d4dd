"""Loads from the sandbox's API: its faults, its rate limit, kills and restarts.

Runs are killed anywhere and started again until a scan is finished; then the table is
compared with the feed.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone

from datasync_sandbox.testing import (
    BASE,
    ApiModel,
    ApiOptions,
    ExpectedRow,
    Fault,
    Faults,
    NoReply,
    Refused,
    Reset,
    Response,
)
from tap_datasync.client import RawResponse
from tap_datasync.errors import TransportError
from tap_datasync.state import ScanState

from tests.simulation.harness import LOOKBACK, START, World

TIMEOUT = 30.0
MAX_JITTER = 0.03
MAX_RUNS = 60

HARMLESS = [
    *("500", "502", "503", "504", "refused", "reset", "reset-body", "hang", "drip-body"),
    *("late-reply", "truncated", "null", "list", "empty", "html", "bad-utf8", "no-data"),
    *("null-data", "no-pagination", "null-pagination", "no-meta", "null-meta"),
    *("empty-page", "empty-same-cursor", "false-end", "false-end-bare", "false-end-empty"),
    *("no-cursor", "repeat-cursor", "429", "429-date", "429-bare"),
    *("cursor-expired", "cursor-malformed", "429-long", "nan", "infinity"),
]
"""Faults that a load survives."""

FATAL = ["401", "403", "404", "redirect", "400"]
"""Faults that end a run, until it is started again."""


class ServiceWorld(World):
    """The sandbox's API with its faults and its rate limit, and runs that load its feed."""

    def __init__(self, seed: int) -> None:
        """Draw a feed, an API, its faults, and how often runs are killed."""
        super().__init__(seed)
        draw = self.draw
        self.page_size = draw.choice([1, 3, 7, 20, 50])
        pages = draw.randint(0, 30)
        events = max(0, pages * self.page_size - draw.randint(0, self.page_size))
        grows = draw.random() < 0.4
        rate = draw.choice([0.02, 0.2]) * min(self.page_size, 10) / 10
        # An event that arrives with a timestamp far off is later than any lookback.
        self.unsorted = 0.0 if grows else draw.choice([0.0] * 5 + [0.1])
        self.arrival_rate = rate if grows else 0.0
        # What is late when it arrives is later still when a page shows it.
        late_seconds = LOOKBACK.total_seconds() * 0.9
        late = f"{draw.choice([0.0, 0.3])}:{late_seconds}"
        malformed = draw.choice([0.0, 0.0, 0.05, 0.2])
        # With few requests a minute, a fault or two outlives every cursor: no API is like that.
        self.limit, self.window = draw.choice([(1, 6.0), (2, 6.0), (5, 60.0), *[(10, 60.0)] * 3])
        options = ApiOptions(
            events=events,
            seed=seed,
            newest=datetime.fromtimestamp(START, timezone.utc).isoformat(),
            arrivals=self.arrival_rate,
            late=late,
            unsorted=self.unsorted,
            malformed=malformed,
            limit=self.limit,
            window=self.window,
            window_kind=draw.choice(["sliding", "sliding", "fixed", "aligned"]),
            cursor_lifetime=draw.choice([120.0, 120.0, 90.0]),
            latency=draw.choice(["0", "0-1", "0-5"]),
            max_page=self.page_size,
            last_page=draw.choice(["exact", "empty"]),
        )
        self.faults = self._draw_faults(pages)
        self.options = replace(options, fault=tuple(map(str, self.faults)))
        self.model = ApiModel(self.options, started_at=START)
        self.feed = self.model.feed
        self.kill_share = draw.choice([0.0, 0.0, 0.01, 0.05])
        self.pages = 0
        self.replies_lost = 0
        self.served = 0
        self.ready = START
        self.longest_idle = 0.0
        self._counted: list[float] = []

    def _draw_faults(self, pages: int) -> list[Fault]:
        draw = self.draw
        if draw.random() < 0.3:
            return []
        names = HARMLESS if draw.random() < 0.9 else FATAL
        return [
            Fault(draw.choice(names), draw.randint(1, max(1, pages)), draw.choice([1, 1, 2]))
            for _ in range(draw.randint(1, 5))
        ]

    def get(self, cursor: str | None, limit: int) -> RawResponse:
        self.maybe_kill()
        self.requests += 1
        self._note_request()
        self.clock.time += self.draw.uniform(0.0, MAX_JITTER)
        query = {"limit": str(limit), **({"cursor": cursor} if cursor else {})}
        reply = self.model.handle(
            "GET", f"{BASE}/events", query, {"X-API-Key": "sandbox-key"}, now=self.clock.time
        )
        if isinstance(reply, Response):
            if reply.delay + reply.drip > TIMEOUT:
                self.clock.time += TIMEOUT
                cause = "timeout"
                raise TransportError(cause, "no complete response", counted=True)
            self.clock.time += reply.delay + reply.drip
            self.ready = self.clock.time
            self.replies_lost += 1
            self.maybe_kill()
            self.replies_lost -= 1
            return RawResponse(reply.status, reply.headers, reply.body)
        cause = "timeout" if isinstance(reply, NoReply) else "connection"
        if isinstance(reply, NoReply):
            self.clock.time += TIMEOUT
        elif isinstance(reply, Reset):
            self.clock.time += reply.delay
        raise TransportError(cause, "no response", counted=not isinstance(reply, Refused))

    def run_tap(self) -> bool:
        finished = super().run_tap()
        self.pages += self.run.pages
        return finished

    def load(self) -> None:
        """Run until a scan is finished, restarting as a supervisor does.

        Raises:
            AssertionError: It never is.
        """
        while not self.run_tap():
            assert self.runs < MAX_RUNS, f"seed {self.seed}: not finished after {MAX_RUNS} runs"
            self.clock.time += self.draw.choice([0.1, 1.0, 5.0, 200.0])
            if self.runs > MAX_RUNS // 3:
                self.kill_share = 0.0

    def _note_request(self) -> None:
        """Measure how long a request has waited although the limit permitted it."""
        now = self.clock.time
        free = self.ready
        if len(self._counted) >= self.limit:
            free = max(free, self._counted[-self.limit] + self.window)
        if self.runs == 1:  # A later one has to learn the window anew.
            self.longest_idle = max(self.longest_idle, now - free)
        self._counted.append(now)


def check(seed: int) -> ServiceWorld:
    """Simulate one load and compare its outcome with the feed.

    Raises:
        AssertionError: Something is missing, wrong, over the limit or wasted.
    """
    world = ServiceWorld(seed)
    world.load()
    # What arrived during the last scan is for the next one, which is quick.
    frozen = list(world.feed.rows())
    world.kill_share = 0.0
    world.served = sum(world.model.faults.served.values())
    world.model.faults = Faults()
    # A kill and a page of another position may have looked like a feed without order.
    was_sorted = ScanState.from_dict(world.target.state).feed_sorted
    before = world.requests
    written = world.target.written
    while not world.run_tap():
        assert world.runs < MAX_RUNS + 5, f"seed {seed}: the second load does not finish"
        world.clock.time += 200.0
    _check_table(world, frozen)
    if was_sorted and not (world.arrival_rate or world.unsorted):
        _check_second_run(world, world.requests - before, world.target.written - written)
    _check_rate_limit(world)
    return world


def _check_table(world: ServiceWorld, rows: list[ExpectedRow]) -> None:
    table, seed = world.target.rows, world.seed
    for row in rows:
        if row.id is None:
            assert row.raw_event in world.target.rejected, f"seed {seed}: lost {row.raw_event}"
            continue
        record = table.get(row.id)
        assert record is not None, f"seed {seed}: {row.id} of {row.timestamp} is missing"
        if row.malformed is None:
            assert record.timestamp == row.timestamp, f"seed {seed}: timestamp of {row.id}"
            found = json.loads(bytes(record.properties))
            assert found == row.properties, f"seed {seed}: {row.id} has {found}"
        elif row.valid is False:
            assert row.raw_event in world.target.rejected, f"seed {seed}: {row.malformed}"
    known = {row.id for row in world.feed.rows()}
    assert table.keys() <= known, f"seed {seed}: rows that the feed does not hold"


def _check_second_run(world: ServiceWorld, requests: int, written: int) -> None:
    """A run on an unchanged feed reads the lookback and stops."""
    state = ScanState.from_dict(world.target.state)
    if state.high_watermark is None:
        return
    late = [
        row
        for row in world.feed.rows()
        if row.timestamp is None or row.timestamp >= state.high_watermark - LOOKBACK
    ]
    # Up to eleven events below the lookback confirm the end.
    pages = (len(late) + 11) // world.page_size + 4
    # A kill leaves the limit used up without the next run knowing: a 429 may come first.
    assert requests <= pages + 3, f"seed {world.seed}: {requests} requests for nothing new"
    assert written <= len(late) + 11, f"seed {world.seed}: {written} rows for {len(late)}"


def _check_rate_limit(world: ServiceWorld) -> None:
    """No request over the limit, but the first of a run: it cannot know of those before."""
    seed, log = world.seed, world.model.log
    refused = sum(entry.result == 429 and not entry.fault for entry in log)
    forced = sum(str(entry.fault).startswith("429") for entry in log)
    # A reply without headers may be one that the tap cannot know to have been counted.
    blind = world.served + len(world.faults)
    assert refused <= world.runs + forced * 8 + blind, f"seed {seed}: {refused} times 429"
    clean = sum(entry.result == 200 and not entry.fault for entry in log)
    thrown_away = clean - world.pages - world.replies_lost
    # A repeated page is fetched again once, whatever its cursor.
    repeated = sum(fault.name == "repeat-cursor" for fault in world.faults) * world.runs
    # A burst of arrivals looks like a false end until the newest page is counted.
    bursts = 6 * world.runs if world.arrival_rate else 0
    # After a restart, the events of an unsorted feed may look like repeated ones.
    restarts = 6 * world.killed_runs if world.unsorted else 0
    assert thrown_away <= repeated + bursts + restarts, (
        f"seed {seed}: {thrown_away} good pages thrown away"
    )
    dead = sum(entry.result == 400 and not entry.fault for entry in log)
    assert dead <= world.runs, f"seed {seed}: {dead} requests spent on expired cursors"
    quiet = not (world.faults or world.killed_runs or world.arrival_rate)
    if quiet and world.options.window_kind == "sliding":
        allowed = 0.02 + 0.002 * world.window + 2 * MAX_JITTER
        assert world.longest_idle <= allowed, f"seed {seed}: idle {world.longest_idle:.3f} s"
