"""The state of the load: idle, running, waiting, stuck or finished.

The tables do not show whether a process lives, so the state depends on activity: a scan in progress
is alive while its checkpoint or its pages change. Time without activity is compared with what the
API announced: until the rate limit allows the next request, the load waits; after that, the tap has
`stall_timeout` to request and load one page. After a longer time the load is stuck, whether its
process hangs, has ended, or gets no reply from the API.

`pipeline_runs`, written by the command that runs the pipeline, adds that a run has started, and how
it ended.
"""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from datasync_monitor.snapshot import PipelineRun, Snapshot
    from datasync_monitor.throughput import RateLimit

STALL_TIMEOUT = timedelta(seconds=360)
"""Longer than the retries of one page, which reach the table `pages` only with that page: 8
requests of 30 s and the pauses between them take 331 s."""


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

    @property
    def healthy(self) -> bool:
        """Whether the load needs no attention."""
        return self is not State.STUCK


def determine_state(
    snapshot: Snapshot,
    now: datetime,
    rate_limit: RateLimit | None,
    *,
    stall_timeout: timedelta = STALL_TIMEOUT,
) -> State:
    """Return the state at `now`."""
    if unsuccessful_run(snapshot):
        return State.STUCK
    last_activity, run = snapshot.last_activity_at, running_pipeline(snapshot)
    if run and not has_started(snapshot):
        # What an earlier run left behind does not describe this one.
        last_activity = max(run.started_at, last_activity or run.started_at)
    elif last_activity is None:
        return State.IDLE
    elif scan_ended(snapshot):
        # The run may still fail; one that was killed leaves its row without an end.
        ending = run is not None and now - last_activity <= stall_timeout
        return State.RUNNING if ending else State.FINISHED
    if rate_limit is not None:
        if rate_limit.wait(now):
            return State.WAITING
        if rate_limit.remaining == 0:
            last_activity = max(last_activity, rate_limit.reset_at)
    return State.RUNNING if now - last_activity <= stall_timeout else State.STUCK


def running_pipeline(snapshot: Snapshot) -> PipelineRun | None:
    """Return the run that has started and not ended."""
    return snapshot.run if snapshot.run and snapshot.run.ended_at is None else None


def has_started(snapshot: Snapshot) -> bool:
    """Whether the run in progress has loaded a page; True where no run is known."""
    run = running_pipeline(snapshot)
    if run is None:
        return True
    # Both by the database's clock; the tap's may differ.
    loaded_at = snapshot.scan.updated_at
    return loaded_at is not None and loaded_at >= run.started_at


def unsuccessful_run(snapshot: Snapshot) -> PipelineRun | None:
    """Return the newest run if it failed or left a scan unfinished, with nothing loaded since."""
    run, loaded_at = snapshot.run, snapshot.scan.updated_at
    if run is None or run.ended_at is None or (loaded_at and loaded_at > run.ended_at):
        return None
    unfinished = snapshot.scan.scan_in_progress
    failed = run.outcome == "failed" or (run.outcome in {"stopped", "killed"} and unfinished)
    return run if failed else None


def scan_ended(snapshot: Snapshot) -> bool:
    """Whether the last scan reached its end.

    Otherwise it is in progress, or failed on its first page: then the page is in `pages`, but not
    counted by the checkpoint, which still describes a scan without pages.
    """
    scan, page = snapshot.scan, snapshot.last_page
    if scan.scan_in_progress:
        return False
    return page is None or (page.events_seen, page.total_events) == (
        scan.events_seen,
        scan.total_events,
    )
