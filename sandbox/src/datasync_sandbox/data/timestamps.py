"""Timestamps as the API writes them: milliseconds since 1970, or ISO 8601 with milliseconds."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def from_millis(millis: int) -> datetime:
    """Return the aware UTC datetime of milliseconds since 1970, exactly."""
    return _EPOCH + timedelta(milliseconds=millis)


def to_millis(when: str | datetime) -> int:
    """Return milliseconds since 1970 of ISO 8601 or a datetime, by default in UTC.

    Raises:
        ValueError: If a text is not ISO 8601.
    """
    if isinstance(when, str):
        when = datetime.fromisoformat(when.strip().replace("Z", "+00:00"))
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return (when - _EPOCH) // timedelta(milliseconds=1)


def isoformat(millis: int) -> str:
    """Return milliseconds since 1970 as the API writes them: ``2026-01-27T19:20:12.369Z``."""
    minute, rest = divmod(millis, 60_000)
    return f"{_minute_text(minute)}{rest // 1000:02}.{rest % 1000:03}Z"


@lru_cache(maxsize=4096)  # neighbours of a page share their minutes
def _minute_text(minute: int) -> str:
    return f"{_EPOCH + timedelta(minutes=minute):%Y-%m-%dT%H:%M:}"
