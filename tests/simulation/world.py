"""One seed, one load: tap, API, loader and clock in one process, in simulated time.

In the manner of FoundationDB's simulation: everything random is drawn from one seed, so
that a failure repeats. The tap is the real one below its Singer layer
(:class:`tap_datasync.extraction.Extraction`), the API is the sandbox's model, the loader
is a set of rows and a saved state that lags behind or loses its last acknowledgement.
Runs are killed anywhere and started again, until a walk is finished; then the table is
compared with the feed.
"""

from __future__ import annotations

import json
import logging
import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from datasync_sandbox.testing import (
    BASE,
    ApiConfig,
    ApiModel,
    ArrivalRate,
    ExpectedRow,
    Fault,
    Faults,
    Feed,
    FeedDefects,
    NoReply,
    Refused,
    Reset,
    Response,
)
from tap_datasync.bookmark import Bookmark
from tap_datasync.client import PageClient, Reply
from tap_datasync.extraction import ExtractedPage, Extraction
from tap_datasync.failures import TapDataSyncError, TransportError

LOOKBACK = timedelta(seconds=600)
START = 1_800_000_000.0
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
"""Faults that end a run with a sentence, until somebody starts another."""

QUIET = logging.getLogger("simulation")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False


class SimulatedClock:
    """A clock that moves when somebody waits."""

    def __init__(self) -> None:
        self.time = START

    def monotonic(self) -> float:
        return self.time

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time, tz=timezone.utc)

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0, "nobody can sleep for a negative time"
        self.time += seconds


class KilledError(BaseException):
    """The run is killed here."""


class SimulatedTransport:
    """Carries requests to the model, and takes the time that they take."""

    def __init__(self, world: World) -> None:
        self.world = world

    def get(self, cursor: str | None, limit: int) -> Reply:
        world, clock = self.world, self.world.clock
        world.maybe_kill()
        world.note_request()
        clock.time += world.draw.uniform(0.0, MAX_JITTER)
        query = {"limit": str(limit), **({"cursor": cursor} if cursor else {})}
        outcome = world.model.handle(
            "GET", f"{BASE}/events", query, {"X-API-Key": "sandbox-key"}, now=clock.time
        )
        if isinstance(outcome, Response):
            if outcome.delay + outcome.drip > TIMEOUT:
                clock.time += TIMEOUT
                msg = "timeout"
                raise TransportError(msg, "no complete reply", counted=True)
            clock.time += outcome.delay + outcome.drip
            world.ready = clock.time
            world.replies_lost += 1
            world.maybe_kill()
            world.replies_lost -= 1
            return Reply(outcome.status, outcome.headers, outcome.body)
        if isinstance(outcome, NoReply):
            clock.time += TIMEOUT
            msg = "timeout"
            raise TransportError(msg, "no complete reply", counted=True)
        if isinstance(outcome, Refused):
            msg = "connection"
            raise TransportError(msg, "refused", counted=False)
        assert isinstance(outcome, Reset)
        clock.time += outcome.delay
        msg = "connection"
        raise TransportError(msg, "reset", counted=True)


@dataclass
class Loader:
    """Rows by id as they were last written, and the state that survives a crash."""

    rows: dict[str, Any] = field(default_factory=dict)
    rejected: set[str] = field(default_factory=set)
    state: dict[str, Any] = field(default_factory=dict)
    written: int = 0

    def commit(self, page: ExtractedPage, share: float = 1.0) -> None:
        """Commit a page's rows, or the first part of them."""
        records = page.taken.emit[: round(len(page.taken.emit) * share)]
        for record in records:
            self.rows[record.id] = record
        self.written += len(records)
        for rejection in page.exchange.page.rejections:
            self.rejected.add(rejection.raw)

    def acknowledge(self, page: ExtractedPage) -> None:
        """Save the state that belongs to a committed page, as JSON, as Meltano does."""
        self.state.update(json.loads(json.dumps(page.taken.bookmark.to_state())))


class World:
    """Everything that one seed makes."""

    def __init__(self, seed: int) -> None:
        """Draw a feed, an API, its faults, and how often runs are killed."""
        self.seed = seed
        self.draw = draw = random.Random(seed)
        self.clock = SimulatedClock()
        self.page_size = draw.choice([1, 3, 7, 20, 50])
        pages = draw.randint(0, 30)
        events = max(0, pages * self.page_size - draw.randint(0, self.page_size))
        grows = draw.random() < 0.4
        rate = draw.choice([0.02, 0.2]) * min(self.page_size, 10) / 10
        self.dirty = draw.choice([0.0, 0.0, 0.05, 0.2])
        # An event that arrives with a time far off is later than any lookback.
        self.unsorted = 0.0 if grows else draw.choice([0.0] * 5 + [0.1])
        self.feed = Feed(
            events,
            seed=seed,
            newest=int(START * 1000),
            arrival_rate=ArrivalRate(
                rate=rate if grows else 0.0,
                late_share=draw.choice([0.0, 0.3]),
                # What is late when it arrives is later still when a page shows it.
                late_seconds=LOOKBACK.total_seconds() * 0.9,
            ),
            defects=FeedDefects(unsorted=self.unsorted, malformed=self.dirty),
        )
        # Few requests a minute, and a fault or two outlives every cursor: no API is like that.
        self.limit, self.window = draw.choice([(1, 6.0), (2, 6.0), (5, 60.0), *[(10, 60.0)] * 3])
        slowest = draw.choice([0.0, 1.0, 5.0])
        self.policy = ApiConfig(
            limit=self.limit,
            window=self.window,
            window_kind=draw.choice(["sliding", "sliding", "fixed", "aligned"]),
            cursor_lifetime=draw.choice([120.0, 120.0, 90.0]),
            latency=(0.0, slowest),
            max_page=self.page_size,
            last_page=draw.choice(["exact", "empty"]),
        )
        self.faults = self._draw_faults(pages)
        self.model = ApiModel(self.feed, self.policy, Faults(self.faults), started=START)
        self.kill_share = draw.choice([0.0, 0.0, 0.01, 0.05])
        self.loader = Loader()
        self.runs = 0
        self.killed_runs = 0
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
        # An unsorted feed has no stable pages to hang rarer faults on: the same ones do.
        names = HARMLESS if draw.random() < 0.9 else FATAL
        return [
            Fault(draw.choice(names), draw.randint(1, max(1, pages)), draw.choice([1, 1, 2]))
            for _ in range(draw.randint(1, 5))
        ]

    def maybe_kill(self) -> None:
        """Kill the run here, sometimes."""
        if self.draw.random() < self.kill_share:
            raise KilledError

    def run(self) -> bool:
        """Run the tap once; says whether the walk is finished."""
        self.runs += 1
        client = PageClient(
            SimulatedTransport(self), page_size=self.page_size, clock=self.clock, logger=QUIET
        )
        committed: list[ExtractedPage] = []
        lag = self.draw.choice([0, 0, 1, 2])
        try:
            extraction = Extraction(
                client,
                Bookmark.from_state(self.loader.state),
                lookback=LOOKBACK,
                full=False,
                clock=self.clock,
                logger=QUIET,
            )
            for page in extraction.pages():
                self._check_page(page)
                if self.draw.random() < self.kill_share:
                    self.loader.commit(page, self.draw.random())
                    raise KilledError
                self.loader.commit(page)
                committed.append(page)
                if len(committed) > lag:
                    self.loader.acknowledge(committed[-1 - lag])
            for page in committed[-1 - lag :]:
                self.loader.acknowledge(page)
        except KilledError:
            self.killed_runs += 1
            return False
        except TapDataSyncError:
            # The pipe is drained: only a killed loader loses what was acknowledged.
            for page in committed[-1 - lag :]:
                self.loader.acknowledge(page)
            return False
        return extraction.walk.finished

    def note_request(self) -> None:
        """Measure how long a request has waited although the limit had room for it."""
        now = self.clock.time
        free = self.ready
        if len(self._counted) >= self.limit:
            free = max(free, self._counted[-self.limit] + self.window)
        if self.runs == 1:  # A later one has to learn the window anew.
            self.longest_idle = max(self.longest_idle, now - free)
        self._counted.append(now)

    def _check_page(self, page: ExtractedPage) -> None:
        self.pages += 1
        assert len(page.taken.emit) + page.taken.skipped <= page.exchange.page.returned
        assert page.taken.bookmark.cursor != "" or page.taken.bookmark.cursor is None

    def load(self) -> None:
        """Run until a walk is finished, restarting as the supervisor does.

        Raises:
            AssertionError: It never is.
        """
        while not self.run():
            assert self.runs < MAX_RUNS, f"seed {self.seed}: still not done after {MAX_RUNS} runs"
            self.clock.time += self.draw.choice([0.1, 1.0, 5.0, 200.0])
            if self.runs > MAX_RUNS // 3:
                self.kill_share = 0.0


def check(seed: int) -> World:
    """Simulate one load and compare its outcome with the feed.

    Raises:
        AssertionError: Something is missing, wrong, over the limit or wasted.
    """
    world = World(seed)
    world.load()
    # What arrived while the last walk went on is for the next one, which is quick.
    frozen = list(world.feed.rows())
    world.kill_share = 0.0
    world.served = sum(world.model.faults.served.values())
    world.model.faults = Faults()
    before = world.model.requests
    written = world.loader.written
    while not world.run():
        assert world.runs < MAX_RUNS + 5, f"seed {seed}: the second load does not finish"
    _check_table(world, frozen)
    if not (world.feed.arrival_rate.rate or world.unsorted):
        _check_second_run(world, world.model.requests - before, world.loader.written - written)
    _check_budget(world)
    return world


def _check_table(world: World, rows: list[ExpectedRow]) -> None:
    table = world.loader.rows
    for row in rows:
        if row.id is None:
            assert row.raw_event in world.loader.rejected, (
                f"seed {world.seed}: lost {row.raw_event}"
            )
            continue
        record = table.get(row.id)
        assert record is not None, f"seed {world.seed}: {row.id} of {row.timestamp} is missing"
        if row.malformed is None:
            assert record.timestamp == row.timestamp, (
                f"seed {world.seed}: {row.id} has a wrong time"
            )
            found = json.loads(bytes(record.properties))
            assert found == row.properties, f"seed {world.seed}: {row.id} has {found}"
        elif row.valid is False:
            assert row.raw_event in world.loader.rejected, (
                f"seed {world.seed}: {row.malformed} not rejected"
            )
    known = {row.id for row in world.feed.rows()}
    assert table.keys() <= known, f"seed {world.seed}: rows that the feed does not hold"


def _check_second_run(world: World, requests: int, written: int) -> None:
    """A run on an unchanged feed reads the lookback and stops."""
    bookmark = Bookmark.from_state(world.loader.state)
    if bookmark.complete_to is None:
        return
    late = [
        row
        for row in world.feed.rows()
        if row.timestamp is None or row.timestamp >= bookmark.complete_to - LOOKBACK
    ]
    pages = len(late) // world.page_size + 4
    # A kill leaves the limit used up without the next run knowing: a 429 may come first.
    assert requests <= pages + 3, f"seed {world.seed}: {requests} requests for nothing new"
    assert written <= len(late), f"seed {world.seed}: {written} rows for {len(late)} late ones"


def _check_budget(world: World) -> None:
    """No request over the limit, but the first of a run: it knows nothing of the one before."""
    refused = sum(entry.result == 429 and not entry.fault for entry in world.model.log)
    forced = sum(str(entry.fault).startswith("429") for entry in world.model.log)
    # A reply without headers may be one that the tap cannot know to have been counted.
    blind = world.served + len(world.faults)
    assert refused <= world.runs + forced * 8 + blind, (
        f"seed {world.seed}: {refused} answers of 429"
    )
    clean = sum(entry.result == 200 and not entry.fault for entry in world.model.log)
    asked_twice = clean - world.pages - world.replies_lost
    assert asked_twice <= 0, f"seed {world.seed}: {asked_twice} good pages thrown away"
    dead = sum(entry.result == 400 and not entry.fault for entry in world.model.log)
    assert dead <= world.runs, f"seed {world.seed}: {dead} requests spent on dead cursors"
    if not world.faults and not world.killed_runs and world.policy.window_kind == "sliding":
        allowed = 0.02 + 0.002 * world.window + 2 * MAX_JITTER
        assert world.longest_idle <= allowed, f"seed {world.seed}: idle {world.longest_idle:.3f} s"
