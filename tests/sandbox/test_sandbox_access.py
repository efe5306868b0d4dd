"""Windows of the rate limit: never more than the limit, and no refusal below it."""

from __future__ import annotations

import math

import pytest
from datasync_sandbox.api.access import is_over, make_window
from hypothesis import given
from hypothesis import strategies as st

GAPS = st.lists(st.floats(0, 40), min_size=1, max_size=120)
KINDS = ("sliding", "fixed", "aligned")
ROUNDING_SECONDS = 4e-7
"""What clock arithmetic may leave; see `datasync_sandbox.api.access.is_over`."""


def arrivals(gaps: list[float]) -> list[float]:
    now, times = 1000.0, []
    for gap in gaps:
        now += gap
        times.append(now)
    return times


@given(gaps=GAPS, limit=st.integers(1, 12))
def test_sliding_window_counts_the_requests_of_the_last_window(gaps, limit):
    window, counted = make_window("sliding", limit, 60), []
    for now in arrivals(gaps):
        counted = [then for then in counted if not is_over(then + 60, now)]
        status = window.consume(now)
        assert status.allowed == (len(counted) < limit)
        counted += [now] * status.allowed
        assert status.remaining == limit - len(counted)


@given(gaps=GAPS, limit=st.integers(1, 12))
def test_fixed_window_starts_with_the_first_request_after_the_previous_one(gaps, limit):
    window, start, count = make_window("fixed", limit, 60), -math.inf, 0
    for now in arrivals(gaps):
        if is_over(start + 60, now):
            start, count = now, 0
        status = window.consume(now)
        assert status.allowed == (count < limit)
        count += status.allowed


@given(gaps=GAPS, limit=st.integers(1, 12))
def test_aligned_window_follows_the_clock(gaps, limit):
    window, counts = make_window("aligned", limit, 60), {}
    for now in arrivals(gaps):
        number = math.floor(now / 60)
        number += is_over((number + 1) * 60, now)
        status = window.consume(now)
        assert status.allowed == (counts.get(number, 0) < limit)
        counts[number] = counts.get(number, 0) + status.allowed


@pytest.mark.parametrize("kind", KINDS)
@given(gaps=GAPS, limit=st.integers(1, 5))
def test_waiting_for_the_reset_suffices(kind, gaps, limit):
    window = make_window(kind, limit, 60)
    for now in arrivals(gaps):
        status = window.consume(now)
        assert 1 <= status.reset <= 60
        if not status.allowed:
            assert window.consume(now + status.reset).allowed
            break


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_errors_of_the_clock_do_not_shorten_the_reset(kind):
    window = make_window(kind, 1, 60)
    window.consume(1020.0)
    early = 1021.0 - ROUNDING_SECONDS
    status = window.consume(early)
    assert (status.allowed, status.reset) == (False, 59)
    assert window.consume(early + status.reset).allowed
    assert not window.consume(1080.0).allowed


def test_numbers_are_those_of_the_recordings():
    # 9 left and 60 s, four seconds later 8 left and 57 s.
    window = make_window("sliding", 10, 60)
    first, second = window.consume(0.0), window.consume(3.6)
    assert (first.remaining, first.reset) == (9, 60)
    assert (second.remaining, second.reset) == (8, 57)
