"""Parsing one event: valid values are kept exactly, invalid ones become null with an error."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap_datasync import parsing as events_module
from tap_datasync.lenient_json import has_suspicious_escape
from tap_datasync.parsing import DOCUMENTED_FIELDS, EventRecord, ParsedEvent, parse_event
from tap_helpers import MILLIS, NOON, event

TEXT_FIELDS = ("sessionId", "userId", "type", "name")
COLUMNS = dict(zip(("session_id", "user_id", "type", "name"), TEXT_FIELDS, strict=True))


def parsed(**changes: Any) -> ParsedEvent:
    return parse_event(json.dumps(event(**changes)))


def parsed_with(name: str, value: str) -> ParsedEvent:
    """Parse an event in which one field's value is this JSON text."""
    return parse_event(json.dumps(event(**{name: "@@"})).replace('"@@"', value))


def record_of(result: ParsedEvent) -> EventRecord:
    assert result.record is not None
    return result.record


def decoded(raw: msgspec.Raw | None) -> Any:
    assert isinstance(raw, msgspec.Raw)
    return json.loads(bytes(raw), parse_float=Decimal, parse_int=Decimal)


def line_of(record: EventRecord) -> bytes:
    return msgspec.json.encode(record)


def test_documented_event_becomes_a_record():
    result = parsed()
    record = record_of(result)
    assert (result.errors, result.unknown_fields, result.invalid) == ([], frozenset(), False)
    assert (record.id, record.timestamp) == ("id-000000", NOON)
    for column, name in COLUMNS.items():
        assert getattr(record, column) == event()[name]
    assert decoded(record.properties) == event()["properties"]
    assert decoded(record.session) == event()["session"]


@pytest.mark.parametrize("name", sorted(DOCUMENTED_FIELDS - {"id"}))
def test_missing_field_is_null_with_an_error(name):
    result = parsed(**{name: ...})
    assert result.errors == [f"{name}: missing"]
    assert not result.invalid
    column = {v: k for k, v in COLUMNS.items()}.get(name, name)
    assert getattr(record_of(result), column) is None


@pytest.mark.parametrize("name", sorted(DOCUMENTED_FIELDS - {"id"}))
def test_null_field_is_null(name):
    column = {v: k for k, v in COLUMNS.items()}.get(name, name)
    assert getattr(record_of(parsed(**{name: None})), column) is None


@pytest.mark.parametrize("name", TEXT_FIELDS)
@pytest.mark.parametrize("value", [5, 1.5, True, [], {}, ["a"], {"a": 1}])
def test_text_of_another_type_is_null_with_an_error(name, value):
    result = parsed(**{name: value})
    assert result.errors == [f"{name}: not a string"]
    assert result.invalid
    assert getattr(record_of(result), {v: k for k, v in COLUMNS.items()}[name]) is None


@pytest.mark.parametrize("name", ["properties", "session"])
@pytest.mark.parametrize("value", ["", "text", 0, 5, 1.5, True, False, [], [1]])
def test_object_of_another_type_is_null_with_an_error(name, value):
    result = parsed(**{name: value})
    assert result.errors == [f"{name}: not an object"]
    assert getattr(record_of(result), name) is None


@pytest.mark.parametrize("name", ["properties", "session"])
def test_empty_object_is_valid(name):
    assert decoded(getattr(record_of(parsed(**{name: {}})), name)) == {}
    assert decoded(getattr(record_of(parsed(**{name: {}, "type": 5})), name)) == {}


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("1", "1"),
        ("-7", "-7"),
        ("0", "0"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
    ],
)
def test_whole_number_as_id_is_kept_as_text(value, kept):
    result = parsed_with("id", value)
    assert record_of(result).id == kept
    assert result.errors == ["id: a number, kept as text"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "id: missing"),
        ("null", "id: null"),
        ('""', "id: empty"),
        ("false", "id: not a string"),
        ("true", "id: not a string"),
        ("1.5", "id: not a string"),
        ("1e5", "id: not a string"),
        ("NaN", "id: nan is not a JSON number"),
        ("[]", "id: not a string"),
        ('["a"]', "id: not a string"),
        ('{"a": 1}', "id: not a string"),
        ("9" * 2000, "id: not a string"),
        ("nonsense", "id: not a string"),
    ],
)
def test_event_without_usable_id_has_errors_but_no_record(value, reason):
    result = parsed(id=...) if value is None else parsed_with("id", value)
    assert result.record is None
    assert reason in result.errors
    assert result.invalid


@pytest.mark.parametrize(
    "value",
    ['"yesterday"', "true", "[]", "{}", "1e300", "1e400", "NaN", "Infinity", '""', "9" * 1500],
)
def test_invalid_timestamp_is_null_with_an_error(value):
    result = parsed_with("timestamp", value)
    assert record_of(result).timestamp is None
    assert len(result.errors) == 1
    assert result.errors[0].startswith("timestamp: ")


@pytest.mark.parametrize(
    "value",
    [
        str(MILLIS),
        str(MILLIS // 1000),
        str(MILLIS * 1000),
        f"{MILLIS}.0",
        f"{MILLIS / 1000:.3f}",
        "1.7695152e12",
        f'"{MILLIS}"',
        '"2026-01-27T12:00:00Z"',
        '"2026-01-27 12:00:00"',
        '"2026-01-27T13:00:00+01:00"',
    ],
)
def test_timestamp_in_any_known_format_is_valid(value):
    result = parsed_with("timestamp", value)
    assert record_of(result).timestamp == NOON
    assert result.errors == []


def test_invisible_characters_in_a_timestamp_are_removed_with_an_error():
    result = parsed(timestamp="2026-01-27T12:\u200b00:00Z")
    assert record_of(result).timestamp == NOON
    assert result.errors == ["timestamp: invisible characters removed"]


def test_both_parsers_of_fractions_agree_within_a_microsecond():
    text = "2026-01-27T12:00:00.1234567Z"
    quick = record_of(parsed(timestamp=text)).timestamp
    slow = record_of(parsed(timestamp=text, type=5)).timestamp
    assert quick is not None
    assert slow is not None
    assert abs(quick - slow) <= timedelta(microseconds=1)


BAD = ["\\u0000", "\\ud800", "\\udc00", "\\udfff\\ud800", "\\uD800x"]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["id", *TEXT_FIELDS])
def test_nul_and_lone_surrogates_in_text_are_replaced_with_an_error(bad, name):
    result = parsed_with(name, f'"a{bad}b"')
    assert result.errors == [f"{name}: NUL or lone surrogate replaced"]
    value = getattr(record_of(result), {v: k for k, v in COLUMNS.items()}.get(name, name))
    assert value.startswith("a\ufffd")
    assert value.endswith("b")
    line_of(record_of(result)).decode()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    "template",
    [
        '{"a": "%"}',
        '{"%": 1}',
        '{"a": ["x", "%"]}',
        '{"a": {"b": [{"c": "%"}]}}',
        '{"a": [[[{"%": {}}]]]}',
        '{"good": 0.12345678901234567890123, "a": "%"}',
    ],
)
def test_nul_and_lone_surrogates_are_replaced_at_any_depth(bad, template):
    result = parsed_with("properties", template.replace("%", f"x{bad}y"))
    assert len(result.errors) == 1
    assert "NUL or lone surrogate replaced" in result.errors[0]
    text = bytes(record_of(result).properties).decode()
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
    assert bytes(record_of(result).properties) == f'{{"a":"{good}"}}'.encode()


def test_raw_control_characters_except_nul_are_kept():
    assert record_of(parsed_with("name", '"a\tb"')).name == "a\tb"
    assert record_of(parsed_with("name", '"a\x00b"')).name == "a\ufffdb"
    assert (
        bytes(record_of(parsed_with("properties", '{"a": "b\tc"}')).properties) == b'{"a":"b\\tc"}'
    )


NUMBERS = [
    "0.12345678901234567890123",
    "123456789012345678901234567890",
    "1e400",
    "-1E-400",
    "18446744073709551616",
    "1.10",
    "100000000000000000000000.5",
]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("invalid", [False, True])
def test_numbers_are_kept_exactly(number, invalid):
    bad = ', "x": "\\u0000"' if invalid else ""
    result = parsed_with("properties", f'{{"a": {number}{bad}}}')
    assert decoded(record_of(result).properties)["a"] == Decimal(number)
    assert bool(result.errors) is invalid


@pytest.mark.parametrize(
    ("number", "word"),
    [
        ("NaN", "nan"),
        ("Infinity", "inf"),
        ("-Infinity", "-inf"),
        ("1e5000", "out of range"),
        ("1e-5000", "out of range"),
    ],
)
@pytest.mark.parametrize("template", ['{"a": %}', '{"a": {"b": [1, %]}}'])
def test_numbers_out_of_range_become_null_with_an_error(number, word, template):
    result = parsed_with("properties", template.replace("%", number))
    assert len(result.errors) == 1
    assert word in result.errors[0]
    assert decoded(record_of(result).properties) in ({"a": None}, {"a": {"b": [Decimal(1), None]}})


def test_exponent_beyond_decimals_makes_the_object_unreadable():
    result = parsed_with("properties", '{"a": 1e9999999999999999999}')
    assert record_of(result).properties is None
    assert result.errors == ["properties: cannot be read"]


@pytest.mark.parametrize("depth", [101, 500, 5000, 100_000])
def test_deep_nesting_keeps_the_record(depth):
    for bad in ("", ', "type": 5'):
        text = "{" + f'"a":{"[" * depth}{"]" * depth}' + "}"
        source = json.dumps(event(properties="@@")).replace('"@@"', text)
        result = parse_event(source[:-1] + bad + "}")
        assert record_of(result).id == "id-000000"
        line_of(record_of(result))


def test_sanitized_object_is_cut_at_a_depth_with_an_error():
    text = '{"x":"\\u0000","a":' + "[" * 150 + "]" * 150 + "}"
    result = parsed_with("properties", text)
    assert any("nested deeper" in reason for reason in result.errors)
    assert record_of(result).properties is not None


def test_too_long_object_is_null_with_an_error(monkeypatch):
    monkeypatch.setattr(events_module, "MAX_OBJECT_BYTES", 100)
    for text in ("x" * 200, "é" * 60):
        result = parsed_with("properties", f'{{"a": "{text}"}}')
        assert record_of(result).properties is None
        assert result.errors == ["properties: longer than 100 bytes"]
        assert record_of(result).session is not None


@pytest.mark.parametrize("name", TEXT_FIELDS)
def test_too_long_text_is_null_with_an_error(name):
    result = parsed(**{name: "x" * 70_000})
    assert result.errors == [f"{name}: longer than 65536 characters"]
    assert getattr(record_of(result), {v: k for k, v in COLUMNS.items()}[name]) is None


def test_too_long_id_is_rejected():
    assert record_of(parsed(id="é" * 500)).id == "é" * 500
    result = parsed(id="x" * 501)
    assert result.record is None
    assert result.errors == ["id: longer than 500 characters"]
    assert result.invalid


@pytest.mark.parametrize("number", ["1e-5000", "0." + "0" * 1500 + "1", "1e99999999999999999999"])
def test_number_that_databases_refuse_is_not_passed_through(number):
    result = parsed_with("properties", f'{{"a": {number}}}')
    assert result.errors
    assert number.encode() not in line_of(record_of(result))


@pytest.mark.parametrize("newline", ["\n", "\r", "\r\n"])
def test_records_never_contain_raw_newlines(newline):
    source = json.dumps(event(), indent=2).replace("\n", newline)
    for text in (source, source.replace('"page_view"', "NaN")):
        line = line_of(record_of(parse_event(text)))
        assert b"\n" not in line
        assert b"\r" not in line
        assert json.loads(line)["properties"] == {"page": "/home"}


def test_unknown_fields_are_named():
    result = parsed(zeta=1, alpha={"a": 2})
    assert result.unknown_fields == {"alpha", "zeta"}
    assert result.errors == []
    assert record_of(result).id == "id-000000"


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "5",
        '"text"',
        "[]",
        "[1]",
        "true",
        "NaN",
        "",
        "{",
        "nonsense",
        '{"id": "a"',
        "{1: 2}",
    ],
)
def test_event_that_is_not_an_object_is_rejected(text):
    result = parse_event(text)
    assert result.record is None
    assert result.errors == ["the event is not a JSON object"]
    assert result.invalid


def test_event_with_an_undecodable_key_is_rejected():
    assert parse_event('{"id": "a", "b\\x": 1}').record is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'"a\\u0000"', True),
        (b'"\\ud800"', True),
        (b'"\\uDfff"', True),
        (b'"\\ud83d\\ude00"', True),
        (b'"\\u0001 \\ue000 \\u00e9"', False),
        (b"plain", False),
    ],
)
def test_suspicious_escapes_are_found(body, expected):
    assert has_suspicious_escape(body) is expected


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
def test_event_with_an_id_always_becomes_a_record(fields):
    result = parse_event(json.dumps(fields))
    identifier = fields.get("id")
    if isinstance(identifier, str) and identifier:
        assert result.record is not None
        assert len(result.record.id) == len(identifier)
    if result.record is None:
        assert result.errors
    else:
        line = line_of(result.record)
        assert b"\n" not in line
        assert "\x00" not in json.dumps(json.loads(line), ensure_ascii=False)
        line.decode()


@given(st.dictionaries(st.text(), values), st.sampled_from(sorted(DOCUMENTED_FIELDS)))
def test_valid_object_is_kept_next_to_an_invalid_field(properties, invalid):
    clean = json.loads(json.dumps(properties), parse_constant=lambda _: None)
    text = json.dumps(event(properties=clean, **({invalid: []} if invalid != "properties" else {})))
    result = parse_event(text)
    if result.record is not None and invalid != "properties" and "\\u" not in text:
        assert json.loads(bytes(result.record.properties)) == clean


@given(st.text())
def test_arbitrary_text_is_a_record_or_has_errors(text):
    result = parse_event(text)
    assert (result.record is not None) or result.errors
