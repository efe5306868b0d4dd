"""The progress of the load: state, completion, throughput and time left of one snapshot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING, Any

from datasync_monitor import formatting, throughput
from datasync_monitor.health import (
    STALL_TIMEOUT,
    State,
    determine_state,
    has_started,
    scan_ended,
    unsuccessful_run,
)
from datasync_monitor.snapshot import PageTotals, read_snapshot

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg

    from datasync_monitor.snapshot import Checkpoint, Snapshot
    from datasync_monitor.throughput import RateLimit

_ALMOST = 0.999
"""Shown at most while the load is not finished."""
_LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the scan is, how fast, how long it still takes, and its state, at the time `now`.

    The numbers count the scan over all its restarts; events that are skipped because they are
    loaded already are seen as well. `fraction` is 1 only when the load is finished. `rate` is in
    events per second. `starting` is set until the run in progress has loaded its first page,
    `completing` when its scan has ended and the run has not.
    """

    state: State
    now: datetime
    snapshot: Snapshot
    fraction: float | None = None
    incremental: bool = False
    starting: bool = False
    completing: bool = False
    rate: float | None = None
    time_left: timedelta | None = None
    rate_limit: RateLimit | None = None

    @property
    def scan(self) -> Checkpoint:
        """The checkpoint of the scan."""
        return self.snapshot.scan

    @property
    def totals(self) -> PageTotals:
        """The sums over the pages of the scan."""
        return self.snapshot.totals

    @property
    def events_seen(self) -> int:
        """Events that the scan has seen."""
        return self.scan.events_seen or 0

    @property
    def events_expected(self) -> int | None:
        """Events that the scan has to see."""
        return self.scan.events_expected or self.scan.total_events

    @property
    def restarts(self) -> int:
        """Restarts of the tap within the scan."""
        return max(0, self.totals.syncs - 1)

    @property
    def retried_requests(self) -> int:
        """Requests repeated in the scan, for any cause."""
        return sum(self.totals.retries.values())

    @property
    def cursor_lifetime(self) -> timedelta | None:
        """How long the cursor of the scan in progress can still be used; zero when it expired."""
        expires_at = self.scan.cursor_expires_at
        if expires_at is None or self.state in {State.IDLE, State.FINISHED}:
            return None
        return max(timedelta(0), expires_at - self.now)

    @property
    def checkpoint_age(self) -> timedelta | None:
        """How long ago the checkpoint was last written."""
        return self._since(self.scan.updated_at)

    @property
    def idle_time(self) -> timedelta | None:
        """How long nothing was loaded."""
        return self._since(self.snapshot.last_activity_at)

    def _since(self, at: datetime | None) -> timedelta | None:
        return None if at is None else max(timedelta(0), self.now - at)

    @property
    def wait(self) -> timedelta | None:
        """How long the load waits for the rate limit; None where it does not."""
        if self.rate_limit is None or self.state is not State.WAITING:
            return None
        return self.rate_limit.wait(self.now)

    @property
    def amount(self) -> str:
        """The events so far: `65,000 of 100,000 events`."""
        seen = formatting.count(self.events_seen)
        if self.incremental:
            return f"{seen} new events"
        if self.events_expected is None or self.completing or self.state is State.FINISHED:
            return f"{seen} events"
        return f"{seen} of {formatting.count(self.events_expected)} events"

    @property
    def activity(self) -> str:
        """What the load is doing, in a few words."""
        limit = self.rate_limit
        if self.state is State.STUCK:
            return self._reason_stuck()
        if self.wait:
            return f"waiting {formatting.duration(self.wait)} for the rate limit"
        if self.state is State.FINISHED:
            if self.scan.high_watermark is None:
                return "nothing to load"
            return f"loaded up to {self.scan.high_watermark:%Y-%m-%d %H:%M:%S} UTC"
        if self.state is State.IDLE:
            return "nothing loaded yet"
        if self.starting:
            return "waiting for the first page of this run"
        if self.completing:
            return "completing the run"
        if limit is None:
            return "no rate limit"
        if limit.remaining == 0:
            return "requesting the next page"
        return f"{limit.remaining} of {formatting.plural(limit.limit, 'request')} left"

    def _reason_stuck(self) -> str:
        run = unsuccessful_run(self.snapshot)
        if run is None:
            idle = self.idle_time
            return (
                f"no progress for {formatting.duration(idle)}"
                if idle
                else "the run has loaded no page"
            )
        if run.outcome != "failed":
            return f"the last run was {run.outcome}"
        message = " ".join((run.message or "see its log").split())[:_LONGEST_MESSAGE]
        return f"the last run failed: {message.removesuffix('.')}"

    @property
    def headline(self) -> str:
        """The state and how far, in one line."""
        if self.state is State.IDLE:
            return f"{self.state}: {self.activity}"
        if self.state is State.FINISHED:
            return f"{self.state}: {self.amount} in the last scan, {self.activity}"
        share = "" if self.fraction is None else f", {formatting.percent(self.fraction)}"
        return f"{self.state}: {self.amount}{share}, {self.activity}"


def read_progress(
    connection: psycopg.Connection[Any],
    *,
    schema: str = "public",
    stall_timeout: timedelta = STALL_TIMEOUT,
) -> Progress:
    """Read the tables and compute the progress. Call it through `ReconnectingConnection.run`.

    It is that of the database's clock. `pages` has the times of the tap's clock: where the two
    differ, throughput and time left differ by as much.

    Args:
        connection: to the database.
        schema: of the tables.
        stall_timeout: how long nothing may be loaded, beyond every announced wait.
    """
    snapshot = read_snapshot(connection, schema)
    return compute_progress(snapshot, snapshot.now, stall_timeout=stall_timeout)


def compute_progress(
    snapshot: Snapshot, now: datetime, *, stall_timeout: timedelta = STALL_TIMEOUT
) -> Progress:
    """Compute the progress at `now`. A pure function."""
    pages, last_page = snapshot.pages, snapshot.last_page
    rate_limit = throughput.latest_rate_limit(pages, snapshot.rate_limit_window_seconds)
    state = determine_state(snapshot, now, rate_limit, stall_timeout=stall_timeout)
    starting = not has_started(snapshot)
    if starting and not snapshot.scan.scan_in_progress:
        # The tables describe an earlier run.
        nothing = replace(snapshot, checkpoint=None, pages=(), totals=PageTotals())
        return Progress(state, now, nothing, starting=True)
    if snapshot.last_activity_at is None:
        return Progress(state, now, snapshot)
    active = state in {State.RUNNING, State.WAITING}
    completing = active and scan_ended(snapshot)
    ended = completing or state is State.FINISHED
    incremental = None if ended else _incremental_fraction(snapshot)
    fraction, pages_left = _completion(snapshot, incremental)
    if ended:
        fraction, pages_left = _ALMOST if completing else 1.0, 0
    until = last_page.received_at if last_page and not active else now
    return Progress(
        state,
        now,
        snapshot,
        fraction=fraction,
        incremental=incremental is not None,
        starting=starting,
        completing=completing,
        rate=throughput.events_per_second(pages, until),
        time_left=throughput.time_left(pages, pages_left, now, rate_limit)
        if active and pages_left is not None
        else None,
        rate_limit=rate_limit,
    )


def _completion(snapshot: Snapshot, incremental: float | None) -> tuple[float | None, int | None]:
    """Return the completed part of the scan in progress, and the pages that are left.

    A scan to the oldest event is measured in events, by its checkpoint or, before there is one, by
    its last page. An incremental scan sees a small part of all events; `incremental` measures it.
    """
    scan, pages = snapshot.scan, snapshot.totals.pages
    if incremental is not None:
        left = ceil(pages * (1 - incremental) / incremental) if incremental and pages else None
        return min(incremental, _ALMOST), left
    seen, expected = scan.events_seen or 0, scan.events_expected or scan.total_events
    if not expected:
        return None, None
    page_size = max((page.events for page in snapshot.pages), default=0)
    left = ceil(max(0, expected - seen) / page_size) if page_size else None
    return min(seen / expected, _ALMOST), left


def _incremental_fraction(snapshot: Snapshot) -> float | None:
    """Return how much of the event time down to the end of an incremental scan is done.

    None for a scan to the oldest event, also for one that did not end where it was to end.
    """
    scan, page = snapshot.scan, snapshot.last_page
    newest, oldest = scan.scan_newest_at, scan.scan_oldest_at
    # Without the table `pages` the lookback below the watermark is not known.
    end = page.incremental_to if page else scan.high_watermark
    if newest is None or oldest is None or end is None or min(newest, oldest) <= end:
        return None
    # The first events may be later than the tap's clock and so above `scan_newest_at`.
    return max(0.0, (newest - oldest) / (newest - end))
