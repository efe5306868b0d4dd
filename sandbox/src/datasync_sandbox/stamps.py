"""Instants as the service writes them: milliseconds since 1970, or ISO 8601 with milliseconds."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import cache

MINUTE = 60_000
"""Milliseconds."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def instant(millis: int) -> datetime:
    """Turn milliseconds since 1970 into an aware UTC datetime, exactly."""
    return _EPOCH + timedelta(milliseconds=millis)


def iso(millis: int) -> str:
    """Write milliseconds since 1970 as the API does: ``2026-01-27T19:20:12.369Z``."""
    return f"{instant(millis):%Y-%m-%dT%H:%M:%S}.{millis % 1000:03}Z"


def minute_text(minute: int) -> str:
    """Render the part of a quoted timestamp that a minute's events share."""
    return f'"{instant(minute * MINUTE):%Y-%m-%dT%H:%M:}'


@cache
def second_texts() -> list[str]:
    """Render the rest of a quoted timestamp, for each millisecond of a minute."""
    return [f'{millis // 1000:02}.{millis % 1000:03}Z"' for millis in range(MINUTE)]


def millis_of(when: str | int | datetime) -> int:
    """Read an instant as milliseconds since 1970.

    Raises:
        ValueError: If a text is not ISO 8601.
    """
    if isinstance(when, int):
        return when
    if isinstance(when, str):
        when = datetime.fromisoformat(when.strip().replace("Z", "+00:00"))
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    since = when - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
