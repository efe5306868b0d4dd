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
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from tap_datasync.errors import TapDataSyncError
from tap_datasync.streams import EventsStream
from tap_datasync.tap import TapDataSync

if TYPE_CHECKING:
    from random import Random

    from tap_datasync.client import RawResponse
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


class SimulatedTransport(Protocol):
    """Takes the place of HTTP."""

    def get(self, cursor: str | None, limit: int) -> RawResponse:
        """Return a response."""


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


class SimulatedStream(EventsStream):
    """The stream ``events`` in a simulated process."""

    simulated: SimulatedRun

    @property
    def logger(self) -> logging.Logger:
        """A logger that writes nothing."""
        return QUIET

    def transport(self) -> SimulatedTransport:
        return self.simulated.transport

    def write_page(
        self, page: FetchedPage, emit: list[EventRecord], page_record: dict[str, Any]
    ) -> None:
        del page_record
        self.simulated.write_page(page, emit)

    def save_state(self, state: dict[str, Any]) -> None:
        self.simulated.save_state(state)

    def write_schema_of(self, stream: object) -> None:
        """Leave the SCHEMA out."""


@dataclass
class SimulatedRun:
    """One process: the tap, and a target whose saved state lags behind.

    Attributes:
        draw: Source of chance.
        clock: Simulated time.
        transport: The API.
        target: What survives.
        kill_share: Probability of a kill at each of its occasions.
        page_size: Setting of the tap.
        source: Setting ``api_url`` of the tap.
        pages: Pages written.
        error: The error that has ended the run.
        was_killed: Whether it was killed.
    """

    draw: Random
    clock: SimulatedClock
    transport: SimulatedTransport
    target: Target
    kill_share: float = 0.0
    page_size: int = 5000
    source: str = API_URL
    pages: int = 0
    error: TapDataSyncError | None = None
    was_killed: bool = False

    def __post_init__(self) -> None:
        self._lag = self.draw.choice([0, 0, 1, 2])
        self._states: list[dict[str, Any]] = []
        self._page: tuple[FetchedPage, list[EventRecord]] | None = None

    def maybe_kill(self) -> None:
        """Kill the process here, sometimes."""
        if self.draw.random() < self.kill_share:
            raise KilledError

    def run(self) -> bool:
        """Run the tap until it ends; return whether the scan is finished."""
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
        stream = SimulatedStream(tap)
        stream.clock = self.clock
        stream.simulated = self
        stream.record_counter = SimpleNamespace(increment=lambda _: None)  # type: ignore[assignment]
        try:
            stream.sync_pages()
        except KilledError:
            self.was_killed = True
            return False
        except TapDataSyncError as error:
            self.error = error
        # The pipe is drained: only a killed target loses what was acknowledged.
        for state in self._states[-1 - self._lag :]:
            self.target.acknowledge(state)
        return self.error is None

    def write_page(self, page: FetchedPage, emit: list[EventRecord]) -> None:
        """Take the RECORDs of a page."""
        self.pages += 1
        self.last_requested_at = page.requested_at
        assert len(emit) <= page.returned
        self._page = page, emit

    def save_state(self, state: dict[str, Any]) -> None:
        """Take the STATE of a page: commit its rows, and hand back an earlier state."""
        assert self._page is not None
        if self.draw.random() < self.kill_share:
            self.target.commit(*self._page, self.draw.random())
            raise KilledError
        self.target.commit(*self._page)
        self._states.append(state)
        if len(self._states) > self._lag:
            self.target.acknowledge(self._states[-1 - self._lag])
