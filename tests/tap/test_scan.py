"""One scan: what it emits, what it skips, what it doubts, and when it is finished."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from tap_datasync.scan import Scan
from tap_datasync.state import ScanState, TimeRange
from tap_datasync.verification import MAX_OUTLIERS, PageAnomaly

from tests.tap.tap_helpers import fetched, record_at, seconds_after_noon

if TYPE_CHECKING:
    from tap_datasync.parsing import FetchedPage

LATER = seconds_after_noon(10_000)
LOOKBACK = timedelta(seconds=10)
LONG_AGO = datetime(1970, 1, 1, tzinfo=timezone.utc)


def received(records: list, **changes: Any) -> Any:
    """Return a page that was received later than all its events."""
    return fetched(records, **{"at": LATER} | changes)


def scan_of(state: ScanState | None = None, *, full: bool = False) -> Scan:
    logger = logging.getLogger("tests.scan")
    return Scan(state or ScanState(), lookback=LOOKBACK, full=full, logger=logger)


def anomaly_of(scan: Scan, page: FetchedPage, *ignored: PageAnomaly) -> PageAnomaly | None:
    """Return the first anomaly of a page that is not ignored."""
    return next((one for one in scan.anomalies(scan.check(page)) if one not in ignored), None)


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


def process(scan: Scan, *seconds: float | datetime | None, **changes: Any) -> list[str]:
    """Process a page, and return the ids of the events to emit."""
    page = received(rows(*seconds), **changes)
    return [record.id for record in scan.process_page(scan.check(page))]


def end(scan: Scan, *seconds: float | datetime | None, **changes: Any) -> list[str]:
    """Process the last page of the feed."""
    seen = scan.state.events_seen + len(seconds)
    if scan.state.cursor and "total" not in changes:
        scan.state = replace(scan.state, events_expected=seen, total_events=seen)
    ends: dict[str, Any] = {"cursor": None, "has_more": False, "total": seen}
    return process(scan, *seconds, **ends | changes)


def names(*seconds: float) -> list[str]:
    return [f"at-{second}" for second in seconds]


def resumed(scan: Scan) -> Scan:
    """Return the scan as another process continues it."""
    state = ScanState.from_dict(json.loads(json.dumps(scan.state.to_dict())))
    return scan_of(state)


# ------------------------------------------------------------------ emit and finish


def test_a_cursor_without_a_lifetime_expires_120_seconds_after_its_request():
    scan = scan_of()
    process(scan, 1, expires_in=None)
    assert scan.state.cursor_expires_at == LATER + timedelta(seconds=120)


@pytest.mark.parametrize(
    "page",
    [
        received(rows(90), cursor=None, has_more=False, total=2),
        received(rows(90), cursor=None, has_more=None, total=2),
        received(rows(90), cursor="more", has_more=False, total=2),
        # Whatever is announced: all events were read.
        received(rows(90), cursor=None, total=2),
        received(rows(90), cursor="used", total=2),
        # Behind the last event.
        received([], cursor=None, has_more=False, total=1),
        received([], total=1),
    ],
)
def test_a_scan_that_has_read_everything_ends(page):
    scan = scan_of()
    process(scan, 100, cursor="used", total=page.total)
    assert anomaly_of(scan, page) is None
    assert not scan.is_finished
    scan.process_page(scan.check(page))
    assert scan.is_finished
    state = scan.state
    assert (state.high_watermark, state.high_watermark_id) == (seconds_after_noon(100), "at-100")
    assert (state.cursor, state.cursor_expires_at, state.scan_newest_at) == (None, None, None)


def test_an_event_without_a_timestamp_is_always_emitted():
    scan = scan_of(loaded_to(100))
    process(scan, *down(110, 100), cursor="a")
    emitted = process(scan, 80, None, *down(79, 60), None)
    assert [one for one in emitted if one.startswith("absurd")] == ["absurd-1", "absurd-22"]


# ------------------------------------------------------------------ incremental


def test_an_incremental_scan_stops_below_the_lookback_whatever_the_total():
    scan = scan_of(loaded_to(100))
    end_of_feed: dict[str, Any] = {"cursor": None, "has_more": False, "total": 9_999}
    assert anomaly_of(scan, received(rows(*down(120, 86)), **end_of_feed)) is None
    assert process(scan, *down(120, 86), **end_of_feed) == names(*down(120, 90))
    assert scan.is_finished
    assert scan.incremental_to == seconds_after_noon(90)
    assert scan.state.high_watermark == seconds_after_noon(120)
    assert scan.state.high_watermark_id == "at-120"


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
    assert anomaly_of(scan, page) is PageAnomaly.FALSE_END
    scan.process_page(scan.check(page))
    assert not scan.is_finished


def test_a_feed_that_has_grown_by_more_than_was_found_is_read_to_the_oldest_event(caplog):
    scan = scan_of(loaded_to(100, known_total=200))
    assert process(scan, *down(105, 60), total=230) == names(*down(105, 60))
    assert not scan.is_finished
    (warning,) = caplog.messages
    assert "grown by more events" in warning


def test_a_watermark_whose_event_is_missing_does_not_end_a_scan(caplog):
    """It is of another account, or that event was deleted: what is loaded is not known."""
    scan = scan_of(replace(loaded_to(100), high_watermark_id="of another feed"))
    assert len(process(scan, *down(120, 60), cursor="a")) == 61
    assert not scan.is_finished
    assert (scan.state.high_watermark, scan.state.high_watermark_id) == (None, None)
    process(scan, *down(59, 30), cursor="b")
    (warning,) = caplog.messages
    assert "no longer in the feed" in warning


def test_a_watermark_that_was_met_is_valid_after_a_restart():
    for last in (100, 98, 92):
        scan = scan_of(loaded_to(100))
        process(scan, *down(120, last), cursor="a")
        again = resumed(scan)
        process(again, *down(last - 1, 60), cursor="b")
        assert again.is_finished, last


@pytest.mark.parametrize("outliers", [1, 3, MAX_OUTLIERS])
@pytest.mark.parametrize("place", [5, 25, 31])
def test_absurdly_old_timestamps_neither_end_a_scan_nor_are_skipped(outliers, place, caplog):
    """In the middle of a page or at its end, above the watermark or in the lookback."""
    scan = scan_of(loaded_to(100))
    before = down(120, 90)
    seconds = [*before[:place], *[LONG_AGO] * outliers, *before[place:]]
    assert len(process(scan, *seconds, cursor="a")) == len(seconds)
    assert not scan.is_finished
    process(scan, *down(89, 60), cursor="b")
    assert caplog.messages == []
    assert scan.state.feed_sorted
    assert scan.is_finished


def test_old_timestamps_at_a_page_end_end_no_range():
    """An interrupted scan does not claim to have reached 1970."""
    scan = scan_of()
    process(scan, *down(120, 90), *[LONG_AGO] * MAX_OUTLIERS, cursor="a")
    assert scan.state.scan_oldest_at == seconds_after_noon(90)
    (left,) = scan.interrupt().loaded_ranges
    assert left.oldest_at == seconds_after_noon(90)


# ------------------------------------------------------------------ loaded ranges


@pytest.mark.parametrize(
    ("loaded", "page", "emitted"),
    [
        # Without the ends of the range, its lookback, and the last events of the page: they
        # may be outliers that were never loaded, which only the next page shows.
        ((100, 50), (110, 30), [*down(110, 90), *down(51, 30)]),
        ((1000, 0), (1010, 900), [*down(1010, 990), *down(909, 900)]),
    ],
)
def test_events_inside_a_loaded_range_are_skipped(loaded, page, emitted):
    scan = scan_of(ScanState(loaded_ranges=(loaded_range(*loaded),)))
    assert process(scan, *down(*page)) == names(*emitted)


def test_a_range_whose_newest_event_is_missing_is_not_skipped(caplog):
    foreign = replace(loaded_range(100, 0), newest_id="of another feed")
    scan = scan_of(ScanState(loaded_ranges=(foreign, loaded_range(-50, -90))))
    assert len(process(scan, *down(110, 30), cursor="a")) == 81
    assert scan.state.loaded_ranges == (loaded_range(-50, -90),)
    assert len(process(scan, *down(29, -100), cursor="b")) < 130
    (warning,) = caplog.messages
    assert "no longer in the feed" in warning


# ------------------------------------------------------------------ the future


@pytest.mark.parametrize("ahead", [timedelta(minutes=5), timedelta(days=1), timedelta(days=9999)])
def test_events_in_the_future_do_not_move_the_watermark(ahead, caplog):
    """Nor after a restart in the middle; they are emitted each time."""
    future = LATER + ahead
    scan = scan_of()
    process(scan, future, *down(100, 80), cursor="a")
    assert scan.state.scan_newest_id == "at-100"
    again = resumed(scan)
    end(again, *down(79, 60))
    state = again.state
    assert (state.high_watermark, state.high_watermark_id) == (seconds_after_noon(100), "at-100")
    second = scan_of(state)
    emitted = process(second, future, *down(105, 60), total=47)
    assert emitted[:7] == ["absurd-0", *names(*down(105, 100))]
    assert caplog.messages == []
    assert second.is_finished


def test_a_feed_of_future_events_only_has_no_watermark():
    scan = scan_of()
    assert len(end(scan, LATER + timedelta(days=1))) == 1
    assert scan.is_finished
    assert scan.state.high_watermark is None


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
def test_once_a_timestamp_rises_nothing_is_skipped_and_the_scan_reads_to_the_end(pages, caplog):
    scan = scan_of(loaded_to(80, loaded_ranges=(loaded_range(70, 0),)))
    for number, page in enumerate(pages):
        process(scan, *page, cursor=f"c{number}")
    (warning,) = caplog.messages
    assert "not sorted by timestamp" in warning
    assert len(process(scan, *down(89, 20), cursor="next")) == 70
    assert not scan.is_finished
    assert scan.incremental_to is None
    state = scan.state
    assert (state.scan_sorted, state.feed_sorted, state.loaded_ranges) == (False, False, ())
    again = resumed(scan)
    end(again, 19)
    assert again.state.feed_sorted is False


def test_a_feed_seen_unsorted_is_read_to_the_end_until_a_whole_scan_was_sorted():
    scan = scan_of(replace(loaded_to(100), feed_sorted=False))
    assert len(process(scan, *down(120, 60), cursor="a")) == 61
    assert not scan.is_finished
    end(scan, *down(59, 40))
    assert scan.state.feed_sorted
    assert scan.state.high_watermark == seconds_after_noon(120)
    third = scan_of(scan.state)
    process(third, *down(125, 60), total=86)
    assert third.is_finished


def test_timestamps_in_whole_seconds_are_no_violation(caplog):
    scan = scan_of()
    process(scan, 100.9, 100.7, 100, 100.6, 100.5, cursor="a")
    assert caplog.messages == []
    # What has risen by more than a second in small steps has risen.
    process(scan, *[100 + step / 8 for step in range(16)], cursor="b")
    assert caplog.messages


def test_what_a_timestamp_in_whole_seconds_precedes_is_not_taken_as_loaded():
    """A scan that is interrupted right behind it has not seen the rest of that second."""
    scan = scan_of()
    process(scan, 200, *down(150, 101), 100, cursor="a")
    again = scan_of(scan.interrupt())
    emitted = process(again, 200, 150, *down(112, 101), 100.6, *down(100, 80), cursor="a")
    assert "at-100.6" in emitted


def test_a_resumed_scan_keeps_the_order(caplog):
    scan = scan_of()
    process(scan, *down(120, 90), cursor="a")
    process(resumed(scan), *down(89, 80), cursor="b")
    assert caplog.messages == []
    process(resumed(scan), 115, cursor="b")
    assert caplog.messages


# ------------------------------------------------------------------ identity


@pytest.mark.parametrize("restart", [False, True])
def test_events_that_a_page_repeats_are_not_counted_again(restart, caplog):
    scan = scan_of()
    process(scan, *down(100, 80), cursor="a", total=40)
    scan = resumed(scan) if restart else scan
    emitted = process(scan, *down(85, 70), cursor="b", total=40)
    assert scan.state.events_seen == 31
    assert emitted == names(*down(79, 70))
    assert scan.state.feed_sorted
    false_end = received(rows(*down(70, 66)), cursor=None, has_more=False, total=40)
    assert anomaly_of(scan, false_end) is PageAnomaly.FALSE_END
    process(scan, *down(71, 65), cursor="c")
    (warning,) = caplog.messages
    assert "Pages overlap" in warning


@pytest.mark.parametrize("restart", [False, True])
def test_a_page_without_a_new_event_is_an_anomaly(restart):
    scan = scan_of()
    process(scan, *down(100, 80), cursor="a")
    scan = resumed(scan) if restart else scan
    page = received(rows(*down(100, 80)), cursor="b")
    assert anomaly_of(scan, page) is PageAnomaly.REPEATED_PAGE
    assert anomaly_of(scan, page, PageAnomaly.REPEATED_PAGE) is None
    assert process(scan, *down(100, 80), cursor="b") == []
    assert scan.state.events_seen == 21


def test_a_page_above_the_position_of_a_resumed_scan_is_an_anomaly():
    scan = scan_of()
    process(scan, *down(100, 80), cursor="a")
    process(scan, *down(79, 60), cursor="b")
    page = received(rows(*down(100, 80)), cursor="c")
    assert anomaly_of(resumed(scan), page) is PageAnomaly.REPEATED_PAGE


def test_a_page_seen_long_before_is_an_anomaly():
    scan = scan_of()
    for number in range(10):
        process(scan, 200 - 2 * number, 199 - 2 * number, cursor=f"c{number}")
    page = received(rows(200, 199), cursor="new")
    assert anomaly_of(scan, page) is PageAnomaly.REPEATED_PAGE


@pytest.mark.parametrize("has_stalled", [False, True])
def test_a_repeated_page_after_all_events_ends_the_scan_only_when_it_has_stalled(has_stalled):
    """Arrivals that were read stand in the count: the next page may hold what is missing."""
    scan = scan_of()
    process(scan, 100, 99, cursor="a", total=2)
    page = received(rows(100, 99), cursor="b", total=2)
    assert anomaly_of(scan, page) is PageAnomaly.REPEATED_PAGE
    scan.has_stalled = has_stalled
    scan.process_page(scan.check(page))
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
    assert anomaly_of(scan, page) is expected
    if expected:
        assert anomaly_of(scan, page, *PageAnomaly) is None


def test_an_anomaly_behind_another_one_is_found():
    scan = scan_of()
    process(scan, 2, cursor="used")
    page = received(rows(1), cursor="used", has_more=True, corrupted=True, total=0)
    assert list(scan.anomalies(scan.check(page))) == [
        PageAnomaly.CORRUPTED_PAGE,
        PageAnomaly.TOTAL_DROP,
        PageAnomaly.REPEATED_CURSOR,
    ]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    "totals",
    [*((300, dip, dip) for dip in (0, 60, 199)), *((dip, 300, 200) for dip in (0, 50, 120))],
)
def test_a_total_that_dips_does_not_hide_a_false_end(totals, restart):
    """The highest total of the scan is what has to be read; a first one may be too low."""
    scan = scan_of()
    process(scan, *down(500, 401), cursor="a", total=totals[0])
    process(scan, *down(400, 301), cursor="b", total=totals[1])
    assert scan.state.events_expected == 300
    scan = resumed(scan) if restart else scan
    page = received([], cursor=None, has_more=False, total=totals[2])
    assert anomaly_of(scan, page, PageAnomaly.TOTAL_DROP) is PageAnomaly.FALSE_END
    assert not scan.check(page).may_end


@pytest.mark.parametrize("restart", [False, True])
def test_a_scan_that_may_have_gaps_is_proved_by_its_count_only(restart):
    scan = scan_of(loaded_to(100, loaded_ranges=(loaded_range(90, 0),)))
    process(scan, *down(120, 100), cursor="a", total=200)
    scan.mark_incomplete()
    scan = resumed(scan) if restart else scan
    assert len(process(scan, *down(99, 40), cursor="b", total=200)) == 60
    assert not scan.is_finished
    assert scan.state.scan_has_gaps
    assert scan.interrupt().loaded_ranges == (loaded_range(90, 0),)


def test_a_scan_with_gaps_keeps_its_newest_event_over_a_restart():
    scan = scan_of()
    process(scan, *down(120, 100), cursor="a", total=40)
    scan.mark_incomplete()
    again = resumed(scan)
    end(again, *down(99, 81))
    assert again.state.high_watermark == seconds_after_noon(120)


@pytest.mark.parametrize("restart", [False, True])
def test_a_circle_proves_no_completeness_after_a_restart(restart):
    """What the process before has counted may be counted again."""
    scan = scan_of()
    if restart:
        scan.state = replace(scan.state, cursor="c", events_seen=5, events_expected=25)
        scan = scan_of(scan.state)
    for number in range(5 if not restart else 4):
        process(scan, *down(100 - 5 * number, 96 - 5 * number), cursor=f"c{number}", total=25)
    page = received(rows(*down(100, 96)), cursor="new", total=25)
    expected = PageAnomaly.REPEATED_PAGE if restart else None
    assert anomaly_of(scan, page) is expected


def test_a_page_shorter_than_others_is_doubted_unless_all_events_were_read():
    scan = scan_of()
    process(scan, *down(100, 81), cursor="a", total=25)
    assert anomaly_of(scan, received(rows(80), total=25)) is PageAnomaly.SHORT_PAGE
    assert anomaly_of(scan, received(rows(*down(80, 76)), total=25)) is None


def test_an_id_twice_on_one_page_counts_once():
    scan = scan_of()
    assert process(scan, 100, 100, 99, 99, total=10) == names(100, 99)
    assert scan.state.events_seen == 2


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
def test_few_deletions_during_a_scan_end_it_with_a_warning(missing, total, ends, caplog):
    scan = scan_of()
    process(scan, *down(9000, 4001), cursor="a", total=10_000)
    page = received(rows(*down(4000, -999 + missing)), cursor=None, has_more=False, total=total)
    assert (anomaly_of(scan, page, PageAnomaly.TOTAL_DROP) is None) is ends
    if ends:
        scan.process_page(scan.check(page))
        (warning,) = caplog.messages
        assert f"after {10_000 - missing:,} of 10,000 events" in warning
        assert scan.is_finished


def test_a_whole_page_is_never_within_the_tolerance():
    scan = scan_of()
    for number in range(1000):
        process(scan, *down(9000 - 5 * number, 8996 - 5 * number), cursor=f"c{number}", total=5005)
    page = received([], cursor=None, has_more=False, total=5000)
    assert anomaly_of(scan, page) is PageAnomaly.FALSE_END


def test_more_events_than_the_feed_holds_are_a_circle():
    scan = scan_of()
    page = received(rows(100, 99), total=1)
    assert not scan.check(page).exceeds_total
    scan.state = replace(scan.state, events_seen=1003, total_events=1)
    assert scan.check(page).exceeds_total
