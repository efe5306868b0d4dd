"""One reading of the tables that describe a load: `checkpoint`, `pages` and `pipeline_runs`.

The table `events` is not read: the checkpoint and one row per page are enough, and they stay small
(600 pages for 3,000,000 events).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from typing import TYPE_CHECKING, Any

from psycopg.rows import class_row

from datasync_monitor.database import has_table, table_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg

RECENT_PAGES = 240
"""Pages read for the throughput: more than five minutes' worth under the API's rate limit."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The row of `checkpoint`: how far the scan is. `state` is the whole Singer STATE."""

    updated_at: datetime | None = None
    cursor_expires_at: datetime | None = None
    scan_in_progress: bool = False
    scan_newest_at: datetime | None = None
    scan_oldest_at: datetime | None = None
    high_watermark: datetime | None = None
    events_seen: int | None = None
    events_emitted: int | None = None
    events_expected: int | None = None
    total_events: int | None = None
    state: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def scan_finished(self) -> bool:
        """Whether the last scan reached its end. A feed without events has no watermark."""
        return not self.scan_in_progress and (
            self.high_watermark is not None or not self.total_events
        )


@dataclass(frozen=True, slots=True)
class Page:
    """A row of `pages`: one reply of the API. Times are those of the tap's clock."""

    sync_id: str
    page: int
    requested_at: datetime
    received_at: datetime
    events: int
    rate_limit_wait_seconds: float = 0.0
    rate_limit: int | None = None
    rate_limit_remaining: int | None = None
    rate_limit_reset_seconds: int | None = None
    cursor_expires_at: datetime | None = None
    events_seen: int = 0
    events_expected: int | None = None
    total_events: int | None = None
    incremental_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class PageTotals:
    """Sums over the pages of one scan, or over all pages."""

    pages: int = 0
    syncs: int = 0
    events: int = 0
    emitted: int = 0
    skipped: int = 0
    rejected: int = 0
    response_bytes: int = 0
    rate_limit_wait_seconds: float = 0.0
    started_at: datetime | None = None
    retries: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """The newest row of `pipeline_runs`. A run that was killed may stay without an end."""

    started_at: datetime
    ended_at: datetime | None = None
    outcome: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The API's rate limit after its last reply."""

    limit: int
    remaining: int
    reset_at: datetime
    window_seconds: float

    def wait(self, now: datetime) -> timedelta | None:
        """Return how long no request is allowed, in whole seconds; None when one is."""
        if self.remaining > 0 or now >= self.reset_at:
            return None
        return timedelta(seconds=ceil((self.reset_at - now).total_seconds()))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the progress is computed from; a table that does not exist counts as empty.

    `now` is the database's clock. `pages` are the newest of the scan, oldest first, and `totals`
    the sums over all of the scan, over all its syncs. `rate_limit_window_seconds` is the longest
    `rate_limit_reset_seconds` of the last day: the API names the seconds until its oldest counted
    request leaves the window, so a scan that starts with few requests left sees short ones at
    first. `events_in_table` is the estimate of PostgreSQL's statistics.
    """

    now: datetime
    checkpoint: Checkpoint | None = None
    pages: tuple[Page, ...] = ()
    totals: PageTotals = PageTotals()
    rate_limit_window_seconds: int | None = None
    run: PipelineRun | None = None
    events_in_table: int | None = None

    @property
    def last_page(self) -> Page | None:
        """The newest page of the scan."""
        return self.pages[-1] if self.pages else None

    @property
    def scan(self) -> Checkpoint:
        """The checkpoint; before the first one, or with a target that has none, the last page's."""
        page = self.last_page
        if self.checkpoint is not None or page is None:
            return self.checkpoint or Checkpoint()
        return Checkpoint(
            updated_at=page.received_at,
            cursor_expires_at=page.cursor_expires_at,
            scan_in_progress=page.cursor_expires_at is not None,
            events_seen=page.events_seen,
            events_expected=page.events_expected,
            total_events=page.total_events,
        )

    @property
    def last_activity_at(self) -> datetime | None:
        """When the checkpoint was written or a page received, whichever is later."""
        page = self.last_page
        times = (self.scan.updated_at, page.received_at if page else None)
        return max((at for at in times if at is not None), default=None)

    @property
    def events_seen(self) -> int:
        """Events that the scan has seen."""
        return self.scan.events_seen or 0

    @property
    def events_expected(self) -> int | None:
        """Events that the scan has to see."""
        return self.scan.events_expected or self.scan.total_events

    @property
    def rate_limit(self) -> RateLimit | None:
        """The rate limit after the newest page; None where the API names none."""
        page = self.last_page
        if page is None:
            return None
        limit, remaining = page.rate_limit, page.rate_limit_remaining
        reset = page.rate_limit_reset_seconds
        if limit is None or remaining is None or reset is None:
            return None
        return RateLimit(
            limit=max(limit, 1),
            remaining=remaining,
            reset_at=page.received_at + timedelta(seconds=reset),
            window_seconds=float(max(self.rate_limit_window_seconds or 0, reset)),
        )

    @property
    def run_in_progress(self) -> PipelineRun | None:
        """The run that has started and not ended."""
        return self.run if self.run and self.run.ended_at is None else None

    @property
    def has_started(self) -> bool:
        """Whether the run in progress has loaded a page; True where no run is known."""
        run, loaded_at = self.run_in_progress, self.scan.updated_at
        # Both by the database's clock; the tap's may differ.
        return run is None or (loaded_at is not None and loaded_at >= run.started_at)

    @property
    def unsuccessful_run(self) -> PipelineRun | None:
        """The newest run if it failed or left a scan unfinished, with nothing loaded since."""
        run, loaded_at = self.run, self.scan.updated_at
        if run is None or run.ended_at is None or (loaded_at and loaded_at > run.ended_at):
            return None
        interrupted = run.outcome in {"stopped", "killed"} and self.scan.scan_in_progress
        return run if run.outcome == "failed" or interrupted else None

    @property
    def scan_ended(self) -> bool:
        """Whether the last scan reached its end.

        Otherwise it is in progress, or failed on its first page: then the page is in `pages`, but
        not counted by the checkpoint, which still describes a scan without pages.
        """
        scan, page = self.scan, self.last_page
        if scan.scan_in_progress:
            return False
        counted = (scan.events_seen, scan.total_events)
        return page is None or (page.events_seen, page.total_events) == counted


_CHECKPOINT = """
    SELECT updated_at, cursor_expires_at, coalesce(scan_in_progress, false) AS scan_in_progress,
           scan_newest_at, scan_oldest_at, high_watermark, events_seen, events_emitted,
           events_expected, total_events, state
    FROM checkpoint WHERE id = 1
"""

# A scan starts with the page after which no event but its own has been seen. The tap counts events
# over the whole scan, so this holds over restarts. Where old pages were deleted and that page is
# gone, all pages that are left belong to the scan.
_OF_SCAN = (
    "received_at >= coalesce((SELECT max(received_at) FROM pages WHERE events_seen <= events), "
    "'-infinity')"
)

_TOTALS = """
    SELECT count(*)::int AS pages, count(DISTINCT sync_id)::int AS syncs,
           coalesce(sum(events), 0)::bigint AS events, coalesce(sum(emitted), 0)::bigint AS emitted,
           coalesce(sum(skipped), 0)::bigint AS skipped,
           coalesce(sum(rejected), 0)::bigint AS rejected,
           coalesce(sum(response_bytes), 0)::bigint AS response_bytes,
           coalesce(sum(rate_limit_wait_seconds), 0)::float8 AS rate_limit_wait_seconds,
           min(requested_at) AS started_at,
           coalesce((SELECT jsonb_object_agg(cause, n) FROM (
               SELECT cause, sum(value::int)::int AS n
               FROM pages, jsonb_each_text(retries) AS r(cause, value)
               WHERE {condition} GROUP BY cause) AS by_cause), '{{}}') AS retries
    FROM pages WHERE {condition}
"""

_WINDOW = """
    SELECT max(rate_limit_reset_seconds) FROM pages
    WHERE received_at >= (SELECT max(received_at) - interval '1 day' FROM pages)
"""

_PAGES = f"""
    SELECT sync_id, page, requested_at, received_at, events,
           coalesce(rate_limit_wait_seconds, 0)::float8 AS rate_limit_wait_seconds, rate_limit,
           rate_limit_remaining, rate_limit_reset_seconds, cursor_expires_at, events_seen,
           events_expected, total_events, incremental_to
    FROM pages WHERE {_OF_SCAN}
    ORDER BY received_at DESC, page DESC LIMIT {RECENT_PAGES}
"""  # noqa: S608 - joined from constants of this module

_RUN = """
    SELECT started_at, ended_at, outcome, message FROM pipeline_runs
    ORDER BY id DESC LIMIT 1
"""


def read_snapshot(connection: psycopg.Connection[Any]) -> Snapshot:
    """Read the tables, in a few milliseconds. Call it through `ReconnectingConnection.run`."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has a row
    pages, window, run = list[Page](), None, None
    if has_table(connection, "pages"):
        pages = connection.cursor(row_factory=class_row(Page)).execute(_PAGES).fetchall()
        window = connection.execute(_WINDOW).fetchone()
    if has_table(connection, "pipeline_runs"):
        run = connection.cursor(row_factory=class_row(PipelineRun)).execute(_RUN).fetchone()
    events = table_size(connection, "events")
    return Snapshot(
        now=row[0],
        checkpoint=read_checkpoint(connection),
        pages=tuple(reversed(pages)),
        totals=read_totals(connection, newest_scan=True),
        rate_limit_window_seconds=window[0] if window else None,
        run=run,
        events_in_table=events.rows if events else None,
    )


def read_totals(connection: psycopg.Connection[Any], *, newest_scan: bool = False) -> PageTotals:
    """Sum up the pages of the newest scan, or all pages."""
    if not has_table(connection, "pages"):
        return PageTotals()
    query = _TOTALS.format(condition=_OF_SCAN if newest_scan else "true")
    cursor = connection.cursor(row_factory=class_row(PageTotals))
    return cursor.execute(query).fetchone() or PageTotals()


def read_checkpoint(connection: psycopg.Connection[Any]) -> Checkpoint | None:
    """Read the checkpoint; None where nothing was ever loaded."""
    if not has_table(connection, "checkpoint"):
        return None
    return connection.cursor(row_factory=class_row(Checkpoint)).execute(_CHECKPOINT).fetchone()
