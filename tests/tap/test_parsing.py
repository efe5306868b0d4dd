"""Parsing: a body is a page or invalid as a whole; an invalid event does not cost the others."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap_datasync import parsing
from tap_datasync.errors import InvalidBodyError
from tap_datasync.parsing import (
    DOCUMENTED_FIELDS,
    MAX_CURSOR_CHARACTERS,
    MAX_CURSOR_LIFETIME_SECONDS,
    FetchedPage,
    ParsedEvent,
    parse_event,
    parse_page,
)
from tap_datasync.rate_limit import RateLimitHeaders

from tests.tap.tap_helpers import MILLIS, NOON, body_of, event, page_of

COLUMNS = {"sessionId": "session_id", "userId": "user_id"}
"""Fields whose column has another name."""

TEXT_FIELDS = ("sessionId", "userId", "type", "name")
OBJECT_FIELDS = ("properties", "session")


def parsed(**changes: Any) -> ParsedEvent:
    return parse_event(json.dumps(event(**changes)))


def parsed_with(name: str, value: str) -> ParsedEvent:
    """Parse an event in which one field's value is this JSON text."""
    return parse_event(json.dumps(event(**{name: "@@"})).replace('"@@"', value))


def column_of(result: ParsedEvent, name: str) -> Any:
    return getattr(result.record, COLUMNS.get(name, name))


def decoded(raw: msgspec.Raw | None) -> Any:
    assert isinstance(raw, msgspec.Raw)
    return json.loads(bytes(raw), parse_float=Decimal, parse_int=Decimal)


def page_from(body: bytes) -> FetchedPage:
    return parse_page(body, requested_at=NOON, received_at=NOON, rate_limit=None)


def body_with(name: str, value: str) -> bytes:
    """Return a page in which one field of the envelope is this JSON text, as Latin-1."""
    return body_of(event(), **{name: "@@"}).replace(b'"@@"', value.encode("latin-1"))


# ------------------------------------------------------------------ one event


@pytest.mark.parametrize("name", sorted(DOCUMENTED_FIELDS - {"id"}))
@pytest.mark.parametrize(("value", "error"), [(..., "missing"), (None, "null")])
def test_a_field_without_a_value_is_null_with_an_error_that_does_not_make_it_invalid(
    name, value, error
):
    result = parsed(**{name: value})
    assert result.errors == [f"{name}: {error}"]
    assert not result.invalid
    assert column_of(result, name) is None


INVALID_VALUES = [
    *((name, text, "not a string") for name in TEXT_FIELDS for text in ("5", "1.5", "[]", "{}")),
    *((name, '"' + "x" * 70_000 + '"', "longer than 65536 characters") for name in TEXT_FIELDS),
    *(
        (name, text, "not an object")
        for name in OBJECT_FIELDS
        for text in ('""', '"text"', "0", "1.5", "false", "[]", "[1]")
    ),
    # Its exponent is beyond those of decimals.
    ("properties", '{"a": 1e9999999999999999999}', "cannot be read"),
    *(("timestamp", text, "") for text in ('"yesterday"', "true", "[]", "{}", '""', "1e300")),
    *(("timestamp", text, "") for text in ("1e400", "NaN", "Infinity", "9" * 1500)),
]


@pytest.mark.parametrize(("name", "text", "error"), INVALID_VALUES)
def test_a_value_of_another_type_is_null_with_an_error(name, text, error):
    result = parsed_with(name, text)
    assert column_of(result, name) is None
    (found,) = result.errors
    assert found.startswith(f"{name}: {error}")
    assert result.invalid


@pytest.mark.parametrize("name", OBJECT_FIELDS)
def test_an_empty_object_is_valid(name):
    assert decoded(column_of(parsed(**{name: {}}), name)) == {}
    assert decoded(column_of(parsed(**{name: {}, "type": 5}), name)) == {}


@pytest.mark.parametrize("number", ["1", "-7", "0", "123456789012345678901234567890"])
def test_a_whole_number_as_id_is_kept_as_text(number):
    result = parsed_with("id", number)
    assert result.record.id == number
    assert result.errors == ["id: a number, kept as text"]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, "missing"),
        ("null", "null"),
        ('""', "empty"),
        ('"' + "x" * 501 + '"', "longer than 500 characters"),
        ("NaN", "nan is not a JSON number"),
        *((value, "not a string") for value in ("false", "1.5", "1e5", "[]", '{"a": 1}')),
        *((value, "not a string") for value in ("9" * 2000, "nonsense")),
    ],
)
def test_an_event_without_usable_id_has_errors_but_no_record(value, error):
    result = parsed(id=...) if value is None else parsed_with("id", value)
    assert result.record is None
    assert f"id: {error}" in result.errors
    assert result.invalid


def test_the_longest_id_is_kept():
    assert parsed(id="é" * 500).record.id == "é" * 500


@pytest.mark.parametrize(
    "value",
    [
        *map(str, (MILLIS, MILLIS // 1000, MILLIS * 1000, f"{MILLIS}.0", "1.7695152e12")),
        *(f'"{MILLIS}"', '"2026-01-27 12:00:00"', '"2026-01-27T13:00:00+01:00"'),
    ],
)
def test_a_timestamp_in_any_known_format_is_valid(value):
    result = parsed_with("timestamp", value)
    assert result.record.timestamp == NOON
    assert result.errors == []


def test_invisible_characters_in_a_timestamp_are_removed_with_an_error():
    result = parsed(timestamp="2026-01-27T12:\u200b00:00Z")
    assert result.record.timestamp == NOON
    assert result.errors == ["timestamp: invisible characters removed"]
    assert not result.invalid


def test_both_parsers_of_fractions_agree_within_a_microsecond():
    text = "2026-01-27T12:00:00.1234567Z"
    quick = parsed(timestamp=text).record.timestamp
    slow = parsed(timestamp=text, type=5).record.timestamp
    assert quick is not None
    assert slow is not None
    assert abs(quick - slow) <= timedelta(microseconds=1)


UNSTORABLE = ["\\u0000", "\\ud800", "\\udc00", "\\udfff\\ud800", "\\uD800x"]


@pytest.mark.parametrize("bad", UNSTORABLE)
@pytest.mark.parametrize("name", ["id", *TEXT_FIELDS])
def test_nul_and_lone_surrogates_in_text_are_replaced_with_an_error(bad, name):
    result = parsed_with(name, f'"a{bad}b"')
    assert result.errors == [f"{name}: NUL or lone surrogate replaced"]
    value = column_of(result, name)
    assert value.startswith("a\ufffd")
    assert value.endswith("b")
    msgspec.json.encode(result.record).decode()


@pytest.mark.parametrize("bad", UNSTORABLE)
@pytest.mark.parametrize(
    "template",
    [
        '{"%": 1}',
        '{"a": {"b": [{"c": "%"}]}}',
        '{"a": [[[{"%": {}}]]]}',
        '{"good": 0.12345678901234567890123, "a": "%"}',
    ],
)
def test_nul_and_lone_surrogates_are_replaced_at_any_depth(bad, template):
    result = parsed_with("properties", template.replace("%", f"x{bad}y"))
    (error,) = result.errors
    assert "NUL or lone surrogate replaced" in error
    text = bytes(column_of(result, "properties")).decode()
    assert "\\u0000" not in text
    assert "\x00" not in text
    assert "x\ufffd" in text
    text.encode()
    if "good" in template:
        assert "0.12345678901234567890123" in text


@pytest.mark.parametrize("good", ["\\ud83d\\ude00", "\\\\u0000", "\\\\ud800", "\\u00e9", "\\uFFFD"])
def test_surrogate_pairs_and_escaped_backslashes_are_valid(good):
    result = parsed_with("properties", f'{{"a":"{good}"}}')
    assert result.errors == []
    assert bytes(column_of(result, "properties")) == f'{{"a":"{good}"}}'.encode()


def test_raw_control_characters_except_nul_are_kept():
    assert parsed_with("name", '"a\tb"').record.name == "a\tb"
    assert parsed_with("name", '"a\x00b"').record.name == "a\ufffdb"
    properties = column_of(parsed_with("properties", '{"a": "b\tc"}'), "properties")
    assert bytes(properties) == b'{"a":"b\\tc"}'


@pytest.mark.parametrize(
    "number",
    [
        *("0.12345678901234567890123", "123456789012345678901234567890", "1e400", "-1E-400"),
        *("18446744073709551616", "1.10", "100000000000000000000000.5"),
    ],
)
@pytest.mark.parametrize("invalid", [False, True])
def test_numbers_are_kept_exactly(number, invalid):
    bad = ', "x": "\\u0000"' if invalid else ""
    result = parsed_with("properties", f'{{"a": {number}{bad}}}')
    assert decoded(column_of(result, "properties"))["a"] == Decimal(number)
    assert bool(result.errors) is invalid


@pytest.mark.parametrize(
    ("number", "word"),
    [
        *(("NaN", "nan"), ("Infinity", "inf"), ("-Infinity", "-inf")),
        *((number, "out of range") for number in ("1e5000", "1e-5000", "0." + "0" * 1500 + "1")),
    ],
)
@pytest.mark.parametrize("template", ['{"a": %}', '{"a": {"b": [1, %]}}'])
def test_numbers_out_of_range_become_null_with_an_error(number, word, template):
    result = parsed_with("properties", template.replace("%", number))
    (error,) = result.errors
    assert word in error
    found = decoded(column_of(result, "properties"))
    assert found in ({"a": None}, {"a": {"b": [Decimal(1), None]}})


@pytest.mark.parametrize("depth", [101, 5000, 100_000])
def test_deep_nesting_keeps_the_record(depth):
    text = f'{{"a":{"[" * depth}{"]" * depth}}}'
    source = json.dumps(event(properties="@@")).replace('"@@"', text)
    for bad in ("", ', "type": 5'):
        result = parse_event(source[:-1] + bad + "}")
        assert result.record.id == "id-000000"
        msgspec.json.encode(result.record)


def test_a_sanitized_object_is_cut_at_a_depth_with_an_error():
    text = '{"x":"\\u0000","a":' + "[" * 150 + "]" * 150 + "}"
    result = parsed_with("properties", text)
    assert any("nested deeper" in error for error in result.errors)
    assert column_of(result, "properties") is not None


@pytest.mark.parametrize("text", ["x" * 200, "é" * 60])
def test_a_too_long_object_is_null_with_an_error(text, monkeypatch):
    monkeypatch.setattr(parsing, "MAX_OBJECT_BYTES", 100)
    result = parsed_with("properties", f'{{"a": "{text}"}}')
    assert column_of(result, "properties") is None
    assert result.errors == ["properties: longer than 100 bytes"]
    assert column_of(result, "session") is not None


@pytest.mark.parametrize("newline", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize(
    "invalid", [{}, {"name": float("nan")}, {"name": "\x00"}, {"type": 5}, {"more": 1}]
)
def test_records_of_a_pretty_printed_page_are_on_one_line(newline, invalid):
    page = page_of(event(0), event(1, **invalid))
    pretty = page_from(json.dumps(page, indent=2).replace("\n", newline).encode())
    plain = page_from(json.dumps(page).encode())
    for record, other in zip(pretty.records, plain.records, strict=True):
        line = msgspec.json.encode(record)
        assert b"\n" not in line
        assert b"\r" not in line
        assert json.loads(line) == json.loads(msgspec.json.encode(other))


@pytest.mark.parametrize("text", ["null", "5", "[1]", "NaN", "", "{", '{"id": "a"', "{1: 2}"])
def test_an_event_that_is_not_an_object_is_rejected(text):
    result = parse_event(text)
    assert result.record is None
    assert result.errors == ["the event is not a JSON object"]
    assert result.invalid


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(sorted(DOCUMENTED_FIELDS)) | st.text(max_size=5), values))
def test_an_event_with_an_id_always_becomes_a_record(fields):
    result = parse_event(json.dumps(fields))
    identifier = fields.get("id")
    if isinstance(identifier, str) and identifier:
        assert len(result.record.id) == len(identifier)
    if result.record is None:
        assert result.errors
    else:
        line = msgspec.json.encode(result.record)
        assert b"\n" not in line
        assert "\x00" not in json.dumps(json.loads(line), ensure_ascii=False)
        line.decode()


@given(
    st.dictionaries(st.text(), values), st.sampled_from(sorted(DOCUMENTED_FIELDS - {"properties"}))
)
def test_a_valid_object_is_kept_next_to_an_invalid_field(properties, invalid):
    clean = json.loads(json.dumps(properties), parse_constant=lambda _: None)
    text = json.dumps(event(properties=clean, **{invalid: []}))
    result = parse_event(text)
    if result.record is not None and "\\u" not in text:
        assert json.loads(bytes(column_of(result, "properties"))) == clean


@given(st.text())
def test_arbitrary_text_is_a_record_or_has_errors(text):
    result = parse_event(text)
    assert (result.record is not None) or result.errors


# ------------------------------------------------------------------ the page


def test_a_valid_page_is_parsed():
    body = json.dumps(page_of(event(0), event(1)), indent=2).encode()
    later, rate_limit = NOON + timedelta(seconds=3), RateLimitHeaders(10, 9, 60)
    page = parse_page(body, requested_at=NOON, received_at=later, rate_limit=rate_limit)
    assert [record.id for record in page.records] == ["id-000000", "id-000001"]
    assert page.records[0].timestamp == NOON
    assert (page.returned, page.has_more, page.next_cursor) == (2, True, "next")
    assert (page.expires_in, page.total, page.response_bytes) == (116, 1000, len(body))
    assert (page.rejections, page.unknown_fields, page.invalid_events) == ([], frozenset(), 0)
    assert (page.requested_at, page.received_at, page.rate_limit) == (NOON, later, rate_limit)


def test_a_page_truncated_anywhere_is_invalid():
    body = body_of(event(0, name="é\U0001f600\\u"), event(1, properties={"a": float("nan")}))
    for end in range(len(body)):
        with pytest.raises(InvalidBodyError):
            page_from(body[:end])
    assert page_from(body).returned == 2


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"null", b"5", b'"text"', b"[]", b"{}", b"NaN", b"\xff\xfe\x00"),
        b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>",
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
        b'{"data":[],"pagination":{"nextCursor":"\\ud800"},"meta":{"total":1}}',
        b'{"data":[],"pagination":{},"meta":{"total":1}} trailing',
        b'{"data":[,],"pagination":{},"meta":{"total":1}}',
        b'{"data":[],"pa\\xgination":{},"pagination":{},"meta":{"total":1}}',
    ],
)
def test_a_body_that_is_no_page_is_invalid(body):
    with pytest.raises(InvalidBodyError):
        page_from(body)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("total", value) for value in ("null", '"many"', "1.5", "-1", "NaN", "1e400")),
        *(("total", value) for value in ("Infinity", "1" + "0" * 20, "9" * 5000)),
        *(("hasMore", '"yes"'), ("nextCursor", "5"), ("returned", "2")),
        ("nextCursor", '"' + "c" * (MAX_CURSOR_CHARACTERS + 1) + '"'),
    ],
)
def test_a_page_with_an_invalid_envelope_is_invalid(name, value):
    with pytest.raises(InvalidBodyError):
        page_from(body_with(name, value))


def test_deep_nesting_in_a_field_that_is_not_used_is_no_crash():
    """Python's version and the size of the stack decide whether the body can be read."""
    with suppress(InvalidBodyError):
        page = page_from(body_with("limit", "[" * 10**5 + "]" * 10**5))
        assert page.total == 1000


@pytest.mark.parametrize("value", [None, ...])
def test_a_missing_field_of_the_envelope_is_none(value):
    names = ["hasMore", "nextCursor", "cursorExpiresIn", "returned"]
    page = page_from(body_of(event(), **dict.fromkeys(names, value)))
    assert (page.has_more, page.next_cursor, page.expires_in, page.returned) == (None,) * 3 + (1,)


def test_the_longest_cursor_is_kept_and_an_empty_one_is_none():
    longest = "c" * MAX_CURSOR_CHARACTERS
    assert page_from(body_of(event(), nextCursor=longest)).next_cursor == longest
    assert page_from(body_of(event(), nextCursor="")).next_cursor is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *(("116", 116), ("0", 0), ("15.5", 15.5), ('"116"', 116)),
        *((value, MAX_CURSOR_LIFETIME_SECONDS) for value in ("1e400", "9" * 5000)),
        *((value, None) for value in ("-1", "-1e400", "NaN", "Infinity", '"soon"', '"nan"')),
        *((value, None) for value in ("true", "[]", "{}", '"\\ud800"', '""', "null", '"\xff"')),
    ],
)
def test_the_lifetime_of_a_cursor_is_a_number_or_unknown(value, seconds):
    assert page_from(body_with("cursorExpiresIn", value)).expires_in == seconds


json_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
numbers = st.sampled_from(["1e400", "-1e400", "9" * 5000, "-" + "9" * 5000, "1e-400", "[]", "{}"])


@given(
    st.sampled_from(["limit", "hasMore", "nextCursor", "cursorExpiresIn", "total", "returned"]),
    json_values.map(json.dumps) | numbers,
)
def test_arbitrary_values_of_the_envelope_are_a_page_or_invalid(name, value):
    try:
        page = page_from(body_with(name, value))
    except InvalidBodyError:
        return
    assert page.returned == 1
    assert 0 <= page.total <= 2**53
    assert page.has_more in {None, True, False}
    assert page.next_cursor is None or page.next_cursor.encode()
    assert page.expires_in is None or 0 <= page.expires_in <= MAX_CURSOR_LIFETIME_SECONDS


@pytest.mark.parametrize("changes", [{}, {"type": 5}])
def test_unknown_fields_are_reported_and_bounded(changes):
    """On a page of valid events, and next to an invalid one."""
    page = page_from(body_of(event(0, **changes), event(1, zeta=1), event(2, alpha=[2])))
    assert page.unknown_fields == {"alpha", "zeta"}
    assert len(page.records) == 3
    assert len(page.rejections) == len(changes)
    many = {f"{'k' * 1000}{number:03}": 1 for number in range(500)}
    page = page_from(body_of(event(0, **changes, **many)))
    assert 0 < len(page.unknown_fields) <= 20
    assert max(map(len, page.unknown_fields)) == 100


def test_unknown_parts_of_the_page_are_ignored():
    page = page_of(event(), offset=5) | {"links": {"self": "x"}}
    assert page_from(json.dumps(page).encode()).returned == 1


def test_a_large_page_is_not_parsed_event_by_event():
    """It would take many times its size in memory."""
    body = body_of("@@").replace(b'"@@"', b"0," * 2_100_000 + b"0")
    with pytest.raises(InvalidBodyError, match="too large"):
        page_from(body)


# ------------------------------------------------------------------ rejected events


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
    page = page_from(body_of(event(0), *bad, event(9)))
    assert page.returned == 9
    assert [record.id for record in page.records] == [
        f"id-{number:06}" for number in (0, 1, 2, 3, 4, 6, 9)
    ]
    assert [json.loads(r.raw_event, strict=False) for r in page.rejections[:2]] == bad[:2]
    assert [r.event_id for r in page.rejections[:5]] == [*(f"id-{n:06}" for n in range(1, 5)), None]
    assert page.invalid_events == 6
    assert page.records[0] == page_from(body_of(event(0))).records[0]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("field", ["id", "name", "timestamp", "session"])
def test_a_page_with_nan_is_corrupted(field, number):
    body = body_of(event(0, **{field: "@@"}), event(1)).replace(b'"@@"', number.encode())
    page = page_from(body)
    assert page.corrupted
    assert any("not a JSON number" in error for error in page.rejections[0].errors)


def test_invalid_utf_8_is_replaced_with_an_error():
    page = page_from(body_of(event(0, name="@@"), event(1)).replace(b"@@", b"a\xffb"))
    assert page.corrupted
    assert page.records[0].name == "a\ufffdb"
    assert page.records[1] == page_from(body_of(event(1))).records[0]
    (rejection,) = page.rejections
    assert rejection.errors == ["invalid UTF-8 replaced"]
    assert rejection.event_id == "id-000000"
    other = page_from(body_of(event(2, name="@@")).replace(b"@@", b"a\xffb"))
    assert other.rejections[0].rejection_id != rejection.rejection_id


def test_invalid_utf_8_is_found_on_a_page_that_is_no_json_either():
    body = body_of(event(0, name="@@"), event(1, name="##"))
    page = page_from(body.replace(b"@@", b"a\xffb").replace(b'"##"', b"NaN"))
    assert page.rejections[0].errors == ["invalid UTF-8 replaced"]


def test_a_raw_event_has_no_raw_nul():
    page = page_from(body_of(event(0, name="@@")).replace(b"@@", b"a\x00b"))
    assert "\x00" not in page.rejections[0].raw_event
    assert json.loads(page.rejections[0].raw_event)["name"] == "a\x00b"


def test_a_raw_event_and_its_errors_are_bounded():
    numbers = {f"{'k' * 1000}{number}": float("nan") for number in range(50)}
    page = page_from(body_of(event(0, properties=numbers, name="x" * 2_000_000)))
    (rejection,) = page.rejections
    assert len(rejection.raw_event) < 1_100_000
    assert rejection.raw_event.endswith("(truncated)")
    assert len(rejection.errors) == 21
    assert max(map(len, rejection.errors)) == 300
    assert rejection.errors[-1] == "and 31 more"


def test_a_rejection_id_does_not_depend_on_the_timestamp_format():
    iso = "2026-01-27T12:00:00.000Z"
    spellings = [event(0, type=5, timestamp=spelling) for spelling in (MILLIS, iso, str(MILLIS))]
    ids = [page_from(body_of(each)).rejections[0].rejection_id for each in spellings]
    assert len(set(ids)) == 1
    assert len(ids[0]) == 64
    others = [event(0, type=6), event(0, type=5, timestamp=MILLIS + 1), event(1, type=5), "text"]
    ids += [page_from(body_of(each)).rejections[0].rejection_id for each in others]
    assert len(set(ids)) == 5


# ------------------------------------------------------------------ any body


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_an_arbitrary_body_is_invalid(body):
    with pytest.raises(InvalidBodyError):
        page_from(body)


@given(st.data())
def test_a_page_with_one_byte_changed_is_a_page_or_invalid(data):
    body = bytearray(body_of(event(0), event(1, name="é\x00"), event(2)))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] = data.draw(st.integers(0, 255))
    try:
        page = page_from(bytes(body))
    except InvalidBodyError:
        return
    assert page.returned == 3
    rejected = [rejection for rejection in page.rejections if rejection.event_id is None]
    assert len({record.id for record in page.records}) + len(rejected) >= 2
