"""Numbers and durations as people say them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def duration(span: timedelta) -> str:
    """Two units at most, rounded down: `42 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    seconds = max(0, int(span.total_seconds()))
    for unit, name, below, low in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if seconds >= unit:
            rest = seconds % unit // below
            return f"{seconds // unit} {name} {rest} {low}" if rest else f"{seconds // unit} {name}"
    return f"{seconds} s"


def count(number: int) -> str:
    """With thousands apart: `3,000,000`."""
    return f"{number:,}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """`1 restart`, `2 restarts`; `many` is for what does not only take an s: `2 retries`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def percent(fraction: float) -> str:
    """One decimal, cut and not rounded: 100.0 % is said only of the whole."""
    return f"{int(fraction * 1000 + 1e-9) / 10:.1f} %"


def per_second(rate: float) -> str:
    """`833 events/s`, `4.2 events/s`."""
    return f"{rate:,.0f} events/s" if rate >= 10 else f"{rate:.1f} events/s"  # noqa: PLR2004 - below, a decimal tells more


def ordinal(number: int) -> str:
    """`2nd`, `93rd`, `111th`."""
    teen = 10 < number % 100 < 14  # noqa: PLR2004 - 11th, 12th, 13th
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
