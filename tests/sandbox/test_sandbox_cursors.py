"""Cursors: signed, and readable by servers with the same secret only."""

from __future__ import annotations

from datasync_sandbox.api.access import Cursor, CursorCodec
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
CODEC = CursorCodec("a")


@given(CURSORS)
def test_cursor_survives_encoding_with_the_same_secret(cursor):
    text = CODEC.encode(cursor)
    assert CursorCodec("a").decode(text) == cursor
    assert CursorCodec("a").encode(cursor) == text
    assert CursorCodec("b").decode(text) is None


@given(CURSORS, CURSORS)
def test_content_of_one_cursor_does_not_pass_with_the_signature_of_another(one, other):
    content = CODEC.encode(one).rpartition(".")[0]
    signature = CODEC.encode(other).rpartition(".")[2]
    assert CODEC.decode(f"{content}.{signature}") == (one if one == other else None)


@given(st.text(max_size=80))
@example("eyJpZCI6ImUifQ")
@example("=")
@example("\ud800.a")
def test_other_text_is_malformed(text):
    assert CODEC.decode(text) is None
