"""Numbers, durations and progress as text."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

    from datasync_monitor.progress import Progress

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def duration(length: timedelta) -> str:
    """Two units at most, rounded down: `42 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    seconds = max(0, int(length.total_seconds()))
    for unit, name, smaller_unit, smaller_name in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if seconds >= unit:
            rest = seconds % unit // smaller_unit
            whole = f"{seconds // unit} {name}"
            return f"{whole} {rest} {smaller_name}" if rest else whole
    return f"{seconds} s"


def count(number: int) -> str:
    """With thousands separators: `3,000,000`."""
    return f"{number:,}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """`1 restart`, `2 restarts`; `many` for an irregular plural: `2 retries`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def percent(fraction: float) -> str:
    """One decimal, rounded down: `100.0 %` appears for the whole only."""
    return f"{int(fraction * 1000 + 1e-9) / 10:.1f} %"


def per_second(rate: float) -> str:
    """`833 events/s`; below ten with a decimal: `4.2 events/s`."""
    return f"{rate:,.0f} events/s" if rate >= 10 else f"{rate:.1f} events/s"  # noqa: PLR2004


def log_line(progress: Progress) -> str:
    """Return the progress as one line of `key=value` after the time and the state.

    Durations are in seconds; a value that is not known is left out.
    """
    snapshot = progress.snapshot
    page, limit = snapshot.last_page, snapshot.rate_limit
    fields: dict[str, object | None] = {
        "pages": snapshot.totals.pages,
        "events": snapshot.events_seen,
        "expected": snapshot.events_expected,
        "percent": None if progress.fraction is None else percent(progress.fraction)[:-2],
        "rate": None if progress.rate is None else f"{progress.rate:.1f}/s",
        "time_left": _seconds(progress.time_left),
        "rate_limit": limit and f"{limit.remaining}/{limit.limit}",
        "wait": _seconds(progress.wait),
        "cursor": _seconds(progress.cursor_lifetime),
        "rejected": snapshot.totals.rejected,
        "restarts": progress.restarts,
        "retries": progress.retried_requests,
        "checkpoint_age": _seconds(progress.checkpoint_age),
        "sync": page and page.sync_id,
    }
    known = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None)
    return f"{snapshot.now:%Y-%m-%dT%H:%M:%SZ} {progress.state} {known} | {progress.activity}"


def _seconds(length: timedelta | None) -> str | None:
    return None if length is None else f"{ceil(length.total_seconds())}s"
