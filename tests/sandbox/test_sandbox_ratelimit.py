"""Buckets: never more than the limit in a window, never a refusal while there is room."""

from __future__ import annotations

import math

import pytest
from datasync_sandbox.ratelimit import is_over, make_bucket
from hypothesis import given
from hypothesis import strategies as st

GAPS = st.lists(st.floats(0, 40), min_size=1, max_size=120)
KINDS = ("sliding", "fixed", "aligned")
CRUMB = 4e-7
"""Seconds that clock arithmetic may leave; see `datasync_sandbox.ratelimit.whole_seconds`."""


def arrivals(gaps: list[float]) -> list[float]:
    now, times = 1000.0, []
    for gap in gaps:
        now += gap
        times.append(now)
    return times


@given(gaps=GAPS, limit=st.integers(1, 12))
def test_sliding_never_more_than_the_limit_and_never_less(gaps, limit):
    bucket, taken = make_bucket("sliding", limit, 60), []
    for now in arrivals(gaps):
        counted = [then for then in taken if not is_over(then + 60, now)]
        verdict = bucket.take(now)
        assert verdict.allowed == (len(counted) < limit)
        if verdict.allowed:
            taken.append(now)
            counted.append(now)
        assert verdict.remaining == limit - len(counted)


@given(gaps=GAPS, limit=st.integers(1, 12))
def test_fixed_window_starts_with_the_first_request_after_the_former_ended(gaps, limit):
    bucket, start, count = make_bucket("fixed", limit, 60), -math.inf, 0
    for now in arrivals(gaps):
        if is_over(start + 60, now):
            start, count = now, 0
        verdict = bucket.take(now)
        assert verdict.allowed == (count < limit)
        count += verdict.allowed


@given(gaps=GAPS, limit=st.integers(1, 12))
def test_aligned_windows_follow_the_clock(gaps, limit):
    bucket, counts = make_bucket("aligned", limit, 60), {}
    for now in arrivals(gaps):
        window = math.floor(now / 60)
        window += is_over((window + 1) * 60, now)
        verdict = bucket.take(now)
        assert verdict.allowed == (counts.get(window, 0) < limit)
        counts[window] = counts.get(window, 0) + verdict.allowed


@pytest.mark.parametrize("kind", KINDS)
@given(gaps=GAPS, limit=st.integers(1, 5))
def test_waiting_for_the_reset_is_enough(kind, gaps, limit):
    bucket = make_bucket(kind, limit, 60)
    for now in arrivals(gaps):
        verdict = bucket.take(now)
        assert 1 <= verdict.reset <= 60
        if not verdict.allowed:
            assert bucket.take(now + verdict.reset).allowed
            break


@pytest.mark.parametrize("kind", KINDS)
def test_a_crumb_of_clock_arithmetic_does_not_make_the_reset_too_short(kind):
    bucket = make_bucket(kind, 1, 60)
    bucket.take(1020.0)
    early = 1021.0 - CRUMB
    verdict = bucket.take(early)
    assert (verdict.allowed, verdict.reset) == (False, 59)
    assert bucket.take(early + verdict.reset).allowed
    assert not bucket.take(1080.0).allowed


def test_the_recorded_numbers():
    # From the recorded exchanges: 9 left and 60 s, four seconds later 8 left and 57 s.
    bucket = make_bucket("sliding", 10, 60)
    first, second = bucket.take(0.0), bucket.take(3.6)
    assert (first.remaining, first.reset) == (9, 60)
    assert (second.remaining, second.reset) == (8, 57)
