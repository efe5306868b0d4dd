"""Timestamps in every format that the API is known to use, converted to UTC.

Documented are integer Unix milliseconds and ISO 8601; reported were also seconds,
microseconds, numeric strings, a space instead of ``T``, no zone, an offset, and
zero-width or control characters inside.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

# A number's unit follows from its size: each unit then covers the years 1973 to 5138.
_SECONDS_BELOW = 10**11
_MILLISECONDS_BELOW = 10**14
_MICROSECONDS_BELOW = 10**17

_NUMBER = re.compile(r"[+-]?\d{1,20}(?:\.\d{1,20})?")
_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[Tt ]+(\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,6})\d*)?)?"
    r" ?(?:([Zz])|([+-])(\d\d):?(\d\d)?)?)?"
)


def parse_timestamp(value: object) -> datetime:
    """Convert a timestamp of the API to an aware datetime in UTC.

    Args:
        value: A number or a string. A number below 1e11 counts seconds, below 1e14
            milliseconds, below 1e17 microseconds.

    Returns:
        The timestamp, to the microsecond.

    Raises:
        ValueError: The value is not a timestamp, or outside the years 1 to 9999.
    """
    if isinstance(value, datetime):
        return to_utc(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        message = "not a timestamp"
        raise ValueError(message)  # noqa: TRY004 - every unusable value is the same error
    if isinstance(value, str):
        text = strip_invisible(value)
        if not _NUMBER.fullmatch(text):
            return _parse_iso(text)
        value = float(text) if "." in text else int(text)
    return _from_number(value)


def strip_invisible(text: str) -> str:
    """Return the text without control and zero-width characters, and trimmed."""
    return "".join(c for c in text if unicodedata.category(c)[0] != "C").strip()


def to_utc(value: datetime) -> datetime:
    """Return the datetime in UTC; one without a zone is UTC.

    Raises:
        ValueError: The shift to UTC leaves the years 1 to 9999.
    """
    if value.tzinfo is None:
        return value.replace(tzinfo=timezone.utc)
    try:
        return value.astimezone(timezone.utc)
    except OverflowError as error:
        message = "outside the years 1 to 9999"
        raise ValueError(message) from error


def from_milliseconds(value: int) -> datetime:
    """Convert a whole number of Unix milliseconds, exactly."""
    return EPOCH + timedelta(milliseconds=value)


def format_timestamp(value: datetime) -> str:
    """Return an aware UTC datetime as RFC 3339, e.g. ``2026-01-27T19:20:12.369000Z``."""
    return value.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ").zfill(27)


def _from_number(value: float) -> datetime:
    size = abs(value)
    try:
        if size < _SECONDS_BELOW:
            return EPOCH + timedelta(seconds=value)
        if size < _MILLISECONDS_BELOW:
            return EPOCH + timedelta(milliseconds=value)
        if size < _MICROSECONDS_BELOW:
            return EPOCH + timedelta(microseconds=value)
    except (OverflowError, ValueError) as error:
        message = "outside the years 1 to 9999"
        raise ValueError(message) from error
    message = "too large for a timestamp"
    raise ValueError(message)


def _parse_iso(text: str) -> datetime:
    match = _ISO.fullmatch(text)
    if not match:
        message = "not a timestamp"
        raise ValueError(message)
    year, month, day, hour, minute, second, fraction, _, sign, *offset = match.groups()
    try:
        local = datetime(
            int(year),
            int(month),
            int(day),
            int(hour or 0),
            int(minute or 0),
            # Unix time has no leap seconds: it becomes the start of the next minute.
            min(int(second or 0), 59),
            int((fraction or "").ljust(6, "0")),
            tzinfo=timezone.utc,
        )
        if second == "60":
            local = local.replace(microsecond=0) + timedelta(seconds=1)
        elif second and int(second) > 60:  # noqa: PLR2004 - seconds in a minute
            message = "not a timestamp"
            raise ValueError(message)
        if sign:
            shift = timedelta(hours=int(offset[0]), minutes=int(offset[1] or 0))
            local = local - shift if sign == "+" else local + shift
    except OverflowError as error:
        message = "outside the years 1 to 9999"
        raise ValueError(message) from error
    return local
