from __future__ import annotations

import pytest
from datasync_bench.numbers import (
    Spread,
    memory_tenths,
    share_of_limit,
    tenths,
    without_startup,
)


def test_a_spread_is_the_median_between_the_extremes():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(median=2.0, low=1.0, high=3.0)


def test_a_spread_with_an_unknown_value_is_unknown():
    assert Spread.of_known([1.0, None]) is None
    assert Spread.of_known([2.0, 2.0]) == Spread(2.0, 2.0, 2.0)


def test_what_both_sizes_spend_on_starting_cancels_out():
    startup, cost = 4.0, 1e-5
    large, small = (startup + cost * events for events in (200_000, 5000))
    assert without_startup(large, small, 200_000, 5000) == pytest.approx(cost)


def test_a_large_run_that_costs_no_more_says_nothing():
    assert without_startup(1.0, 1.2, 10_000, 5000) is None


def test_the_large_run_must_be_the_larger():
    with pytest.raises(ValueError, match="not more than"):
        without_startup(2.0, 1.0, 5000, 5000)


def full_use(requests: int, limit: int, window: float) -> list[float]:
    return [number // limit * window + number % limit * 0.1 for number in range(requests)]


def test_a_client_that_sends_as_soon_as_it_may_uses_all_of_the_limit():
    assert share_of_limit(full_use(31, 10, 6.0), 10, 6.0) == pytest.approx(1.0)


def test_only_whole_windows_count():
    assert share_of_limit(full_use(37, 10, 6.0), 10, 6.0) == pytest.approx(1.0)


def test_a_pause_of_a_window_for_each_request_uses_a_tenth():
    assert share_of_limit([6.0 * n for n in range(21)], 10, 6.0) == pytest.approx(0.1)


def test_too_few_requests_have_no_share():
    with pytest.raises(ValueError, match="do not fill a window"):
        share_of_limit([0.0] * 10, 10, 6.0)


def test_tenths_compare_the_ends_of_a_load():
    # Ten pages a second for the first half, five a second for the second.
    moments = [n / 10 for n in range(50)] + [5 + n / 5 for n in range(50)]
    ends = tenths([(moment, 100) for moment in moments])
    assert (ends.first, ends.last) == (pytest.approx(1000), pytest.approx(500))
    assert ends.change == pytest.approx(-0.5)


def test_a_load_of_a_few_pages_has_no_tenths():
    with pytest.raises(ValueError, match="no tenths"):
        tenths([(float(n), 1) for n in range(9)])


def test_memory_is_compared_after_the_start_and_at_the_end():
    samples = [(float(second), 10 if second < 2 else 80 + second) for second in range(101)]
    assert memory_tenths(samples) == (100, 180)
