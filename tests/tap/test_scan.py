"""One scan: what it emits, what it skips, what it doubts, and when it is finished."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap_datasync.scan import PageResult, Scan
from tap_datasync.state import ScanState, TimeRange
from tap_datasync.verification import MAX_OUTLIERS, PageAnomaly
from tap_helpers import fetched, record_at, seconds_after_noon

LATER = seconds_after_noon(10_000)
LOOKBACK = timedelta(seconds=10)
LONG_AGO = datetime(1970, 1, 1, tzinfo=timezone.utc)


def received(records: list, **changes: Any) -> Any:
    """Return a page that was received later than all its events."""
    return fetched(records, **{"at": LATER} | changes)


def scan_of(state: ScanState | None = None, *, full: bool = False) -> Scan:
    return Scan(state or ScanState(), lookback=LOOKBACK, full=full)


def loaded_to(second: float, **changes: Any) -> ScanState:
    """Return the state after a finished scan whose newest event was at a second."""
    return ScanState(
        high_watermark=seconds_after_noon(second), high_watermark_id=f"at-{second}", **changes
    )


def loaded_range(newest: float, oldest: float) -> TimeRange:
    return TimeRange(seconds_after_noon(newest), f"at-{newest}", seconds_after_noon(oldest))


def rows(*seconds: float | datetime | None) -> list:
    """Return records named after their second; a datetime is an absurd timestamp."""
    return [
        record_at(
            f"at-{s}" if isinstance(s, (int, float)) else f"absurd-{number}",
            seconds_after_noon(s) if isinstance(s, (int, float)) else s,
        )
        for number, s in enumerate(seconds)
    ]


def down(newest: int, oldest: int) -> list[int]:
    """Return seconds from newest to oldest, both included."""
    return list(range(newest, oldest - 1, -1))


def process(scan: Scan, *seconds: float | datetime | None, **changes: Any) -> PageResult:
    return scan.process_page(received(rows(*seconds), **changes))


def end(scan: Scan, *seconds: float | datetime | None, **changes: Any) -> PageResult:
    """Process the last page of the feed."""
    seen = scan.state.events_seen + len(seconds)
    if scan.state.cursor and "total" not in changes:
        scan.state = replace(scan.state, events_expected=seen, total_events=seen)
    ends: dict[str, Any] = {"cursor": None, "has_more": False, "total": seen}
    return process(scan, *seconds, **ends | changes)


def emitted(result: PageResult) -> list[str]:
    return [record.id for record in result.emit]


def names(*seconds: float) -> list[str]:
    return [f"at-{second}" for second in seconds]


def resumed(scan: Scan) -> Scan:
    """Return the scan as another process continues it."""
    state = ScanState.from_dict(json.loads(json.dumps(scan.state.to_dict())))
    return scan_of(state)


# ------------------------------------------------------------------ emit and finish


def test_a_first_scan_emits_everything_and_follows_the_cursor():
    scan = scan_of()
    result = process(scan, 100, 90, 90.5, 80, cursor="one")
    assert emitted(result) == names(100, 90, 90.5, 80)
    assert (result.skipped, result.warnings) == (0, [])
    assert result.newest_at == seconds_after_noon(100)
    assert result.oldest_at == seconds_after_noon(80)
    state = result.state
    assert (state.cursor, scan.is_finished) == ("one", False)
    assert state.cursor_expires_at == LATER + timedelta(seconds=2 + 116)
    assert (state.scan_newest_at, state.scan_newest_id) == (seconds_after_noon(100), "at-100")
    assert state.scan_last_id == "at-80"
    assert (state.events_seen, state.events_emitted) == (4, 4)
    assert (state.events_expected, state.total_events) == (1000, 1000)


@pytest.mark.parametrize(
    ("expires_in", "seconds"), [(None, 120), (-5.0, 2), (0.0, 2), (1e300, 86_402)]
)
def test_a_cursor_without_a_usable_lifetime_expires_120_seconds_after_its_request(
    expires_in, seconds
):
    result = process(scan_of(), 1, expires_in=expires_in)
    assert result.state.cursor_expires_at == LATER + timedelta(seconds=seconds)


@pytest.mark.parametrize("cursor", [None, "more"])
def test_the_last_page_finishes_the_scan(cursor):
    scan = scan_of()
    page = received(rows(100, 90), cursor=cursor, has_more=False, total=2)
    assert scan.detect_anomaly(page) is None
    state = scan.process_page(page).state
    assert scan.is_finished
    assert (state.high_watermark, state.high_watermark_id) == (seconds_after_noon(100), "at-100")
    assert (state.cursor, state.cursor_expires_at, state.scan_newest_at) == (None, None, None)


@pytest.mark.parametrize("has_more", [True, False])
def test_an_empty_page_behind_the_last_event_finishes_the_scan(has_more):
    scan = scan_of()
    process(scan, 100, 90, total=2, cursor="one")
    assert not scan.is_finished
    page = received([], cursor="two" if has_more else None, has_more=has_more, total=2)
    assert scan.detect_anomaly(page) is None
    scan.process_page(page)
    assert scan.is_finished


def test_an_event_without_a_timestamp_is_always_emitted():
    scan = scan_of(loaded_to(100))
    process(scan, *down(110, 100), cursor="a")
    result = process(scan, 80, None, *down(79, 60), None)
    assert [one for one in emitted(result) if one.startswith("absurd")] == ["absurd-1", "absurd-22"]


def test_events_without_an_id_are_counted_but_not_as_skipped():
    scan = scan_of()
    scan.process_page(received(rows(100), returned=3))
    assert (scan.state.events_seen, scan.state.events_emitted) == (3, 3)


# ------------------------------------------------------------------ incremental


def test_an_incremental_scan_stops_below_the_lookback():
    scan = scan_of(loaded_to(100))
    result = process(scan, *down(120, 86))
    assert scan.is_finished
    assert emitted(result) == names(*down(120, 90))
    assert result.incremental_to == seconds_after_noon(90)
    assert result.state.high_watermark == seconds_after_noon(120)
    assert result.state.high_watermark_id == "at-120"


def test_it_stops_only_after_three_events_below_the_lookback():
    scan = scan_of(loaded_to(100))
    process(scan, *down(120, 88), cursor="one")
    assert not scan.is_finished
    process(scan, 87, 86)
    assert scan.is_finished


def test_a_false_end_below_the_watermark_is_an_anomaly_if_the_page_is_unsorted():
    """Only a sorted feed may stop there."""
    scan = scan_of(loaded_to(50))
    process(scan, *down(60, 50), total=100)
    page = received(rows(*down(30, 10), 45), cursor=None, has_more=False, total=100)
    assert scan.detect_anomaly(page) is PageAnomaly.FALSE_END
    scan.process_page(page)
    assert not scan.is_finished


def test_it_needs_no_total_to_stop():
    scan = scan_of(loaded_to(100))
    page = received(rows(*down(120, 80)), cursor=None, has_more=False, total=9_999)
    assert scan.detect_anomaly(page) is None
    scan.process_page(page)
    assert scan.is_finished


def test_a_full_scan_reads_to_the_oldest_event():
    scan = scan_of(loaded_to(100), full=True)
    result = process(scan, *down(120, 60))
    assert len(result.emit) == 61
    assert result.incremental_to is None
    assert not scan.is_finished


def test_a_watermark_whose_event_is_missing_does_not_end_a_scan():
    """It is of another account, or that event was deleted: what is loaded is not known."""
    scan = scan_of(replace(loaded_to(100), high_watermark_id="of another feed"))
    result = process(scan, *down(120, 60), cursor="a")
    assert not scan.is_finished
    assert len(result.emit) == 61
    assert "no longer in the feed" in result.warnings[0]
    assert (result.state.high_watermark, result.state.high_watermark_id) == (None, None)
    assert process(scan, *down(59, 30), cursor="b").warnings == []


def test_a_watermark_that_was_met_is_valid_after_a_restart():
    for last in (100, 98, 92):
        scan = scan_of(loaded_to(100))
        process(scan, *down(120, last), cursor="a")
        again = resumed(scan)
        process(again, *down(last - 1, 60), cursor="b")
        assert again.is_finished, last


@pytest.mark.parametrize("outliers", [1, 3, MAX_OUTLIERS])
@pytest.mark.parametrize("place", [5, 25, 31])
def test_absurdly_old_timestamps_neither_end_a_scan_nor_are_skipped(outliers, place):
    """In the middle of a page or at its end, above the watermark or in the lookback."""
    scan = scan_of(loaded_to(100))
    before = down(120, 90)
    seconds = [*before[:place], *[LONG_AGO] * outliers, *before[place:]]
    result = process(scan, *seconds, cursor="a")
    assert not scan.is_finished
    assert len(result.emit) == len(seconds)
    result = process(scan, *down(89, 60), cursor="b")
    assert result.warnings == []
    assert result.state.feed_sorted
    assert scan.is_finished


def test_old_timestamps_at_a_page_end_end_no_range():
    """An interrupted scan does not claim to have reached 1970."""
    scan = scan_of()
    process(scan, *down(120, 90), *[LONG_AGO] * MAX_OUTLIERS, cursor="a")
    assert scan.state.scan_oldest_at == seconds_after_noon(90)
    (left,) = scan.interrupt().loaded_ranges
    assert left.oldest_at == seconds_after_noon(90)


# ------------------------------------------------------------------ loaded ranges


def test_events_inside_a_loaded_range_are_skipped():
    """Without its ends, its lookback, and the last events of the page."""
    scan = scan_of(ScanState(loaded_ranges=(loaded_range(100, 50),)))
    result = process(scan, *down(110, 30))
    assert emitted(result) == names(*down(110, 90), *down(51, 30))
    assert result.skipped == 38


def test_the_last_events_of_a_page_are_never_skipped():
    """They may be outliers that were never loaded: only the next page shows it."""
    scan = scan_of(ScanState(loaded_ranges=(loaded_range(1000, 0),)))
    result = process(scan, *down(1010, 900))
    assert emitted(result) == names(*down(1010, 990), *down(909, 900))


def test_a_range_whose_newest_event_is_missing_is_not_skipped():
    foreign = replace(loaded_range(100, 0), newest_id="of another feed")
    scan = scan_of(ScanState(loaded_ranges=(foreign, loaded_range(-50, -90))))
    result = process(scan, *down(110, 30), cursor="a")
    assert result.skipped == 0
    assert "no longer in the feed" in result.warnings[0]
    assert result.state.loaded_ranges == (loaded_range(-50, -90),)
    result = process(scan, *down(29, -100), cursor="b")
    assert result.skipped > 0
    assert result.warnings == []


# ------------------------------------------------------------------ the future


@pytest.mark.parametrize("ahead", [timedelta(minutes=5), timedelta(days=1), timedelta(days=9999)])
def test_events_in_the_future_do_not_move_the_watermark(ahead):
    """Nor after a restart in the middle; they are emitted each time."""
    future = LATER + ahead
    scan = scan_of()
    result = process(scan, future, *down(100, 80), cursor="a")
    assert result.state.scan_newest_id == "at-100"
    again = resumed(scan)
    end(again, *down(79, 60))
    state = again.state
    assert (state.high_watermark, state.high_watermark_id) == (seconds_after_noon(100), "at-100")
    second = scan_of(state)
    result = process(second, future, *down(105, 60), total=47)
    assert emitted(result)[:7] == ["absurd-0", *names(*down(105, 100))]
    assert result.warnings == []
    assert second.is_finished


def test_a_feed_of_future_events_only_has_no_watermark():
    scan = scan_of()
    result = end(scan, LATER + timedelta(days=1))
    assert scan.is_finished
    assert len(result.emit) == 1
    assert result.state.high_watermark is None


@pytest.mark.parametrize("outliers", [1, 3])
@pytest.mark.parametrize("size", [1, 100])
def test_events_far_ahead_of_a_lagging_feed_do_not_move_the_watermark(outliers, size):
    """Ahead by more than an hour and by more than the lookback, but not in the future."""
    scan = scan_of()
    seconds = [9000 - n for n in range(outliers)] + down(100, 60)
    while seconds:
        process(scan, *seconds[:size], cursor=f"c{len(seconds)}")
        seconds = seconds[size:]
    end(scan)
    assert scan.state.high_watermark == seconds_after_noon(100)


# ------------------------------------------------------------------ order


@pytest.mark.parametrize("pages", [[(100, 90, 200)], [(100, 90), (200,)]])
def test_once_a_timestamp_rises_nothing_is_skipped_and_the_scan_reads_to_the_end(pages):
    scan = scan_of(loaded_to(80, loaded_ranges=(loaded_range(70, 0),)))
    warnings = [
        warning
        for number, page in enumerate(pages)
        for warning in process(scan, *page, cursor=f"c{number}").warnings
    ]
    (warning,) = warnings
    assert "not sorted by timestamp" in warning
    result = process(scan, *down(89, 20), cursor="next")
    assert len(result.emit) == 70
    assert not scan.is_finished
    assert result.incremental_to is None
    state = result.state
    assert (state.scan_sorted, state.feed_sorted, state.loaded_ranges) == (False, False, ())
    assert end(resumed(scan), 19).state.feed_sorted is False


def test_a_feed_seen_unsorted_is_read_to_the_end_until_a_whole_scan_was_sorted():
    scan = scan_of(replace(loaded_to(100), feed_sorted=False))
    result = process(scan, *down(120, 60), cursor="a")
    assert not scan.is_finished
    assert len(result.emit) == 61
    state = end(scan, *down(59, 40)).state
    assert (state.feed_sorted, state.high_watermark) == (True, seconds_after_noon(120))
    third = scan_of(state)
    process(third, *down(125, 60), total=86)
    assert third.is_finished


def test_shards_one_after_the_other_are_never_read_by_half():
    """Each newest first: the second shard's new events lie behind the first shard."""
    first = scan_of()
    process(first, *down(200, 150), cursor="a")
    end(first, *[s + 0.5 for s in down(200, 150)])
    second = scan_of(first.state)
    page = process(second, *down(220, 150), cursor="a")
    assert not second.is_finished
    assert page.skipped == 0
    assert len(end(second, *[s + 0.5 for s in down(220, 150)]).emit) == 71


def test_timestamps_in_whole_seconds_are_no_violation():
    scan = scan_of()
    assert process(scan, 100.9, 100.7, 100, 100.6, 100.5, cursor="a").warnings == []
    # What has risen by more than a second in small steps has risen.
    rise = [100 + step / 8 for step in range(16)]
    assert process(scan, *rise, cursor="b").warnings


def test_what_a_timestamp_in_whole_seconds_precedes_is_not_taken_as_loaded():
    """A scan that is interrupted right behind it has not seen the rest of that second."""
    scan = scan_of()
    process(scan, 200, *down(150, 101), 100, cursor="a")
    again = scan_of(scan.interrupt())
    result = process(again, 200, 150, *down(112, 101), 100.6, *down(100, 80), cursor="a")
    assert "at-100.6" in emitted(result)


def test_a_resumed_scan_keeps_the_order():
    scan = scan_of()
    process(scan, *down(120, 90), cursor="a")
    assert process(resumed(scan), *down(89, 80), cursor="b").warnings == []
    assert process(resumed(scan), 115, cursor="b").warnings


# ------------------------------------------------------------------ identity


def test_events_that_a_page_repeats_are_not_counted_again():
    scan = scan_of()
    process(scan, *down(100, 80), cursor="a", total=40)
    result = process(scan, *down(85, 70), cursor="b", total=40)
    assert result.state.events_seen == 31
    assert (emitted(result), result.skipped) == (names(*down(79, 70)), 6)
    assert "Pages overlap" in result.warnings[0]
    assert result.state.feed_sorted
    false_end = received(rows(*down(70, 66)), cursor=None, has_more=False, total=40)
    assert scan.detect_anomaly(false_end) is PageAnomaly.FALSE_END
    assert process(scan, *down(71, 65), cursor="c").warnings == []


def test_events_that_are_repeated_after_a_restart_are_not_counted_again():
    scan = scan_of()
    process(scan, *down(100, 80), cursor="a", total=40)
    result = process(resumed(scan), *down(85, 70), cursor="b", total=40)
    assert result.state.events_seen == 31
    assert result.state.feed_sorted


@pytest.mark.parametrize("restart", [False, True])
def test_a_page_without_a_new_event_is_an_anomaly(restart):
    scan = scan_of()
    process(scan, *down(100, 80), cursor="a")
    scan = resumed(scan) if restart else scan
    page = received(rows(*down(100, 80)), cursor="b")
    assert scan.detect_anomaly(page) is PageAnomaly.REPEATED_PAGE
    assert scan.detect_anomaly(page, {PageAnomaly.REPEATED_PAGE}) is None
    result = scan.process_page(page)
    assert (result.emit, result.state.events_seen) == ([], 21)


def test_a_page_seen_long_before_is_an_anomaly():
    scan = scan_of()
    for number in range(10):
        process(scan, 200 - 2 * number, 199 - 2 * number, cursor=f"c{number}")
    page = received(rows(200, 199), cursor="new")
    assert scan.detect_anomaly(page) is PageAnomaly.REPEATED_PAGE


@pytest.mark.parametrize("has_stalled", [False, True])
def test_a_repeated_page_after_all_events_ends_the_scan_only_when_it_has_stalled(has_stalled):
    """Arrivals that were read stand in the count: the next page may hold what is missing."""
    scan = scan_of()
    process(scan, 100, 99, cursor="a", total=2)
    page = received(rows(100, 99), cursor="b", total=2)
    assert scan.detect_anomaly(page) is PageAnomaly.REPEATED_PAGE
    scan.has_stalled = has_stalled
    scan.process_page(page)
    assert scan.is_finished is has_stalled


# ------------------------------------------------------------------ completeness


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (received(rows(1)), None),
        (received(rows(1), has_more=None), None),
        (received([]), PageAnomaly.EMPTY_PAGE),
        (received([], has_more=None), PageAnomaly.EMPTY_PAGE),
        (received(rows(1), cursor=None), PageAnomaly.MISSING_CURSOR),
        (received(rows(1), cursor="used"), PageAnomaly.REPEATED_CURSOR),
        (received(rows(1), cursor=None, has_more=False), PageAnomaly.FALSE_END),
        (received(rows(1), cursor=None, has_more=None), PageAnomaly.FALSE_END),
        (received(rows(1), has_more=False), PageAnomaly.FALSE_END),
        (received([], cursor=None, has_more=False), PageAnomaly.FALSE_END),
        (received(rows(1), corrupted=True), PageAnomaly.CORRUPTED_PAGE),
        (received(rows(1), total=10), PageAnomaly.TOTAL_DROP),
        (received(rows(1), cursor=None, has_more=False, total=0), PageAnomaly.TOTAL_DROP),
    ],
)
def test_pages_that_are_fetched_again(page, expected):
    scan = scan_of()
    process(scan, 2, cursor="used")
    assert scan.detect_anomaly(page) is expected
    if expected:
        assert scan.detect_anomaly(page, set(PageAnomaly)) is None


@pytest.mark.parametrize(
    "page",
    [
        received(rows(1), cursor=None, has_more=False, total=2),
        received(rows(1), cursor=None, has_more=None, total=2),
        # Whatever is announced: all events were read.
        received(rows(1), cursor=None, total=2),
        received(rows(1), cursor="used", total=2),
    ],
)
def test_a_scan_that_has_read_everything_ends(page):
    scan = scan_of()
    process(scan, 2, cursor="used", total=2)
    assert scan.detect_anomaly(page) is None
    scan.process_page(page)
    assert scan.is_finished


def test_an_anomaly_behind_another_one_is_found():
    scan = scan_of()
    process(scan, 2, cursor="used")
    page = received(rows(1), cursor="used", has_more=True, corrupted=True, total=0)
    ignored = {PageAnomaly.CORRUPTED_PAGE}
    assert scan.detect_anomaly(page, ignored) is PageAnomaly.TOTAL_DROP
    ignored.add(PageAnomaly.TOTAL_DROP)
    assert scan.detect_anomaly(page, ignored) is PageAnomaly.REPEATED_CURSOR


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("dip", [0, 60, 199])
def test_a_total_that_dips_before_a_false_end_does_not_hide_it(dip, restart):
    """The highest total of the scan is what has to be read."""
    scan = scan_of()
    process(scan, *down(500, 401), cursor="a", total=300)
    process(scan, *down(400, 301), cursor="b", total=dip)
    scan = resumed(scan) if restart else scan
    page = received([], cursor=None, has_more=False, total=dip)
    assert scan.detect_anomaly(page, {PageAnomaly.TOTAL_DROP}) is PageAnomaly.FALSE_END
    assert not scan.count(page).may_end


@pytest.mark.parametrize("dip", [0, 50, 120])
def test_a_first_total_that_is_too_low_is_corrected(dip):
    scan = scan_of()
    process(scan, *down(500, 401), cursor="a", total=dip)
    process(scan, *down(400, 301), cursor="b", total=300)
    assert scan.state.events_expected == 300
    page = received([], cursor=None, has_more=False, total=200)
    assert scan.detect_anomaly(page, {PageAnomaly.TOTAL_DROP}) is PageAnomaly.FALSE_END


def test_a_total_of_zero_throughout_leaves_the_end_unverified():
    scan = scan_of()
    page = received(rows(*down(100, 96)), cursor=None, has_more=False, total=0)
    assert scan.detect_anomaly(page) is PageAnomaly.FALSE_END
    assert not scan.count(page).may_end


def test_an_end_far_below_the_total_of_the_last_scan_is_not_accepted():
    """The feed is truncated, or its total is wrong."""
    scan = scan_of(ScanState(known_total=1000))
    page = received(rows(100), total=1, has_more=False, cursor=None)
    assert scan.detect_anomaly(page) is PageAnomaly.TOTAL_DROP
    assert scan.detect_anomaly(page, {PageAnomaly.TOTAL_DROP}) is PageAnomaly.FALSE_END
    full = scan_of(ScanState(known_total=1000), full=True)
    assert full.detect_anomaly(page) is None


@pytest.mark.parametrize("restart", [False, True])
def test_a_scan_that_may_have_gaps_is_proved_by_its_count_only(restart):
    scan = scan_of(loaded_to(100, loaded_ranges=(loaded_range(90, 0),)))
    process(scan, *down(120, 100), cursor="a", total=200)
    scan.mark_incomplete()
    scan = resumed(scan) if restart else scan
    result = process(scan, *down(99, 40), cursor="b", total=200)
    assert (result.skipped, scan.is_finished) == (0, False)
    assert result.state.scan_has_gaps
    assert scan.interrupt().loaded_ranges == (loaded_range(90, 0),)


def test_a_scan_with_gaps_keeps_its_newest_event_over_a_restart():
    scan = scan_of()
    process(scan, *down(120, 100), cursor="a", total=40)
    scan.mark_incomplete()
    again = resumed(scan)
    assert end(again, *down(99, 81)).state.high_watermark == seconds_after_noon(120)


@pytest.mark.parametrize("restart", [False, True])
def test_a_circle_proves_no_completeness_after_a_restart(restart):
    """What the process before has counted may be counted again."""
    scan = scan_of()
    if restart:
        scan.state = replace(scan.state, cursor="c", events_seen=5, events_expected=25)
        scan = Scan(scan.state, lookback=LOOKBACK, full=False)
    for number in range(5 if not restart else 4):
        process(scan, *down(100 - 5 * number, 96 - 5 * number), cursor=f"c{number}", total=25)
    page = received(rows(*down(100, 96)), cursor="new", total=25)
    expected = PageAnomaly.REPEATED_PAGE if restart else None
    assert scan.detect_anomaly(page) is expected


def test_a_page_shorter_than_others_is_doubted_unless_all_events_were_read():
    scan = scan_of()
    process(scan, *down(100, 81), cursor="a", total=25)
    assert scan.detect_anomaly(received(rows(80), total=25)) is PageAnomaly.SHORT_PAGE
    assert scan.detect_anomaly(received(rows(*down(80, 76)), total=25)) is None


def test_an_id_twice_on_one_page_counts_once():
    scan = scan_of()
    result = process(scan, 100, 100, 99, 99, total=10)
    assert result.state.events_seen == 2
    assert emitted(result) == names(100, 99)


def test_arrivals_during_a_scan_are_not_waited_for():
    scan = scan_of()
    process(scan, *down(500, 401), cursor="a", total=300)
    process(scan, *down(400, 301), cursor="b", total=310)
    process(scan, *down(300, 250), cursor="c", total=320)
    assert (scan.state.events_expected, scan.state.total_events) == (300, 320)
    end(scan, *down(249, 201), total=325)
    assert scan.is_finished


@pytest.mark.parametrize(
    ("missing", "total", "ends"),
    [
        (9, 10_000, True),  # one in a thousand
        (11, 10_000, False),
        (90, 9_910, True),  # one percent, where the page's own total confirms it
        (101, 9_899, False),
    ],
)
def test_few_deletions_during_a_scan_end_it_with_a_warning(missing, total, ends):
    scan = scan_of()
    process(scan, *down(9000, 4001), cursor="a", total=10_000)
    page = received(rows(*down(4000, -999 + missing)), cursor=None, has_more=False, total=total)
    assert (scan.detect_anomaly(page, {PageAnomaly.TOTAL_DROP}) is None) is ends
    if ends:
        (warning,) = scan.process_page(page).warnings
        assert f"after {10_000 - missing:,} of 10,000 events" in warning
        assert scan.is_finished


def test_a_whole_page_is_never_within_the_tolerance():
    scan = scan_of()
    for number in range(1000):
        process(scan, *down(9000 - 5 * number, 8996 - 5 * number), cursor=f"c{number}", total=5005)
    page = received([], cursor=None, has_more=False, total=5000)
    assert scan.detect_anomaly(page) is PageAnomaly.FALSE_END


def test_more_events_than_the_feed_holds_are_a_circle():
    scan = scan_of()
    page = received(rows(100, 99), total=1)
    assert not scan.exceeds_total(page)
    scan.state = replace(scan.state, events_seen=1003, total_events=1)
    assert scan.exceeds_total(page)


# ------------------------------------------------------------------ any sequence of scans


class Simulation:
    """A feed that grows at its head, and late within the lookback; a scan through it."""

    def __init__(self) -> None:
        self.now = 1000
        self.feed: dict[str, int] = {}
        self.emitted: set[str] = set()
        self.scan: Scan | None = None
        self.state = ScanState()
        self.position: tuple[int, str] | None = None
        self.at_start: set[str] = set()

    def arrive(self, late: int) -> None:
        """Add an event, ``late`` seconds after its timestamp; ties are frequent."""
        self.now += 1 if late % 3 else 0
        name = f"e{len(self.feed):04}"
        self.feed[name] = self.now - min(late, int(LOOKBACK.total_seconds()) - 1)

    def page(self, size: int) -> None:
        """Process one page, and check what is skipped and what is complete."""
        if self.scan is None:
            self.scan = Scan(self.state, lookback=LOOKBACK, full=False)
            self.position, self.at_start = None, set(self.feed)
        order = sorted(((at, name) for name, at in self.feed.items()), reverse=True)
        if self.position is not None:
            order = [key for key in order if key < self.position]
        part, rest = order[:size], order[size:]
        page = fetched(
            [record_at(name, seconds_after_noon(at)) for at, name in part],
            cursor=f"c{part[-1]}" if rest else None,
            has_more=bool(rest),
            total=len(self.feed),
            at=seconds_after_noon(self.now),
        )
        result = self.scan.process_page(page)
        sent = set(emitted(result))
        assert {name for _, name in part} - sent <= self.emitted, "only what was emitted is skipped"
        assert result.state.feed_sorted
        self.emitted |= sent
        self.state = ScanState.from_dict(json.loads(json.dumps(result.state.to_dict())))
        self.position = part[-1] if part else self.position
        if self.scan.is_finished:
            assert self.at_start <= self.emitted, "a finished scan leaves nothing out"
            self.scan = None

    def restart(self) -> None:
        """The process ends, and another one resumes at the cursor."""
        if self.scan is not None and self.state.cursor is not None:
            self.scan = Scan(self.state, lookback=LOOKBACK, full=False)

    def interrupt(self) -> None:
        """The cursor expires."""
        if self.scan is not None:
            self.state = self.state.interrupt(LOOKBACK)
            self.scan = None


steps = st.one_of(
    st.tuples(st.just("arrive"), st.integers(0, 30)),
    st.tuples(st.just("page"), st.integers(1, 40)),
    st.tuples(st.just("page"), st.integers(1, 40)),
    st.tuples(st.just("restart")),
    st.tuples(st.just("interrupt")),
)


@given(st.integers(0, 120), st.lists(steps, max_size=60))
def test_no_sequence_of_scans_loses_an_event(initial, sequence):
    """Interrupted anywhere, restarted anywhere, growing and late: all is emitted in the end."""
    simulation = Simulation()
    for number in range(initial):
        simulation.arrive(number)
    for name, *arguments in sequence:
        getattr(simulation, name)(*arguments)
    simulation.interrupt()
    simulation.page(3)
    while simulation.scan is not None:
        simulation.page(3)
    simulation.page(1000)
    assert set(simulation.feed) <= simulation.emitted
    assert simulation.state.cursor is None
    assert simulation.state.loaded_ranges == ()
