"""The metric cards and the tables of the page, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from datasync_monitor import formatting
from datasync_monitor.health import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from datasync_monitor.event_stats import RejectedEvent
    from datasync_monitor.history import Sync
    from datasync_monitor.progress import Progress

Value = TypeVar("Value")


class MetricCard(NamedTuple):
    """One number with its label, and a remark below it."""

    label: str
    value: str
    remark: str


def scan_cards(progress: Progress) -> tuple[MetricCard, ...]:
    """Return the cards of the first row: how far and how fast."""
    active = progress.state in {State.RUNNING, State.WAITING}
    expected = (
        "so far"
        if progress.events_expected is None
        else f"of {formatting.count(progress.events_expected)} expected"
    )
    last_activity_at, started_at = progress.snapshot.last_activity_at, progress.totals.started_at
    took = last_activity_at - started_at if last_activity_at and started_at else None
    return (
        MetricCard("Events of this scan", formatting.count(progress.events_seen), expected),
        MetricCard(
            "Done",
            _or_dash(progress.fraction, formatting.percent),
            formatting.plural(progress.totals.pages, "page"),
        ),
        MetricCard(
            "Throughput",
            _or_dash(progress.rate, formatting.per_second),
            "over the last 5 minutes" if active else "over its last 5 minutes",
        ),
        MetricCard(
            "Duration", _or_dash(took, formatting.duration), "from first request to last page"
        )
        if progress.state is State.FINISHED
        else MetricCard(
            "Time left",
            _or_dash(progress.time_left, formatting.duration),
            "including waits for the rate limit",
        ),
    )


def detail_cards(progress: Progress) -> tuple[MetricCard, ...]:
    """Return the cards of the second row: rate limit, cursor, checkpoint, errors."""
    limit, lifetime = progress.rate_limit, progress.cursor_lifetime
    restarts = formatting.plural(progress.restarts, "restart")
    retries = formatting.plural(progress.retried_requests, "retry", "retries")
    return (
        MetricCard(
            "Requests left",
            f"{limit.remaining} of {limit.limit}" if limit else "-",
            f"waiting {formatting.duration(progress.wait)}"
            if progress.wait
            else "after the last page",
        ),
        MetricCard(
            "Cursor expires in",
            "expired"
            if lifetime is not None and not lifetime
            else _or_dash(lifetime, formatting.duration),
            "no scan in progress" if lifetime is None else "of the scan in progress",
        ),
        MetricCard(
            "Checkpoint age",
            _or_dash(progress.checkpoint_age, formatting.duration),
            "since it was last written",
        ),
        MetricCard(
            "Rejected events", formatting.count(progress.totals.rejected), f"{restarts}, {retries}"
        ),
    )


def sync_table(syncs: Iterable[Sync]) -> list[dict[str, Any]]:
    """Return one row per sync."""
    return [
        {
            "start (UTC)": _time(sync.started_at),
            "end (UTC)": _time(sync.ended_at),
            "duration": formatting.duration(sync.ended_at - sync.started_at),
            "outcome": sync.outcome,
            "pages": sync.pages,
            "events": sync.events,
            "emitted": sync.emitted,
            "rejected": sync.rejected,
            "retries": sync.retries,
            "rate limit wait": f"{sync.rate_limit_wait_seconds:,.0f} s",
            "sync": sync.sync_id,
        }
        for sync in syncs
    ]


def rejected_table(rejected: Iterable[RejectedEvent]) -> list[dict[str, Any]]:
    """Return one row per rejected event."""
    return [
        {
            "rejected at (UTC)": _time(row.rejected_at),
            "event": row.event_id or "(no id)",
            "errors": "; ".join(map(str, row.errors)),
            "raw event": row.raw_event,
            "page": row.page,
        }
        for row in rejected
    ]


def _time(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"


def _or_dash(value: Value | None, to_text: Callable[[Value], str]) -> str:
    return "-" if value is None else to_text(value)
