"""Numbers and durations as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

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
