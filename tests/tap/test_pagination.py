"""A whole run of the loop, over a transport without network and in no time."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tap_datasync.client import RawResponse
from tap_datasync.errors import (
    ApiChangedError,
    IncompleteFeedError,
    NoProgressError,
)
from tap_datasync.pagination import (
    MAX_IDLE_PAGES,
    MAX_REFETCHES,
    MAX_STALLED_SCANS,
)
from tap_datasync.state import ScanState, TimeRange
from tap_datasync.verification import PageAnomaly

from tests.tap.tap_helpers import (
    NOON,
    FakeClock,
    body_of,
    event,
    last_page,
    limits,
    seconds_after_noon,
)
from tests.tap.tap_runs import SOURCE, catalog_with

EXPIRED = RawResponse(400, {}, b'{"code":"CURSOR_EXPIRED"}')
KEY_REFUSED = RawResponse(401, {}, b"")


def ids(*numbers: int) -> list[str]:
    return [f"id-{number:06}" for number in numbers]


def some(first: int, count: int = 5, **changes: Any) -> bytes:
    """Return a page of events from a number on; its cursor names the next number."""
    defaults: dict[str, Any] = {"nextCursor": f"c{first + count}", "total": 15}
    return body_of(*map(event, range(first, first + count)), **(defaults | changes))


def final(first: int, count: int = 5, **changes: Any) -> bytes:
    """Return the last page of 15 events."""
    ends: dict[str, Any] = {"hasMore": False, "nextCursor": None}
    return some(first, count, **(ends | changes))


def scanned(newest: float, oldest: float, cursor: str | None = "c", **changes: Any) -> ScanState:
    """Return the state of an unfinished scan that has emitted a range of seconds."""
    state = ScanState(
        source=SOURCE,
        cursor=cursor,
        scan_newest_at=seconds_after_noon(newest),
        scan_newest_id=f"id-{-newest:06}",
        scan_oldest_at=seconds_after_noon(oldest),
    )
    return replace(state, **changes)


# ------------------------------------------------------------------ the way of a scan


def test_a_scan_goes_from_page_to_page_to_the_end(run):
    output = run(some(0), some(5), final(10), latency=2.0)
    assert output.error is None
    assert output.emitted == ids(*range(15))
    assert output.cursors == [None, "c5", "c10"]
    first = output.states[0]
    assert (first.source, first.cursor) == (SOURCE, "c5")
    assert first.cursor_expires_at == NOON + timedelta(seconds=2 + 116)
    assert (first.scan_newest_at, first.scan_newest_id) == (NOON, "id-000000")
    assert (first.scan_last_id, first.events_emitted) == ("id-000004", 5)
    assert (first.events_seen, first.events_expected, first.total_events) == (5, 15, 15)
    assert (output.state.high_watermark, output.state.cursor) == (NOON, None)


def test_a_run_resumes_at_a_live_cursor(run):
    first = run(some(0), some(5), KEY_REFUSED)
    again = run(final(10), state=first.state)
    assert again.cursors == ["c10"]
    assert again.error is None
    assert first.emitted + again.emitted == ids(*range(15))
    assert again.state.high_watermark == NOON


def test_an_expired_cursor_starts_a_new_scan_without_a_request_for_it(run, caplog):
    state = scanned(0, -40, cursor_expires_at=NOON - timedelta(minutes=5))
    output = run(some(0, 60, total=70), final(60, 10, total=70), state=state)
    assert output.cursors == [None, "c60"]
    assert "Scan interrupted: its cursor has expired. Starting a new one" in caplog.text
    # Without the lookback, the ends of the range, and the last events of the page.
    assert output.emitted == ids(*range(11), *range(39, 70))
    assert output.rows("pages")[0]["skipped"] == 28


def test_a_cursor_without_known_expiry_is_tried(run):
    state = scanned(0, -4, "here", events_seen=5, events_expected=15, total_events=15)
    assert run(final(5, 10), state=state).cursors == ["here"]


def test_a_cursor_that_is_refused_starts_a_new_scan(run):
    output = run(some(0), EXPIRED, some(0), some(5), final(10))
    assert output.cursors == [None, "c5", None, "c5", "c10"]
    assert output.error is None
    assert set(output.emitted) == set(ids(*range(15)))


def test_scans_that_are_interrupted_at_the_same_position_end_the_run(run):
    output = run(*[some(0), EXPIRED] * 20)
    assert isinstance(output.error, NoProgressError)
    assert str(output.error).endswith("No event is lost; try again later.")
    assert output.cursors.count(None) == MAX_STALLED_SCANS + 1
    assert output.error.exit_code == 1


def test_scans_that_get_further_each_time_continue(run):
    outcomes = []
    for pages in range(1, 8):
        outcomes += [some(5 * number, total=100) for number in range(pages)] + [EXPIRED]
    output = run(*outcomes, final(0, total=5), final(0, total=5))
    assert not isinstance(output.error, NoProgressError)
    assert output.cursors.count(None) >= 8


def test_an_empty_feed_is_finished(run):
    for body in (last_page(), body_of(total=0)):
        output = run(body)
        assert output.error is None
        assert output.state.high_watermark is None


# ------------------------------------------------------------------ the source


def test_a_state_of_another_source_is_ignored_with_a_warning(run, caplog):
    state = ScanState(
        source="https://other.example.com/api/v1",
        cursor="foreign",
        loaded_ranges=(TimeRange(NOON, "id-000000", seconds_after_noon(-1000)),),
        high_watermark=NOON,
        high_watermark_id="id-000000",
    )
    output = run(some(0), some(5), final(10), state=state)
    assert output.cursors == [None, "c5", "c10"]
    assert output.emitted == ids(*range(15))
    assert "https://other.example.com/api/v1" in caplog.text
    assert f"but api_url is {SOURCE}: ignoring the state" in caplog.text
    assert output.state.source == SOURCE


# ------------------------------------------------------------------ false ends

FALSE_ENDS = [
    final(5),
    final(5, hasMore=None),
    final(5, hasMore=..., nextCursor=...),
    final(5, hasMore=True),
    final(5, hasMore=False, nextCursor="c5"),
    some(5, nextCursor="c5"),
    body_of(hasMore=False, nextCursor=None, total=15),
    body_of(hasMore=False, nextCursor=None, total=0),
    final(5, total=10),
]


@pytest.mark.parametrize("false_end", FALSE_ENDS)
@pytest.mark.parametrize("times", [1, MAX_REFETCHES])
def test_a_false_end_that_goes_away_costs_only_requests(run, false_end, times):
    output = run(some(0), *[false_end] * times, some(5), final(10))
    assert output.error is None
    assert output.emitted == ids(*range(15))
    assert output.cursors == [None, *["c5"] * (times + 1), "c10"]
    assert sum(output.rows("pages")[1]["retries"].values()) == times


@pytest.mark.parametrize("false_end", FALSE_ENDS)
def test_a_false_end_that_stays_fails_and_keeps_the_position(run, false_end):
    """The events of the page are emitted; the state resumes at the page itself."""
    output = run(some(0), false_end)
    assert isinstance(output.error, IncompleteFeedError)
    assert "15 expected" in str(output.error)
    assert "5 events read before this page" in str(output.error)
    assert any(anomaly.value in str(output.error) for anomaly in PageAnomaly), output.error
    assert output.cursors == [None, *["c5"] * (MAX_REFETCHES + 1), None]
    assert output.emitted[:5] == ids(*range(5))
    # Something may be missing above it: nothing of the scan is certain until its end.
    assert output.state == replace(output.states[0], scan_has_gaps=True)
    assert (output.state.cursor, output.state.high_watermark) == ("c5", None)


def test_a_false_end_with_a_good_cursor_is_passed(run):
    output = run(some(0), *[some(5, hasMore=False)] * (MAX_REFETCHES + 1), final(10))
    assert output.error is None
    assert output.emitted == ids(*range(15))


def test_a_false_end_on_the_first_page_leaves_no_scan_in_progress(run):
    output = run(final(0))
    assert isinstance(output.error, IncompleteFeedError)
    assert output.state == ScanState(source=SOURCE, scan_has_gaps=True)
    assert output.state.start_scan() == ScanState(source=SOURCE)
    assert output.emitted == ids(*range(5))


@pytest.mark.parametrize(("arrivals", "finished"), [(30, True), (10, False)])
def test_a_burst_of_arrivals_is_not_waited_for(run, arrivals, finished):
    """Only so many events may be missing at the end as the newest page has new ones."""
    burst = [event(-n) for n in range(30, 30 - arrivals, -1)]
    newest = body_of(*burst, *map(event, range(20)), total=90)
    pages = [some(0, 40, total=60), *[final(40, 20, total=90)] * (MAX_REFETCHES + 1), newest]
    output = run(*pages, clock=FakeClock(seconds_after_noon(60)))
    assert output.cursors == [None, *["c40"] * (MAX_REFETCHES + 1), None]
    assert (output.error is None) is finished


@pytest.mark.parametrize("total", [0, 3])
def test_an_end_that_no_total_confirms_fails(run, total):
    """A total of 0 on every page: the end cannot be verified."""
    output = run(
        feed={None: some(0, total=total), "c5": some(5, total=total), "c10": final(10, total=total)}
    )
    assert isinstance(output.error, IncompleteFeedError)


def test_a_feed_smaller_than_an_earlier_scan_fails_with_a_hint(run):
    state = ScanState(source=SOURCE, known_total=1000)
    output = run(final(0, total=5), state=state)
    assert isinstance(output.error, IncompleteFeedError)
    assert "An earlier scan read that many" in str(output.error)
    full = run(
        final(0, total=5), state=state, catalog=catalog_with(replication_method="FULL_TABLE")
    )
    assert full.error is None


def test_a_scan_that_ends_at_the_same_place_again_is_left(run):
    """The missing events are more likely further up: the next run starts at the newest event."""
    counts = {"events_seen": 13, "events_expected": 15, "total_events": 15}
    state = scanned(0, -12, "c13", scan_has_gaps=True, **counts)
    output = run(final(13, 1), state=state)
    assert isinstance(output.error, IncompleteFeedError)
    assert output.state.cursor is None


def test_a_total_that_stays_low_costs_no_refetch_of_later_pages(run, caplog):
    pages = [some(n, total=0) for n in range(5, 50, 5)]
    output = run(some(0, total=1000), *[pages[0]] * (MAX_REFETCHES + 1), *pages[1:], KEY_REFUSED)
    retries = [sum(record["retries"].values()) for record in output.rows("pages")]
    assert retries[:4] == [0, MAX_REFETCHES, 0, 0]
    assert caplog.text.count("Continuing although it persists: meta.total") == 1


# ------------------------------------------------------------------ pages without progress


def test_a_feed_that_announces_events_and_has_none_is_not_finished(run):
    empty = body_of(total=0, nextCursor="a")
    output = run(*[empty] * (MAX_REFETCHES + 1), body_of(total=0, hasMore=False, nextCursor=None))
    assert isinstance(output.error, IncompleteFeedError)


@pytest.mark.parametrize("events", [range(0), range(5)])
def test_a_page_that_stays_without_a_new_event_is_passed(run, events):
    """An empty one, and a repeated one, whose events are not counted again."""
    page = body_of(*map(event, events), total=15, nextCursor="c5b")
    output = run(feed={None: some(0), "c5": page, "c5b": some(5), "c10": final(10)})
    assert output.error is None
    assert output.emitted == ids(*range(15))
    assert [page["events"] for page in output.rows("pages")] == [5, len(events), 5, 5]
    assert output.state.events_seen == 15
    assert output.state.feed_sorted


@pytest.mark.parametrize("events", [range(0), range(5)])
def test_pages_without_a_new_event_are_bounded(run, events):
    """Empty ones, and the same page again, each with a fresh cursor."""
    pages = [body_of(*map(event, events), total=15, nextCursor=f"x{n}") for n in range(500)]
    output = run(some(0), *pages)
    assert isinstance(output.error, IncompleteFeedError)
    assert len(output.cursors) <= 2 + (MAX_IDLE_PAGES + 1) * (MAX_REFETCHES + 1)


def test_a_last_page_that_repeats_for_ever_ends_the_scan(run):
    """Everything was read, and each further page has a fresh cursor and nothing new."""
    last = [some(10, nextCursor=f"x{n}") for n in range(100)]
    output = run(some(0), some(5), *last)
    assert output.error is None
    assert output.emitted == ids(*range(15))
    assert len(output.cursors) <= 3 + 2 * (MAX_IDLE_PAGES + 1)


@pytest.mark.parametrize(("size", "events"), [(5, 50), (101, 1009)])
def test_cursors_that_lead_in_a_circle_end_the_run(run, size, events):
    """Each cursor is new, the pages repeat, or begin elsewhere in each round."""
    pages = [
        body_of(
            *[event(k % events) for k in range(size * n, size * (n + 1))],
            nextCursor=f"x{n}",
            total=100_000,
        )
        for n in range(150)
    ]
    output = run(*pages)
    assert isinstance(output.error, IncompleteFeedError)
    assert "its cursors lead in a circle" in str(output.error)
    assert len(output.cursors) < 20
    assert set(output.emitted) == set(ids(*range(events)))
    # What the scan has counted is not reliable: the next run starts a new one.
    assert (output.state.cursor, output.state.high_watermark) == (None, None)


# ------------------------------------------------------------------ corrupted pages


@pytest.mark.parametrize(
    ("part", "corruption"), [(b"event_abc123", b"event_\xff"), (b'"/home"', b"NaN")]
)
def test_a_corrupted_page_is_fetched_again_and_used_if_it_stays(run, part, corruption):
    good = body_of(event(0), event(1), hasMore=False, nextCursor=None, total=2)
    bad = good.replace(part, corruption, 1)
    assert bad != good
    assert run(bad, good).rows("rejected_events") == []
    output = run(bad)
    assert output.error is None
    assert output.emitted == ids(0, 1)
    assert len(output.rows("rejected_events")) == 1
    assert len(output.cursors) == MAX_REFETCHES + 1


def corrupted(body: bytes) -> bytes:
    return body.replace(b'"/home"', b"NaN", 1)


def test_corruption_does_not_hide_a_false_end(run):
    output = run(some(0), corrupted(final(5)))
    assert isinstance(output.error, IncompleteFeedError)
    assert (output.state.cursor, output.state.high_watermark) == ("c5", None)


def test_a_feed_that_stays_corrupted_does_not_cost_five_requests_a_page(run):
    output = run(
        feed={None: corrupted(some(0)), "c5": corrupted(some(5)), "c10": corrupted(final(10))}
    )
    assert output.error is None
    assert output.emitted == ids(*range(15))
    assert [output.cursors.count(cursor) for cursor in (None, "c5", "c10")] == [
        MAX_REFETCHES + 1,
        2,
        2,
    ]


# ------------------------------------------------------------------ events and warnings


def test_a_page_of_invalid_events_is_a_changed_api(run):
    """Before anything of it is emitted; a field that is only missing is not what changed."""
    invalid = [event(6, session=..., type=5), *(event(n, type=5) for n in range(7, 30))]
    output = run(some(0), body_of(*invalid, event(5)))
    assert isinstance(output.error, ApiChangedError)
    assert "24 of 25 events on a page are invalid (type: not a string)" in str(output.error)
    assert output.emitted == ids(*range(5))


def test_some_invalid_events_and_missing_fields_are_no_changed_api(run):
    good = [event(n) for n in range(20)]
    bad = [event(n, type=5) for n in range(20, 40)]
    lacking = [event(n, session=...) for n in range(40, 80)]
    output = run(last_page(*good, *bad, *lacking))
    assert output.error is None
    assert len(output.emitted) == 80
    assert len(output.rows("rejected_events")) == 60


def test_unknown_fields_are_summed_up_once_a_run(run, caplog):
    run(
        body_of(event(0, zeta=1), event(1, alpha=2), nextCursor="a", total=3),
        body_of(event(2, omega=3), nextCursor=None, hasMore=False, total=3),
    )
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == ["Ignoring undocumented fields of events: alpha, zeta"]


def test_retries_and_waits_are_counted_since_the_page_before(run):
    output = run(
        RawResponse(503, {}, b""),
        RawResponse(200, limits(2, 0, 30), some(0)),
        some(5),
        final(10),
    )
    assert [record["retries"] for record in output.rows("pages")] == [{"http_503": 1}, {}, {}]
    waits = [round(record["rate_limit_wait_seconds"]) for record in output.rows("pages")]
    assert waits == [0, 30, 0]
