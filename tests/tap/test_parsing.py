"""One event: what fits is kept to the letter, what does not is told, nothing is lost."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap_datasync import events as events_module
from tap_datasync.events import FIELDS, EventRecord, TypedEvent, may_hold_unstorable, type_event
from tap_helpers import MILLIS, NOON, event

TEXT_FIELDS = ("sessionId", "userId", "type", "name")
COLUMNS = dict(zip(("session_id", "user_id", "type", "name"), TEXT_FIELDS, strict=True))


def typed(**changes: Any) -> TypedEvent:
    return type_event(json.dumps(event(**changes)))


def typed_text(name: str, value: str) -> TypedEvent:
    """Type an event in which one field's value is this JSON text."""
    return type_event(json.dumps(event(**{name: "@@"})).replace('"@@"', value))


def row(result: TypedEvent) -> EventRecord:
    assert result.record is not None
    return result.record


def of(raw: msgspec.Raw | None) -> Any:
    assert isinstance(raw, msgspec.Raw)
    return json.loads(bytes(raw), parse_float=Decimal, parse_int=Decimal)


def line_of(record: EventRecord) -> bytes:
    return msgspec.json.encode(record)


def test_a_documented_event_becomes_a_row():
    """Every field goes to its column, and nothing is said."""
    result = typed()
    record = row(result)
    assert (result.reasons, result.unknown, result.misfits) == ([], [], 0)
    assert (record.id, record.timestamp) == ("id-000000", NOON)
    for column, name in COLUMNS.items():
        assert getattr(record, column) == event()[name]
    assert of(record.properties) == event()["properties"]
    assert of(record.session) == event()["session"]


@pytest.mark.parametrize("name", sorted(FIELDS - {"id"}))
def test_a_missing_field_is_null_and_told(name):
    """The event still reaches its table; a field that is only missing is no misfit."""
    result = typed(**{name: ...})
    assert result.reasons == [f"{name}: missing"]
    assert result.misfits == 0
    column = {v: k for k, v in COLUMNS.items()}.get(name, name)
    assert getattr(row(result), column) is None


@pytest.mark.parametrize("name", sorted(FIELDS - {"id"}))
def test_a_null_field_is_null(name):
    """Null is null in every column."""
    column = {v: k for k, v in COLUMNS.items()}.get(name, name)
    assert getattr(row(typed(**{name: None})), column) is None


@pytest.mark.parametrize("name", TEXT_FIELDS)
@pytest.mark.parametrize("value", [5, 1.5, True, [], {}, ["a"], {"a": 1}])
def test_text_that_is_no_text_is_null_and_told(name, value):
    """A text column never holds anything else."""
    result = typed(**{name: value})
    assert result.reasons == [f"{name}: is not a string"]
    assert result.misfits == 1
    assert getattr(row(result), {v: k for k, v in COLUMNS.items()}[name]) is None


@pytest.mark.parametrize("name", ["properties", "session"])
@pytest.mark.parametrize("value", ["", "text", 0, 5, 1.5, True, False, [], [1]])
def test_an_object_that_is_no_object_is_null_and_told(name, value):
    """A JSONB column holds an object or nothing, also where the value counts as false."""
    result = typed(**{name: value})
    assert result.reasons == [f"{name}: is not an object"]
    assert getattr(row(result), name) is None


@pytest.mark.parametrize("name", ["properties", "session"])
def test_an_empty_object_is_an_object(name):
    """Nothing inside is nothing wrong, also next to something that is."""
    assert of(getattr(row(typed(**{name: {}})), name)) == {}
    assert of(getattr(row(typed(**{name: {}, "type": 5})), name)) == {}


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("1", "1"),
        ("-7", "-7"),
        ("0", "0"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
    ],
)
def test_an_id_that_is_a_whole_number_is_kept_as_text(value, kept):
    """An API that turns its ids into numbers loses no event."""
    result = typed_text("id", value)
    assert (result.event_id, row(result).id) == (kept, kept)
    assert result.reasons == ["id: is a number, kept as text"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "id: missing"),
        ("null", "id: null"),
        ('""', "id: empty"),
        ("false", "id: empty"),
        ("true", "id: is not a string"),
        ("1.5", "id: is not a string"),
        ("1e5", "id: is not a string"),
        ("NaN", "id: is nan, which is no JSON number"),
        ("[]", "id: empty"),
        ('["a"]', "id: is not a string"),
        ('{"a": 1}', "id: is not a string"),
        ("9" * 2000, "id: is not a string"),
        ("nonsense", "id: is not a string"),
    ],
)
def test_without_an_id_there_is_no_row_but_a_reason(value, reason):
    """Such an event is a misfit, and goes to the rejected ones alone."""
    result = typed(id=...) if value is None else typed_text("id", value)
    assert (result.record, result.event_id) == (None, None)
    assert reason in result.reasons
    assert result.misfits >= 1


@pytest.mark.parametrize(
    "value",
    ['"yesterday"', "true", "[]", "{}", "1e300", "1e400", "NaN", "Infinity", '""', "9" * 1500],
)
def test_a_timestamp_that_is_none_is_null_and_told(value):
    """The event stays, without a time."""
    result = typed_text("timestamp", value)
    assert row(result).timestamp is None
    assert len(result.reasons) == 1
    assert result.reasons[0].startswith("timestamp: ")


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
def test_a_timestamp_in_any_spelling_is_good(value):
    """No spelling that was reported is a reason to reject."""
    result = typed_text("timestamp", value)
    assert row(result).timestamp == NOON
    assert result.reasons == []


def test_a_timestamp_with_something_invisible_in_it_is_read_and_told():
    """It is repaired, and the raw event is kept."""
    result = typed(timestamp="2026-01-27T12:\u200b00:00Z")
    assert row(result).timestamp == NOON
    assert result.reasons == ["timestamp: invisible characters removed"]


def test_both_ways_of_reading_a_fraction_agree_within_a_microsecond():
    """The quick decoder rounds the seventh digit, ours cuts it: no more than that."""
    text = "2026-01-27T12:00:00.1234567Z"
    quick = row(typed(timestamp=text)).timestamp
    slow = row(typed(timestamp=text, type=5)).timestamp
    assert quick is not None
    assert slow is not None
    assert abs(quick - slow) <= timedelta(microseconds=1)


BAD = ["\\u0000", "\\ud800", "\\udc00", "\\udfff\\ud800", "\\uD800x"]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["id", *TEXT_FIELDS])
def test_nul_and_lone_surrogates_in_text_are_replaced_and_told(bad, name):
    """PostgreSQL cannot hold them; the rest of the text stays."""
    result = typed_text(name, f'"a{bad}b"')
    assert result.reasons == [f"{name}: NUL or lone surrogate replaced"]
    value = getattr(row(result), {v: k for k, v in COLUMNS.items()}.get(name, name))
    assert value.startswith("a\ufffd")
    assert value.endswith("b")
    line_of(row(result)).decode()


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
    """Values and keys, in objects and lists."""
    result = typed_text("properties", template.replace("%", f"x{bad}y"))
    assert len(result.reasons) == 1
    assert "NUL or lone surrogate replaced" in result.reasons[0]
    text = bytes(row(result).properties).decode()
    assert "\\u0000" not in text
    assert "\x00" not in text
    assert "x\ufffd" in text
    text.encode()
    if "good" in template:
        assert "0.12345678901234567890123" in text


@pytest.mark.parametrize("good", ["\\ud83d\\ude00", "\\\\u0000", "\\\\ud800", "\\u00e9", "\\uFFFD"])
def test_pairs_and_escaped_backslashes_are_no_misfits(good):
    """What only looks like a lone surrogate or NUL is kept to the letter."""
    result = typed_text("properties", f'{{"a":"{good}"}}')
    assert result.reasons == []
    assert bytes(row(result).properties) == f'{{"a":"{good}"}}'.encode()


def test_raw_control_characters_are_kept_apart_from_nul():
    """A tab that is not escaped is no valid JSON, but readable; a NUL is replaced."""
    assert row(typed_text("name", '"a\tb"')).name == "a\tb"
    assert row(typed_text("name", '"a\x00b"')).name == "a\ufffdb"
    assert bytes(row(typed_text("properties", '{"a": "b\tc"}')).properties) == b'{"a":"b\\tc"}'


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
@pytest.mark.parametrize("spoilt", [False, True])
def test_numbers_are_kept_exactly(number, spoilt):
    """No number goes through a float, also not next to something that has to be cleaned."""
    bad = ', "x": "\\u0000"' if spoilt else ""
    result = typed_text("properties", f'{{"a": {number}{bad}}}')
    assert of(row(result).properties)["a"] == Decimal(number)
    assert bool(result.reasons) is spoilt


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
def test_numbers_that_nothing_can_hold_become_null_and_are_told(number, word, template):
    """The number goes, the object around it stays."""
    result = typed_text("properties", template.replace("%", number))
    assert len(result.reasons) == 1
    assert word in result.reasons[0]
    assert of(row(result).properties) in ({"a": None}, {"a": {"b": [Decimal(1), None]}})


def test_an_exponent_beyond_all_measure_is_no_crash():
    """Even decimals have a largest exponent."""
    result = typed_text("properties", '{"a": 1e9999999999999999999}')
    assert row(result).properties is None
    assert result.reasons == ["properties: cannot be read"]


@pytest.mark.parametrize("depth", [101, 500, 5000, 100_000])
def test_bottomless_nesting_is_no_crash(depth):
    """The row stays, with or without the object."""
    for bad in ("", ', "type": 5'):
        text = "{" + f'"a":{"[" * depth}{"]" * depth}' + "}"
        source = json.dumps(event(properties="@@")).replace('"@@"', text)
        result = type_event(source[:-1] + bad + "}")
        assert row(result).id == "id-000000"
        line_of(row(result))


def test_nesting_beyond_what_is_kept_is_cut_and_told():
    """An object that has to be cleaned is cut at a depth."""
    text = '{"x":"\\u0000","a":' + "[" * 150 + "]" * 150 + "}"
    result = typed_text("properties", text)
    assert any("nested deeper" in reason for reason in result.reasons)
    assert row(result).properties is not None


def test_an_object_that_is_too_long_is_null_and_told(monkeypatch):
    """A line has a length that programs down the pipe can take."""
    monkeypatch.setattr(events_module, "MAX_OBJECT_BYTES", 100)
    for text in ("x" * 200, "é" * 60):
        result = typed_text("properties", f'{{"a": "{text}"}}')
        assert row(result).properties is None
        assert result.reasons == ["properties: longer than 100 bytes"]
        assert row(result).session is not None


@pytest.mark.parametrize("name", TEXT_FIELDS)
def test_a_text_that_is_too_long_is_null_and_told(name):
    """Likewise for a column of text."""
    result = typed(**{name: "x" * 70_000})
    assert result.reasons == [f"{name}: longer than 65536 characters"]
    assert getattr(row(result), {v: k for k, v in COLUMNS.items()}[name]) is None


def test_an_id_that_no_index_takes_is_none():
    """A row with it could never be written, and its page never loaded."""
    assert row(typed(id="é" * 500)).id == "é" * 500
    result = typed(id="x" * 501)
    assert result.record is None
    assert result.reasons == ["id: longer than 500 characters"]
    assert result.misfits == 1


@pytest.mark.parametrize("number", ["1e-5000", "0." + "0" * 1500 + "1", "1e99999999999999999999"])
def test_a_number_that_postgresql_refuses_never_takes_the_quick_way(number):
    """One such number would keep its page from being loaded, for ever."""
    result = typed_text("properties", f'{{"a": {number}}}')
    assert result.reasons
    assert number.encode() not in line_of(row(result))


@pytest.mark.parametrize("newline", ["\n", "\r", "\r\n"])
def test_raw_newlines_never_end_in_a_line(newline):
    """A Singer message is one line, however the API prints its JSON."""
    source = json.dumps(event(), indent=2).replace("\n", newline)
    for text in (source, source.replace('"page_view"', "NaN")):
        line = line_of(row(type_event(text)))
        assert b"\n" not in line
        assert b"\r" not in line
        assert json.loads(line)["properties"] == {"page": "/home"}


def test_unknown_fields_are_named():
    """The event fits all the same: it is no reason to reject."""
    result = typed(zeta=1, alpha={"a": 2})
    assert result.unknown == ["alpha", "zeta"]
    assert result.reasons == []
    assert row(result).id == "id-000000"


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
def test_what_is_no_object_is_rejected_with_a_reason(text):
    """There is no row, and one reason."""
    result = type_event(text)
    assert result.record is None
    assert result.reasons == ["the event is not a JSON object"]
    assert result.misfits == 1


def test_a_key_that_cannot_be_decoded_is_no_crash():
    """An escape that JSON does not have, in a key."""
    assert type_event('{"id": "a", "b\\x": 1}').record is None


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
    """The quick path is left for every escape that might not be stored."""
    assert may_hold_unstorable(body) is expected


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)) | st.text(max_size=5), values))
def test_an_event_with_an_id_is_never_lost(fields):
    """Whatever the other fields hold: a row that can be written, or a reason."""
    result = type_event(json.dumps(fields))
    identifier = fields.get("id")
    if isinstance(identifier, str) and identifier:
        assert result.record is not None
        assert len(result.record.id) == len(identifier)
    if result.record is None:
        assert result.reasons
    else:
        line = line_of(result.record)
        assert b"\n" not in line
        assert "\x00" not in json.dumps(json.loads(line), ensure_ascii=False)
        line.decode()


@given(st.dictionaries(st.text(), values), st.sampled_from(sorted(FIELDS)))
def test_what_is_good_is_kept_next_to_what_is_bad(properties, spoilt):
    """One bad field never changes another one."""
    clean = json.loads(json.dumps(properties), parse_constant=lambda _: None)
    text = json.dumps(event(properties=clean, **({spoilt: []} if spoilt != "properties" else {})))
    result = type_event(text)
    if result.record is not None and spoilt != "properties" and "\\u" not in text:
        assert json.loads(bytes(result.record.properties)) == clean


@given(st.text())
def test_no_text_is_a_crash(text):
    """Anything is a typed event."""
    result = type_event(text)
    assert (result.record is not None) or result.reasons
