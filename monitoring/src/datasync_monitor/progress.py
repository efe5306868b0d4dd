"""The progress of the load: state, completion, throughput and time left of one snapshot.

The tables do not show whether a process lives, so the state depends on activity: a scan in progress
is alive while its checkpoint or its pages change. Time without activity is compared with what the
API announced: until the rate limit allows the next request, the load waits; after that, the tap has
`stall_timeout` to request and load one page. After a longer time the load is stuck, whether its
process hangs, has ended, or gets no reply from the API.

`pipeline_runs`, written by the command that runs the pipeline, adds that a run has started, and how
it ended.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Any

from datasync_monitor import formatting
from datasync_monitor.snapshot import PageTotals, read_snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from datasync_monitor.snapshot import Page, Snapshot

STALL_TIMEOUT = timedelta(seconds=360)
"""Longer than the retries of one page, which reach the table `pages` only with that page: 8
requests of 30 s and the pauses between them take 331 s."""

_ALMOST = 0.999
"""Shown at most while the load is not finished."""
_LONGEST_MESSAGE = 300
_RATE_WINDOW = timedelta(minutes=5)
_SAMPLED_PAGES = 30


class State(str, Enum):
    """The state of the load."""

    IDLE = "idle"
    """Nothing was ever loaded, and no run has started."""
    RUNNING = "running"
    WAITING = "waiting"
    """The rate limit allows no request until a known time."""
    STUCK = "stuck"
    FINISHED = "finished"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the scan is, how fast, how long it still takes, and its state, at `snapshot.now`.

    The numbers count the scan over all its restarts; events that are skipped because they are
    loaded already are seen as well. `fraction` is 1 only when the load is finished. `rate` is in
    events per second. `starting` is set until the run in progress has loaded its first page,
    `completing` when its scan has ended and the run has not.
    """

    state: State
    snapshot: Snapshot
    fraction: float | None = None
    incremental: bool = False
    starting: bool = False
    completing: bool = False
    rate: float | None = None
    time_left: timedelta | None = None

    @property
    def restarts(self) -> int:
        """Restarts of the tap within the scan."""
        return max(0, self.snapshot.totals.syncs - 1)

    @property
    def retried_requests(self) -> int:
        """Requests repeated in the scan, for any cause."""
        return sum(self.snapshot.totals.retries.values())

    @property
    def cursor_lifetime(self) -> timedelta | None:
        """How long the cursor of the scan in progress can still be used; zero when it expired."""
        expires_at = self.snapshot.scan.cursor_expires_at
        if expires_at is None or self.state in {State.IDLE, State.FINISHED}:
            return None
        return max(timedelta(0), expires_at - self.snapshot.now)

    @property
    def checkpoint_age(self) -> timedelta | None:
        """How long ago the checkpoint was last written."""
        return self._since(self.snapshot.scan.updated_at)

    def _since(self, at: datetime | None) -> timedelta | None:
        return None if at is None else max(timedelta(0), self.snapshot.now - at)

    @property
    def wait(self) -> timedelta | None:
        """How long the load waits for the rate limit; None where it does not."""
        limit = self.snapshot.rate_limit
        return limit.wait(self.snapshot.now) if limit and self.state is State.WAITING else None

    @property
    def amount(self) -> str:
        """The events so far: `65,000 of 100,000 events`."""
        seen, expected = formatting.count(self.snapshot.events_seen), self.snapshot.events_expected
        if self.incremental:
            return f"{seen} new events"
        if expected is None or self.completing or self.state is State.FINISHED:
            return f"{seen} events"
        return f"{seen} of {formatting.count(expected)} events"

    @property
    def activity(self) -> str:
        """What the load is doing, in a few words."""
        limit, high_watermark = self.snapshot.rate_limit, self.snapshot.scan.high_watermark
        if self.state is State.STUCK:
            return self._reason_stuck()
        if self.wait:
            return f"waiting {formatting.duration(self.wait)} for the rate limit"
        if self.state is State.FINISHED:
            if high_watermark is None:
                return "nothing to load"
            return f"loaded up to {high_watermark:%Y-%m-%d %H:%M:%S} UTC"
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
        run = self.snapshot.unsuccessful_run
        if run is None:
            idle_time = self._since(self.snapshot.last_activity_at)
            if idle_time:
                return f"no progress for {formatting.duration(idle_time)}"
            return "the run has loaded no page"
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
    connection: psycopg.Connection[Any], stall_timeout: timedelta = STALL_TIMEOUT
) -> Progress:
    """Read the tables and compute the progress. Call it through `ReconnectingConnection.run`.

    It is that of the database's clock. `pages` has the times of the tap's clock: where the two
    differ, throughput and time left differ by as much.

    Args:
        connection: to the database.
        stall_timeout: how long nothing may be loaded, beyond every announced wait.
    """
    return compute_progress(read_snapshot(connection), stall_timeout)


def compute_progress(snapshot: Snapshot, stall_timeout: timedelta = STALL_TIMEOUT) -> Progress:
    """Compute the progress at the time of the snapshot. A pure function."""
    state = _state(snapshot, stall_timeout)
    starting = not snapshot.has_started
    if starting and not snapshot.scan.scan_in_progress:
        # The tables describe an earlier run.
        nothing = replace(snapshot, checkpoint=None, pages=(), totals=PageTotals())
        return Progress(state, nothing, starting=True)
    active = state in {State.RUNNING, State.WAITING}
    completing = active and snapshot.scan_ended
    ended = completing or state is State.FINISHED
    incremental = None if ended else _incremental_fraction(snapshot)
    fraction, pages_left = _completion(snapshot, incremental)
    if ended:
        fraction, pages_left = _ALMOST if completing else 1.0, 0
    last_page = snapshot.last_page
    until = last_page.received_at if last_page and not active else snapshot.now
    return Progress(
        state,
        snapshot,
        fraction=fraction,
        incremental=incremental is not None,
        starting=starting,
        completing=completing,
        rate=_events_per_second(snapshot.pages, until),
        time_left=_time_left(snapshot, pages_left) if active and pages_left is not None else None,
    )


def _state(snapshot: Snapshot, stall_timeout: timedelta) -> State:
    if snapshot.unsuccessful_run:
        return State.STUCK
    now, run, rate_limit = snapshot.now, snapshot.run_in_progress, snapshot.rate_limit
    last_activity = snapshot.last_activity_at
    if run and not snapshot.has_started:
        # What an earlier run left behind does not describe this one.
        last_activity = max(run.started_at, last_activity or run.started_at)
    elif last_activity is None:
        return State.IDLE
    elif snapshot.scan_ended:
        # The run may still fail; one that was killed leaves its row without an end.
        ending = run is not None and now - last_activity <= stall_timeout
        return State.RUNNING if ending else State.FINISHED
    if rate_limit is not None:
        if rate_limit.wait(now):
            return State.WAITING
        if rate_limit.remaining == 0:
            last_activity = max(last_activity, rate_limit.reset_at)
    return State.RUNNING if now - last_activity <= stall_timeout else State.STUCK


def _completion(snapshot: Snapshot, incremental: float | None) -> tuple[float | None, int | None]:
    """Return the completed part of the scan in progress, and the pages that are left.

    A scan to the oldest event is measured in events, by its checkpoint or, before there is one, by
    its last page. An incremental scan sees a small part of all events; `incremental` measures it.
    """
    if incremental is not None:
        pages = snapshot.totals.pages
        left = ceil(pages * (1 - incremental) / incremental) if incremental and pages else None
        return min(incremental, _ALMOST), left
    seen, expected = snapshot.events_seen, snapshot.events_expected
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


def _events_per_second(pages: Sequence[Page], until: datetime) -> float | None:
    """Return the mean over the five minutes before `until`, waits included.

    Under a rate limit ten fast pages are followed by a long wait: without it the result would be
    ten times too high.
    """
    recent = [page for page in pages if page.received_at > until - _RATE_WINDOW]
    if not recent:
        return None
    elapsed = (until - recent[0].requested_at).total_seconds()
    return sum(page.events for page in recent) / elapsed if elapsed > 0 else None


def _time_left(snapshot: Snapshot, pages_left: int) -> timedelta | None:
    """Return how long the remaining requests take, waits for the rate limit included.

    The requests left are sent at once, a full limit in each window after the next reset, and the
    rest after the last one. The result differs from the truth by at most one window.
    """
    seconds, rate_limit = _seconds_per_page(snapshot.pages), snapshot.rate_limit
    if seconds is None:
        return None
    unlimited = timedelta(seconds=pages_left * seconds)
    if rate_limit is None or pages_left <= rate_limit.remaining:
        return unlimited
    windows, last = divmod(pages_left - rate_limit.remaining - 1, rate_limit.limit)
    wait = max(timedelta(0), rate_limit.reset_at - snapshot.now)
    wait += timedelta(seconds=windows * rate_limit.window_seconds + (last + 1) * seconds)
    return max(unlimited, wait)


def _seconds_per_page(pages: Sequence[Page]) -> float | None:
    """Return the mean time of a page without the waits for the rate limit.

    It includes the reply, its retries, and loading.
    """
    sample = pages[-_SAMPLED_PAGES:]
    seconds = [
        max(
            0.0,
            (page.received_at - before.received_at).total_seconds() - page.rate_limit_wait_seconds,
        )
        for before, page in pairwise(sample)
        if page.sync_id == before.sync_id
    ]
    if not seconds and sample:
        seconds = [(sample[-1].received_at - sample[-1].requested_at).total_seconds()]
    return sum(seconds) / len(seconds) if seconds else None
