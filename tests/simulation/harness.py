"""The tap, a target and a clock in one process, in simulated time.

In the manner of FoundationDB's simulation: everything random is drawn from one seed, so
that a failure can be repeated. The tap is the real one, with another transport in place of
HTTP and a target in place of standard output. Two worlds use it:
:mod:`tests.simulation.service` has the API of the sandbox with its faults and its rate
limit, :mod:`tests.simulation.feeds` feeds that are wrong in themselves.
"""

from __future__ import annotations

import json
import logging
import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tap_datasync.errors import TapDataSyncError
from tap_datasync.streams import EventsStream
from tap_datasync.tap import TapDataSync

if TYPE_CHECKING:
    from tap_datasync.client import RawResponse, Transport
    from tap_datasync.parsing import EventRecord, FetchedPage

LOOKBACK = timedelta(seconds=600)
START = 1_800_000_000.0
API_URL = "https://example.com/api/v1"

QUIET = logging.getLogger("simulation")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False


class SimulatedClock:
    """A clock that moves when the tap sleeps."""

    def __init__(self) -> None:
        self.time = START

    def monotonic(self) -> float:
        return self.time

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time, tz=timezone.utc)

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0, "a negative sleep"
        self.time += seconds


class KilledError(BaseException):
    """The process is killed here."""


@dataclass
class Target:
    """Rows by id as they were last written, and the state that survives a crash."""

    rows: dict[str, Any] = field(default_factory=dict)
    rejected: set[str] = field(default_factory=set)
    state: dict[str, Any] = field(default_factory=dict)
    written: int = 0

    def commit(self, page: FetchedPage, emit: list[EventRecord], share: float = 1.0) -> None:
        """Commit the rows of a page, or the first part of them."""
        records = emit[: round(len(emit) * share)]
        for record in records:
            self.rows[record.id] = record
        self.written += len(records)
        self.rejected.update(rejection.raw_event for rejection in page.rejections)

    def acknowledge(self, state: dict[str, Any]) -> None:
        """Save the state of a committed page, as JSON, as Meltano does."""
        self.state.update(json.loads(json.dumps(state)))


class SimulatedRun(EventsStream):
    """One process: the stream ``events``, and a target whose saved state lags behind.

    Attributes:
        pages: Pages written.
        last_requested_at: When the last of them was requested.
    """

    world: World
    lag: int

    def run(self) -> bool:
        """Run until the end; return whether the scan is finished."""
        self.pages = 0
        self.record_counter = SimpleNamespace(increment=lambda _: None)  # type: ignore[assignment]
        self._states: list[dict[str, Any]] = []
        finished = True
        try:
            self.sync_pages()
        except TapDataSyncError:
            finished = False
        # The pipe is drained: only a killed target loses what was acknowledged.
        for state in self._states[-1 - self.lag :]:
            self.world.target.acknowledge(state)
        return finished

    @property
    def logger(self) -> logging.Logger:
        """A logger that writes nothing."""
        return QUIET

    def transport(self) -> Transport:
        return self.world

    def write_page(
        self, page: FetchedPage, emit: list[EventRecord], page_record: dict[str, Any]
    ) -> None:
        """Take the RECORDs of a page."""
        del page_record
        assert len(emit) <= page.returned
        self.pages += 1
        self.last_requested_at = page.requested_at
        self._page = page, emit

    def save_state(self, state: dict[str, Any]) -> None:
        """Take the STATE of a page: commit its rows, and hand back an earlier state."""
        draw, target = self.world.draw, self.world.target
        if draw.random() < self.world.kill_share:
            target.commit(*self._page, draw.random())
            raise KilledError
        target.commit(*self._page)
        self._states.append(state)
        if len(self._states) > self.lag:
            target.acknowledge(self._states[-1 - self.lag])

    def write_schema_of(self, stream: object) -> None:
        """Leave the SCHEMA out."""


class World:
    """Everything that one seed makes: a clock, an API, a target, and the runs of the tap.

    Attributes:
        draw: Source of chance.
        kill_share: Probability of a kill at each of its occasions.
        page_size: Setting of the tap.
        source: Setting ``api_url`` of the tap.
        run: The last run.
        requests: Requests that the API has received.
    """

    kill_share: float
    page_size = 5000
    source = API_URL
    run: SimulatedRun

    def __init__(self, seed: int) -> None:
        """Start at the beginning of time."""
        self.seed = seed
        self.draw = random.Random(seed)
        self.clock = SimulatedClock()
        self.target = Target()
        self.runs = 0
        self.killed_runs = 0
        self.requests = 0

    def get(self, cursor: str | None, limit: int) -> RawResponse:
        """Carry a request to the API, in place of HTTP."""
        raise NotImplementedError

    def maybe_kill(self) -> None:
        """Kill the process here, sometimes."""
        if self.draw.random() < self.kill_share:
            raise KilledError

    def run_tap(self) -> bool:
        """Run the tap once; return whether the scan is finished."""
        self.runs += 1
        state = {"bookmarks": {"events": self.target.state}} if self.target.state else None
        tap = TapDataSync(
            config={
                "api_url": self.source,
                "api_key": "sandbox-key",
                "page_size": self.page_size,
                "lookback": LOOKBACK.total_seconds(),
            },
            state=json.loads(json.dumps(state)),
        )
        self.run = SimulatedRun(tap)
        self.run.world = self
        self.run.clock = self.clock
        self.run.lag = self.draw.choice([0, 0, 1, 2])
        try:
            return self.run.run()
        except KilledError:
            self.killed_runs += 1
            return False
