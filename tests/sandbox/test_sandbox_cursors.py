"""Cursors: opaque, signed, and dead in time."""

from __future__ import annotations

import uuid
from itertools import pairwise

import pytest
from datasync_sandbox.cursors import (
    Cursor,
    CursorExpiredError,
    CursorMalformedError,
    CursorMint,
)
from hypothesis import example, given
from hypothesis import strategies as st

PLACES = st.none() | st.tuples(st.integers(-(10**13), 10**13), st.uuids().map(str))
CURSORS = st.builds(
    Cursor,
    st.integers(1, 10**6),
    PLACES,
    st.integers(0, 4 * 10**15).map(lambda micros: micros / 1e6),
)


@given(CURSORS)
def test_what_is_sealed_comes_out_again(cursor):
    mint = CursorMint("a")
    opened = mint.open(mint.seal(cursor))
    assert (opened.page, opened.after) == (cursor.page, cursor.after)
    assert opened.expires == pytest.approx(cursor.expires, abs=2e-6)


@given(CURSORS, st.integers(0, 63), st.sampled_from("ABCxyz059-_"))
def test_a_changed_letter_is_noticed(cursor, at, letter):
    mint = CursorMint("a")
    text = mint.seal(cursor)
    changed = text[:at] + letter + text[at + 1 :]
    if changed != text:
        with pytest.raises(CursorMalformedError):
            mint.open(changed)


@given(st.text(max_size=80))
@example("eyJpZCI6ImUifQ")
@example("=")
@example("A" * 64)
def test_anything_else_is_malformed(text):
    with pytest.raises(CursorMalformedError):
        CursorMint("a").open(text)


def test_another_secret_does_not_open_it():
    text = CursorMint("a").seal(Cursor(1, None, 1.0))
    with pytest.raises(CursorMalformedError):
        CursorMint("b").open(text)


def test_nothing_can_be_read_in_it():
    ident = str(uuid.UUID(int=7))
    texts = [CursorMint("a").seal(Cursor(1, (1000, ident), float(n))) for n in range(20)]
    # Neighbours share no more than chance: the content shows nowhere.
    for one, two in pairwise(texts):
        assert sum(a == b for a, b in zip(one, two, strict=True)) < 12


def test_it_dies_at_the_instant_it_names():
    cursor = Cursor(2, None, 100.0)
    cursor.check(99.999)
    with pytest.raises(CursorExpiredError, match=r"Cursor expired 1 minute\(s\) ago"):
        cursor.check(100.5)
    with pytest.raises(CursorExpiredError, match=r"Cursor expired 3 minute\(s\) ago"):
        cursor.check(100 + 150)
