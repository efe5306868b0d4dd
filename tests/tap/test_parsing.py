"""Parsing a page: a body is a page as a whole, or invalid as a whole."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap_datasync.errors import InvalidBodyError
from tap_datasync.parsing import (
    MAX_CURSOR_CHARACTERS,
    MAX_CURSOR_LIFETIME_SECONDS,
    FetchedPage,
    parse_page,
)
from tap_datasync.rate_limit import RateLimitHeaders
from tap_datasync.timestamps import format_timestamp, parse_timestamp
from tap_helpers import MILLIS, NOON, body_of, event, page_of


def parsed(body: bytes) -> FetchedPage:
    return parse_page(body, requested_at=NOON, received_at=NOON, rate_limit=None)


def test_valid_page_is_parsed():
    body = body_of(event(0), event(1))
    page = parsed(body)
    assert [record.id for record in page.records] == ["id-000000", "id-000001"]
    assert page.records[0].timestamp == NOON
    assert (page.returned, page.has_more, page.next_cursor) == (2, True, "next")
    assert (page.expires_in, page.total, page.response_bytes) == (116, 1000, len(body))
    assert (page.rejections, page.unknown_fields, page.invalid_events) == ([], frozenset(), 0)


def test_page_truncated_anywhere_is_invalid():
    body = body_of(event(0, name="é\U0001f600\\u"), event(1, properties={"a": float("nan")}))
    for end in range(len(body)):
        with pytest.raises(InvalidBodyError):
            parsed(body[:end])
    assert parsed(body).returned == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"5",
        b"true",
        b'"text"',
        b"[]",
        b"{}",
        b"NaN",
        b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>",
        b"\xff\xfe\x00",
        b"\xef\xbb\xbf{}",
        b'{"data":[]}',
        b'{"data":null,"pagination":{},"meta":{"total":1}}',
        b'{"data":{},"pagination":{},"meta":{"total":1}}',
        b'{"data":[],"meta":{"total":1}}',
        b'{"data":[],"pagination":null,"meta":{"total":1}}',
        b'{"data":[],"pagination":[],"meta":{"total":1}}',
        b'{"data":[],"pagination":{}}',
        b'{"data":[],"pagination":{},"meta":null}',
        b'{"data":[],"pagination":{},"meta":{}}',
        b'{"data":[],"pagination":{},"meta":{"total":null}}',
        b'{"data":[],"pagination":{},"meta":{"total":"many"}}',
        b'{"data":[],"pagination":{},"meta":{"total":1.5}}',
        b'{"data":[],"pagination":{},"meta":{"total":-1}}',
        b'{"data":[],"pagination":{},"meta":{"total":NaN}}',
        b'{"data":[],"pagination":{},"meta":{"total":1e400}}',
        b'{"data":[],"pagination":{},"meta":{"total":100000000000000000000}}',
        b'{"data":[],"pagination":{},"meta":{"total":' + b"9" * 5000 + b"}}",
        b'{"data":[],"pagination":{},"meta":{"total":Infinity}}',
        b'{"data":[],"pagination":{"hasMore":"yes"},"meta":{"total":1}}',
        b'{"data":[],"pagination":{"nextCursor":5},"meta":{"total":1}}',
        b'{"data":[],"pagination":{"nextCursor":"\\ud800"},"meta":{"total":1}}',
        b'{"data":[],"pagination":{},"meta":{"total":1}} trailing',
        b'{"data":[,],"pagination":{},"meta":{"total":1}}',
        b'{"data":[],"pa\\xgination":{},"pagination":{},"meta":{"total":1}}',
    ],
)
def test_body_that_is_no_page_is_invalid(body):
    with pytest.raises(InvalidBodyError):
        parsed(body)


def test_deep_nesting_in_a_field_that_is_not_used_is_no_crash():
    """Python's version and the size of the stack decide whether the body can be read."""
    nested = b"[" * 10**5 + b"]" * 10**5
    with suppress(InvalidBodyError):
        page = parsed(b'{"data":[],"pagination":{"limit":' + nested + b'},"meta":{"total":1}}')
        assert page.total == 1


def test_page_with_fewer_events_than_stated_is_invalid():
    with pytest.raises(InvalidBodyError, match=r"has 1 events, but meta\.returned is 2"):
        parsed(body_of(event(), returned=2))
    assert parsed(body_of(event(), returned=...)).returned == 1
    assert parsed(body_of(event(), returned=None)).returned == 1


@pytest.mark.parametrize("name", ["hasMore", "nextCursor", "cursorExpiresIn"])
@pytest.mark.parametrize("value", [None, ...])
def test_missing_pagination_field_is_none(name, value):
    page = parsed(body_of(event(), **{name: value}))
    fields = (page.has_more, page.next_cursor, page.expires_in)
    assert fields[["hasMore", "nextCursor", "cursorExpiresIn"].index(name)] is None


def test_empty_cursor_is_none():
    assert parsed(body_of(event(), nextCursor="")).next_cursor is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("116", 116),
        ("0", 0),
        ("15.5", 15.5),
        ('"116"', 116),
        ("1e400", MAX_CURSOR_LIFETIME_SECONDS),
        ("9" * 5000, MAX_CURSOR_LIFETIME_SECONDS),
        *((value, None) for value in ("-1", "-1e400", "NaN", "Infinity", '"soon"', '"nan"')),
        *((value, None) for value in ("true", "[]", "{}", '"\\ud800"', '""', "null")),
    ],
)
def test_cursor_lifetime_is_a_number_or_unknown(value, seconds):
    body = body_of(event(), cursorExpiresIn="@@").replace(b'"@@"', value.encode())
    assert parsed(body).expires_in == seconds


def test_too_long_cursor_is_invalid():
    longest = "c" * MAX_CURSOR_CHARACTERS
    assert parsed(body_of(event(), nextCursor=longest)).next_cursor == longest
    with pytest.raises(InvalidBodyError, match="nextCursor is longer"):
        parsed(body_of(event(), nextCursor=longest + "c"))


def test_unknown_fields_are_bounded():
    many = {f"{'k' * 1000}{number:03}": 1 for number in range(500)}
    for page in (parsed(body_of(event(0, **many))), parsed(body_of(event(0, type=5, **many)))):
        assert 0 < len(page.unknown_fields) <= 20
        assert max(map(len, page.unknown_fields)) == 100


def test_large_page_is_not_parsed_event_by_event():
    """It would take many times its size in memory."""
    body = body_of("@@").replace(b'"@@"', b"0," * 2_100_000 + b"0")
    with pytest.raises(InvalidBodyError, match="too large"):
        parsed(body)


def test_metadata_of_the_request_is_kept():
    later, rate_limit = NOON + timedelta(seconds=3), RateLimitHeaders(10, 9, 60)
    page = parse_page(body_of(event()), requested_at=NOON, received_at=later, rate_limit=rate_limit)
    assert (page.requested_at, page.received_at, page.rate_limit) == (NOON, later, rate_limit)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
json_values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(), scalars)
numbers = st.sampled_from(["1e400", "-1e400", "9" * 5000, "-" + "9" * 5000, "1e-400", "0.0"])


@given(
    st.sampled_from(["limit", "hasMore", "nextCursor", "cursorExpiresIn", "total", "returned"]),
    json_values.map(json.dumps) | numbers,
)
def test_arbitrary_envelope_values_are_a_page_or_invalid(name, value):
    body = body_of(event(), **{name: "@@"}).replace(b'"@@"', value.encode())
    try:
        page = parsed(body)
    except InvalidBodyError:
        return
    assert page.returned == 1
    assert 0 <= page.total <= 2**53
    assert page.has_more in {None, True, False}
    assert page.next_cursor is None or page.next_cursor.encode()
    assert page.expires_in is None or 0 <= page.expires_in <= MAX_CURSOR_LIFETIME_SECONDS


@pytest.mark.parametrize("newline", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("invalid", [{}, {"name": float("nan")}, {"name": "\x00"}, {"more": 1}])
def test_objects_of_a_pretty_printed_page_are_on_one_line(newline, invalid):
    page = page_of(event(0), event(1, **invalid))
    pretty = parsed(json.dumps(page, indent=2).replace("\n", newline).encode())
    plain = parsed(json.dumps(page).encode())
    for record, other in zip(pretty.records, plain.records, strict=True):
        line = msgspec.json.encode(record)
        assert b"\n" not in line
        assert b"\r" not in line
        assert json.loads(line) == json.loads(msgspec.json.encode(other))


def test_unknown_fields_are_reported():
    page = parsed(body_of(event(0), event(1, zeta=1), event(2, alpha=[2])))
    assert page.unknown_fields == {"alpha", "zeta"}
    assert (page.returned, len(page.records), page.rejections) == (3, 3, [])


def test_unknown_fields_next_to_an_invalid_event_are_reported():
    page = parsed(body_of(event(0, type=5), event(1, zeta=1)))
    assert page.unknown_fields == {"zeta"}
    assert len(page.rejections) == 1


def test_unknown_parts_of_the_page_are_ignored():
    page = page_of(event(), offset=5) | {"links": {"self": "x"}}
    assert parsed(json.dumps(page).encode()).returned == 1


def test_invalid_events_do_not_affect_the_others():
    bad = [
        event(1, type=5),
        event(2, timestamp="yesterday"),
        event(3, properties={"a": float("nan")}),
        event(4, name="a\x00b"),
        event(5, id=...),
        event(6, session=None),
        "no object",
    ]
    page = parsed(body_of(event(0), *bad, event(9)))
    assert page.returned == 9
    assert [record.id for record in page.records] == [
        f"id-{number:06}" for number in (0, 1, 2, 3, 4, 6, 9)
    ]
    assert [json.loads(r.raw_event, strict=False) for r in page.rejections[:2]] == bad[:2]
    assert [r.event_id for r in page.rejections[:5]] == [*(f"id-{n:06}" for n in range(1, 5)), None]
    assert page.invalid_events == 6
    assert page.records[0] == parsed(body_of(event(0))).records[0]


def test_invalid_utf_8_is_replaced_with_an_error():
    page = parsed(body_of(event(0, name="@@"), event(1)).replace(b"@@", b"a\xffb"))
    assert page.records[0].name == "a\ufffdb"
    assert page.records[1] == parsed(body_of(event(1))).records[0]
    assert len(page.rejections) == 1
    assert page.rejections[0].errors == ["invalid UTF-8 replaced"]
    assert page.rejections[0].event_id == "id-000000"
    other = parsed(body_of(event(2, name="@@")).replace(b"@@", b"a\xffb"))
    assert other.rejections[0].rejection_id != page.rejections[0].rejection_id


def test_raw_event_has_no_raw_nul():
    page = parsed(body_of(event(0, name="@@")).replace(b"@@", b"a\x00b"))
    assert "\x00" not in page.rejections[0].raw_event
    assert json.loads(page.rejections[0].raw_event)["name"] == "a\x00b"


def test_raw_event_is_truncated():
    page = parsed(body_of(event(0, type=5, name="x" * 2_000_000)))
    assert len(page.rejections[0].raw_event) < 1_100_000
    assert page.rejections[0].raw_event.endswith("(truncated)")


def test_errors_of_an_event_are_bounded():
    bad = {f"{'k' * 1000}{number}": float("nan") for number in range(50)}
    errors = parsed(body_of(event(0, properties=bad))).rejections[0].errors
    assert len(errors) == 21
    assert max(map(len, errors)) == 300
    assert errors[-1] == "and 30 more"


def test_rejection_id_does_not_depend_on_the_timestamp_format():
    iso = "2026-01-27T12:00:00.000Z"
    spellings = [event(0, type=5, timestamp=spelling) for spelling in (MILLIS, iso, str(MILLIS))]
    ids = [parsed(body_of(each)).rejections[0].rejection_id for each in spellings]
    assert len(set(ids)) == 1
    assert len(ids[0]) == 64
    others = [event(0, type=6), event(0, type=5, timestamp=MILLIS + 1), event(1, type=5), "text"]
    ids += [parsed(body_of(each)).rejections[0].rejection_id for each in others]
    assert len(set(ids)) == 5


def test_response_bytes_is_the_size_of_the_received_body():
    body = json.dumps(page_of(event(0)), indent=2).encode()
    assert parsed(body).response_bytes == len(body)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("field", ["id", "name", "timestamp", "session"])
def test_page_with_nan_is_corrupted(field, number):
    body = body_of(event(0, **{field: "@@"}), event(1)).replace(b'"@@"', number.encode())
    page = parsed(body)
    assert page.corrupted
    assert any("not a JSON number" in error for error in page.rejections[0].errors)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_arbitrary_body_is_invalid(body):
    with pytest.raises(InvalidBodyError):
        parsed(body)


@given(st.data())
def test_page_with_one_byte_changed_is_a_page_or_invalid(data):
    body = bytearray(body_of(event(0), event(1, name="é\x00"), event(2)))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] = data.draw(st.integers(0, 255))
    try:
        page = parsed(bytes(body))
    except InvalidBodyError:
        return
    assert page.returned == 3
    kept = {record.id for record in page.records}
    rejected = [rejection for rejection in page.rejections if rejection.event_id is None]
    assert len(kept) + len(rejected) >= 2


def test_recorded_page_is_parsed_exactly(recordings):
    body = (recordings / "events-limit-10000.json").read_bytes()
    recorded = json.loads(body)
    page = parsed(body)
    assert (page.returned, page.total, page.has_more) == (5000, 3_000_000, True)
    assert page.next_cursor == recorded["pagination"]["nextCursor"]
    assert (page.rejections, page.unknown_fields) == ([], frozenset())
    assert len({record.id for record in page.records}) == 5000
    for record, raw in zip(page.records, recorded["data"], strict=True):
        row = json.loads(msgspec.json.encode(record))
        assert row == {
            "id": raw["id"],
            "session_id": raw["sessionId"],
            "user_id": raw["userId"],
            "type": raw["type"],
            "name": raw["name"],
            "properties": raw["properties"],
            "timestamp": row["timestamp"],
            "session": raw["session"],
        }
        assert parse_timestamp(row["timestamp"]) == parse_timestamp(raw["timestamp"])
        assert format_timestamp(record.timestamp)[:19] == row["timestamp"][:19]
    timestamps = [record.timestamp for record in page.records]
    assert timestamps == sorted(timestamps, reverse=True)
