"""Timestamps: every reported format becomes the same time in UTC."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap_datasync.parsing import EventRecord
from tap_datasync.timestamps import (
    EPOCH,
    format_timestamp,
    from_milliseconds,
    parse_timestamp,
)

TIMESTAMP = datetime(2026, 1, 27, 19, 20, 12, 369000, tzinfo=timezone.utc)
WHOLE = TIMESTAMP.replace(microsecond=0)

timestamps = st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31)).map(  # noqa: DTZ001 - hypothesis wants naive bounds
    lambda timestamp: timestamp.replace(tzinfo=timezone.utc)
)


@pytest.mark.parametrize(
    "value",
    [
        *(1769541612369, 1769541612369.0, 1769541612.369, 1769541612369000),
        *("1769541612369", "1769541612.369", "1769541612369000", "+1769541612369"),
        " 1769541612369 ",
        *(f"2026-01-27{separator}19:20:12.369Z" for separator in ("T", "t", " ")),
        *(f"2026-01-27T19:20:12{fraction}" for fraction in (".369z", ".369", ",369Z", ".369000Z")),
        *(f"2026-01-27T21:20:12.369{offset}" for offset in ("+02:00", "+0200", " +02")),
        "2026-01-27T13:50:12.369-05:30",
        "2026-01-27T19:20:12.369-00:00",
        "\u200b2026-01-27T19:20:12.369Z",
        "2026-01-27T\u200d19:20:12.369Z\ufeff",
        "2026-01-27T19:20:12\x00.369Z\x07\n",
        TIMESTAMP,
        TIMESTAMP.astimezone(timezone(timedelta(hours=9))),
        TIMESTAMP.replace(tzinfo=None),
    ],
)
def test_every_reported_format_is_the_same_time(value):
    parsed = parse_timestamp(value)
    assert parsed == TIMESTAMP
    assert parsed.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1769541612, WHOLE),
        ("1769541612", WHOLE),
        ("2026-01-27T19:20:12Z", WHOLE),
        ("2026-01-27T19:20Z", WHOLE.replace(second=0)),
        ("2026-01-27", WHOLE.replace(hour=0, minute=0, second=0)),
        ("2026-01-27T19:20:12.1Z", WHOLE.replace(microsecond=100000)),
        (0, EPOCH),
        (-1, EPOCH - timedelta(seconds=1)),
        ("2026-06-30T23:59:60Z", datetime(2026, 7, 1, tzinfo=timezone.utc)),
        ("2026-06-30T23:59:60.5Z", datetime(2026, 7, 1, tzinfo=timezone.utc)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=timezone.utc)),
        ("9999-12-31T23:59:59.999999Z", datetime(9999, 12, 31, 23, 59, 59, 999999, timezone.utc)),
    ],
)
def test_bounds_and_short_forms(value, expected):
    assert parse_timestamp(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, [], {}, b"2026-01-27"),
        datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5))),
        *("", "   ", "yesterday", "NaN", "Infinity", "1e400"),
        *(float("nan"), float("inf"), -float("inf"), 10**20, -(10**20), -(10**13) * 9, "9" * 30),
        *("2026-13-01", "2026-02-30T00:00:00Z", "2026-01-27T24:00:00Z", "2026-01-27T19:60:00Z"),
        *("2026-01-27T19:20:61Z", "2026-01-27T19:20:12ZZ", "2026-01-27X19:20:12Z"),
        *("20260127T192012Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00"),
        *("9999-12-31T23:59:59-01:00", "9999-12-31T23:59:60Z", "12026-01-27T19:20:12Z"),
    ],
)
def test_invalid_timestamp_raises_value_error(value):
    with pytest.raises(ValueError, match=r"\w"):
        parse_timestamp(value)


@given(timestamps)
def test_text_round_trip(timestamp):
    text = format_timestamp(timestamp)
    assert len(text) == 27
    assert parse_timestamp(text) == timestamp


@given(st.integers(10**11, 10**14 - 1))
def test_millisecond_round_trip(value):
    timestamp = parse_timestamp(value)
    assert timestamp == from_milliseconds(value)
    assert (timestamp - EPOCH) // timedelta(milliseconds=1) == value


@given(timestamps, st.integers(-23 * 60, 23 * 60))
def test_offset_does_not_change_the_time(timestamp, minutes):
    sign = "-" if minutes < 0 else "+"
    local = f"{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    text = timestamp.replace(tzinfo=None).isoformat() + local
    try:
        expected = timestamp - timedelta(minutes=minutes)
    except OverflowError:
        with pytest.raises(ValueError, match="outside"):
            parse_timestamp(text)
    else:
        assert parse_timestamp(text) == expected


@given(st.one_of(st.text(max_size=40), st.floats(), st.integers(), st.none(), st.booleans()))
def test_arbitrary_value_is_utc_or_a_value_error(value):
    try:
        timestamp = parse_timestamp(value)
    except ValueError:
        return
    assert timestamp.utcoffset() == timedelta(0)


@given(timestamps)
def test_records_are_encoded_with_utc_timestamps(timestamp):
    record = EventRecord("a", None, None, None, None, None, timestamp, None)
    written = msgspec.json.decode(msgspec.json.encode(record))["timestamp"]
    assert written.endswith("Z")
    assert parse_timestamp(written) == timestamp
