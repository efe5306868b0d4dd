"""Splitting JSON text: the members are those that a parser finds."""

from __future__ import annotations

import contextlib
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap_datasync.lenient_json import JSONTextError, split_array, split_object

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
styles = st.fixed_dictionaries(
    {
        "indent": st.sampled_from([None, 0, 2, "\t"]),
        "ensure_ascii": st.booleans(),
        "separators": st.sampled_from([(",", ":"), (" , ", " : ")]),
    }
)


@given(st.dictionaries(st.text(), values, max_size=6), styles)
def test_object_is_split_as_a_parser_reads_it(value, style):
    members = split_object(json.dumps(value, **style))
    assert {name: json.loads(text) for name, text in members.items()} == value


@given(st.lists(values, max_size=6), styles)
def test_array_is_split_as_a_parser_reads_it(value, style):
    assert [json.loads(text) for text in split_array(json.dumps(value, **style))] == value


@given(st.dictionaries(st.text(), values, min_size=1, max_size=4), styles, st.data())
def test_truncated_text_is_refused(value, style, data):
    text = json.dumps(value, **style).rstrip()
    end = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(JSONTextError):
        split_object(text[:end])


@given(st.text() | st.text(alphabet='{}[]",:\\ \n10ax'))
def test_arbitrary_text_raises_no_other_exception(text):
    with contextlib.suppress(JSONTextError):
        split_object(text)
    with contextlib.suppress(JSONTextError):
        split_array(text)


@pytest.mark.parametrize(
    ("split", "text"),
    [
        *((split_object, text) for text in ("", "null", "[]", '{"a":1', '{"a":1]', '{"a" 1}')),
        *((split_object, text) for text in ("{1:2}", '{"a":1,}', '{,"a":1}', '{"a":1}}')),
        *((split_object, text) for text in ('{"a":1} x', '{"a\\x":1}', '{"a":"b}')),
        *((split_array, text) for text in ("[1,]", "[,]", "[,1]", "[1", "[[]", "]", "{}")),
        *((split_array, text) for text in ("[1]]", '["]')),
    ],
)
def test_invalid_text_is_refused(split, text):
    with pytest.raises(JSONTextError):
        split(text)


def test_what_json_forbids_is_kept_unchanged():
    members = split_object('{"a": NaN, "b": "\\ud800", "c": "x\x00y", "d": -Infinity}')
    assert members == {"a": "NaN", "b": '"\\ud800"', "c": '"x\x00y"', "d": "-Infinity"}


def test_deep_nesting_does_not_recurse():
    deep = "[" * 100_000 + "]" * 100_000
    assert split_object(f'{{"a":{deep},"b":1}}') == {"a": deep, "b": "1"}


def test_nesting_is_bounded():
    with pytest.raises(JSONTextError):
        split_array("[" * 2_000_000 + "]" * 2_000_000)


def test_long_string_takes_no_memory_per_character():
    text = '["' + "a\\n" * 1_000_000 + '"]'
    tracemalloc.start()
    try:
        assert len(split_array(text)) == 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(text)
