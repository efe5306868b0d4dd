"""Cursors: signed, and limited in time."""

from __future__ import annotations

import pytest
from datasync_sandbox.api.cursors import (
    Cursor,
    CursorCodec,
    CursorExpiredError,
    CursorMalformedError,
)
from datasync_sandbox.data.feed import Place
from hypothesis import example, given
from hypothesis import strategies as st

KEYS = st.tuples(st.integers(-9, 0), st.integers(-(10**13), 10**13), st.uuids().map(str))
CURSORS = st.builds(
    Cursor,
    st.integers(1, 10**6),
    st.none() | st.builds(Place, st.integers(0, 10**9), KEYS),
    st.floats(0, 4e9),
)


@given(CURSORS)
def test_cursor_survives_encoding(cursor):
    codec = CursorCodec("a")
    assert codec.decode(codec.encode(cursor)) == cursor
    assert codec.encode(cursor) == CursorCodec("a").encode(cursor)


@given(CURSORS, CURSORS)
def test_content_of_one_cursor_does_not_pass_with_the_signature_of_another(one, other):
    codec = CursorCodec("a")
    content = codec.encode(one).rpartition(".")[0]
    signature = codec.encode(other).rpartition(".")[2]
    if one != other:
        with pytest.raises(CursorMalformedError):
            codec.decode(f"{content}.{signature}")


@given(st.text(max_size=80))
@example("eyJpZCI6ImUifQ")
@example("=")
@example("\ud800.a")
def test_other_text_is_malformed(text):
    with pytest.raises(CursorMalformedError):
        CursorCodec("a").decode(text)


def test_cursor_of_another_secret_is_malformed():
    with pytest.raises(CursorMalformedError):
        CursorCodec("b").decode(CursorCodec("a").encode(Cursor(1, None, 1.0)))


def test_cursor_expires_at_its_time():
    cursor = Cursor(2, None, 100.0)
    cursor.check(99.999)
    with pytest.raises(CursorExpiredError, match=r"Cursor expired 1 minute\(s\) ago"):
        cursor.check(100.5)
    with pytest.raises(CursorExpiredError, match=r"Cursor expired 3 minute\(s\) ago"):
        cursor.check(100 + 150)
