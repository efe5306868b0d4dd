"""Windows of the rate limit, exact to the request, and cursors, readable by their server only."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest
from datasync_sandbox.api.access import Cursor, CursorCodec, RateLimit, is_over
from datasync_sandbox.data.feed import Place
from hypothesis import example, given
from hypothesis import strategies as st

ARRIVALS = st.lists(st.floats(0, 40), min_size=1, max_size=120).map(
    lambda gaps: list(accumulate(gaps, initial=1000.0))
)
KINDS = pytest.mark.parametrize("kind", ["sliding", "fixed", "aligned"])
KEYS = st.tuples(st.integers(-9, 0), st.integers(-(10**13), 10**13), st.uuids().map(str))
CURSORS = st.builds(
    Cursor,
    st.integers(1, 10**6),
    st.none() | st.builds(Place, st.integers(0, 10**9), KEYS),
    st.floats(0, 4e9),
)
CODEC = CursorCodec("a")


def is_in_window(kind, counted, now):
    """Return for each counted request whether it is in the window of a new one."""
    if kind == "sliding":
        return [not is_over(then + 60, now) for then in counted]
    if kind == "fixed":
        start = -math.inf
        for then in counted:
            start = then if is_over(start + 60, then) else start
        return [then >= start and not is_over(start + 60, now) for then in counted]
    return [number_of_window(then) == number_of_window(now) for then in counted]


def number_of_window(now):
    number = math.floor(now / 60)
    return number + is_over((number + 1) * 60, now)


@KINDS
@given(arrivals=ARRIVALS, limit=st.integers(1, 12))
def test_requests_of_the_window_are_counted_up_to_the_limit(kind, arrivals, limit):
    rate_limit, counted = RateLimit(kind, limit, 60), []
    for now in arrivals:
        used = sum(is_in_window(kind, counted, now))
        status = rate_limit.consume(now)
        assert status.allowed == (used < limit)
        assert status.remaining == limit - used - status.allowed
        counted += [now] * status.allowed


@KINDS
@given(arrivals=ARRIVALS, limit=st.integers(1, 5))
def test_waiting_for_the_reset_suffices(kind, arrivals, limit):
    rate_limit = RateLimit(kind, limit, 60)
    for now in arrivals:
        status = rate_limit.consume(now)
        assert 1 <= status.reset <= 60
        if not status.allowed:
            assert rate_limit.consume(now + status.reset).allowed
            break


@KINDS
def test_rounding_errors_of_the_clock_do_not_shorten_the_reset(kind):
    rate_limit = RateLimit(kind, 1, 60)
    rate_limit.consume(1020.0)
    early = 1021.0 - 4e-7
    status = rate_limit.consume(early)
    assert (status.allowed, status.reset) == (False, 59)
    assert rate_limit.consume(early + status.reset).allowed
    assert not rate_limit.consume(1080.0).allowed


def test_numbers_are_those_of_the_recordings():
    # 9 left and 60 s, four seconds later 8 left and 57 s.
    rate_limit = RateLimit("sliding", 10, 60)
    first, second = rate_limit.consume(0.0), rate_limit.consume(3.6)
    assert (first.remaining, first.reset) == (9, 60)
    assert (second.remaining, second.reset) == (8, 57)


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
