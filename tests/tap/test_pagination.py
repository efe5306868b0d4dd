"""A whole run, over a transport without network and in no time."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import Any

import pytest
from tap_datasync.bookmark import Bookmark, Span
from tap_datasync.client import Reply
from tap_datasync.extraction import (
    CURSOR_LIFE,
    MAX_DOUBTS,
    MAX_FRUITLESS_WALKS,
    MAX_IDLE_PAGES,
    ExtractedPage,
    Extraction,
)
from tap_datasync.failures import (
    ApiChangedError,
    IncompleteFeedError,
    NoProgressError,
    RetriesExhaustedError,
    TapDataSyncError,
)
from tap_helpers import MILLIS, NOON, body_of, client_of, event, last_page, limits, moment

EXPIRED = Reply(400, {}, b'{"code":"CURSOR_EXPIRED"}')
KEY_REFUSED = Reply(401, {}, b"")


class Run:
    """One run and what came of it."""

    def __init__(
        self,
        *outcomes: Reply | Exception | bytes,
        bookmark: Bookmark | None = None,
        full: bool = False,
        latency: float = 0.0,
        feed: dict[str | None, bytes] | None = None,
    ) -> None:
        logger = logging.getLogger("tests.extraction")
        self.client, self.transport, self.clock = client_of(*outcomes, logger=logger)
        self.transport.latency = latency
        self.transport.by_cursor = feed or {}
        self.error: TapDataSyncError | None = None
        self.pages: list[ExtractedPage] = []
        extraction = Extraction(
            self.client,
            bookmark or Bookmark(),
            lookback=timedelta(seconds=10),
            full=full,
            clock=self.clock,
            logger=logger,
        )
        try:
            for page in extraction.pages():
                assert len(self.pages) < 200, "no endless loop"
                self.pages.append(page)
        except TapDataSyncError as error:
            self.error = error
        self.finished = extraction.walk.finished

    @property
    def bookmark(self) -> Bookmark:
        return self.pages[-1].taken.bookmark

    @property
    def emitted(self) -> list[str]:
        return [record.id for page in self.pages for record in page.taken.emit]


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


def test_a_walk_goes_from_page_to_page_to_its_end():
    """Each page with the bookmark for after it, numbered from one."""
    run = Run(some(0), some(5), final(10), latency=2.0)
    assert run.error is None
    assert run.finished
    assert run.emitted == ids(*range(15))
    assert [page.number for page in run.pages] == [1, 2, 3]
    assert run.transport.asked == [None, "c5", "c10"]
    first = run.pages[0].taken.bookmark
    assert first.cursor == "c5"
    assert first.cursor_expires_at == NOON + timedelta(seconds=2 + 116)
    assert (first.events_seen, first.total_events) == (5, 15)
    assert run.bookmark.complete_to == NOON
    assert run.bookmark.cursor is None


@pytest.mark.parametrize("expires_in", [None, ..., -1])
def test_a_cursor_lives_120_seconds_from_its_request_where_nothing_is_said(expires_in):
    """Not from its reply."""
    run = Run(some(0, cursorExpiresIn=expires_in), final(5, 10), latency=4.0)
    assert run.pages[0].taken.bookmark.cursor_expires_at == NOON + CURSOR_LIFE


def test_an_absurd_life_of_a_cursor_is_no_crash():
    """A day is long enough."""
    run = Run(some(0, cursorExpiresIn=1e300), final(5, 10))
    assert run.pages[0].taken.bookmark.cursor_expires_at == NOON + timedelta(days=1)


def test_a_run_resumes_at_a_live_cursor():
    """Without a request more than needed."""
    first = Run(some(0), some(5), KEY_REFUSED)
    again = Run(final(10), bookmark=first.bookmark)
    assert again.transport.asked == ["c10"]
    assert again.finished
    assert first.emitted + again.emitted == ids(*range(15))
    assert again.bookmark.complete_to == NOON


def test_a_run_with_a_dead_cursor_begins_anew_and_skips_what_is_loaded(caplog):
    """Loudly, and without asking for the dead cursor."""
    old = Bookmark(
        cursor="dead",
        cursor_expires_at=NOON - timedelta(minutes=5),
        walk=Span(moment(0), moment(-4)),
        events_seen=5,
    )
    with caplog.at_level(logging.WARNING):
        run = Run(some(0, count=15, total=20), final(15, total=20), bookmark=old)
    assert run.transport.asked == [None, "c15"]
    assert "The walk is cut off: its cursor has expired" in caplog.text
    # The lookback is wider than the span, so all of it is read again.
    assert run.emitted == ids(*range(20))
    wide = Bookmark(
        cursor="dead", cursor_expires_at=NOON - timedelta(minutes=5), walk=Span(NOON, moment(-14))
    )
    run = Run(some(0, count=15, total=20), final(15, total=20), bookmark=wide)
    assert run.emitted == ids(*range(11), *range(13, 20))
    assert run.pages[0].taken.skipped == 2


def test_a_cursor_whose_end_is_not_known_is_tried():
    """A state may not say."""
    old = Bookmark(cursor="here", walk=Span(moment(0), moment(-4)), events_seen=5, total_events=15)
    assert Run(final(5, 10), bookmark=old).transport.asked == ["here"]


def test_a_cursor_that_is_refused_in_the_middle_begins_a_new_walk():
    """The new one reads the head again and goes on."""
    run = Run(some(0), EXPIRED, some(0), some(5), final(10))
    assert run.transport.asked == [None, "c5", None, "c5", "c10"]
    assert run.finished
    assert set(run.emitted) == set(ids(*range(15)))


def test_walks_that_are_cut_off_at_the_same_place_end():
    """No endless loop, and a sentence."""
    run = Run(*[some(0), EXPIRED] * 20)
    assert isinstance(run.error, NoProgressError)
    assert str(run.error).endswith("Nothing is lost; try again later.")
    assert run.transport.asked.count(None) == MAX_FRUITLESS_WALKS + 1
    assert run.error.exit_code == 1


def test_walks_that_get_further_each_time_go_on():
    """As long as there is progress, there is another walk."""
    outcomes = []
    for pages in range(1, 8):
        outcomes += [some(5 * number, total=100) for number in range(pages)] + [EXPIRED]
    run = Run(*outcomes, final(0, total=5))
    assert run.error is None
    assert run.finished


@pytest.mark.parametrize("code", [b"CURSOR_EXPIRED", b"CURSOR_INVALID_FORMAT"])
def test_a_first_page_that_is_refused_is_no_cursors_fault(code):
    """A 400 without a cursor is fatal."""
    run = Run(Reply(400, {}, b'{"code":"%s"}' % code))
    assert isinstance(run.error, ApiChangedError)


FALSE_ENDS = [
    final(5),
    final(5, hasMore=None),
    final(5, hasMore=...),
    final(5, hasMore=..., nextCursor=...),
    final(5, hasMore=True),
    final(5, hasMore=False, nextCursor="c5"),
    some(5, nextCursor="c5"),
    body_of(hasMore=False, nextCursor=None, total=15),
]


@pytest.mark.parametrize("lie", FALSE_ENDS)
@pytest.mark.parametrize("times", [1, MAX_DOUBTS])
def test_a_false_end_that_passes_costs_only_the_question(lie, times):
    """The page is asked for again, at the same cursor, and the walk goes on."""
    run = Run(some(0), *[lie] * times, some(5), final(10))
    assert run.error is None
    assert run.finished
    assert run.emitted == ids(*range(15))
    assert run.transport.asked == [None, *["c5"] * (times + 1), "c10"]
    assert sum(run.pages[1].effort.retries.values()) == times


@pytest.mark.parametrize("lie", FALSE_ENDS)
def test_a_false_end_for_good_fails_and_keeps_the_place(lie):
    """The page's events are good; the state resumes at the page itself."""
    run = Run(some(0), lie)
    assert isinstance(run.error, IncompleteFeedError)
    assert "of 15 events seen" in str(run.error)
    assert run.transport.asked == [None, *["c5"] * (MAX_DOUBTS + 1)]
    assert run.emitted[:5] == ids(*range(5))
    assert run.bookmark == run.pages[0].taken.bookmark
    assert (run.bookmark.cursor, run.bookmark.complete_to) == ("c5", None)


def test_a_false_end_with_a_good_cursor_is_gone_on_with():
    """Where the API gives a way on, it is taken."""
    run = Run(some(0), *[some(5, hasMore=False)] * (MAX_DOUBTS + 1), final(10))
    assert run.finished
    assert run.emitted == ids(*range(15))


def test_a_false_end_on_the_first_page_keeps_nothing_open():
    """The next run begins again."""
    run = Run(final(0))
    assert isinstance(run.error, IncompleteFeedError)
    assert run.bookmark == Bookmark()
    assert run.emitted == ids(*range(5))


EMPTY = body_of(total=15, nextCursor="c5b")


def test_an_empty_page_in_the_middle_is_asked_for_again():
    """Once empty is not for ever empty."""
    run = Run(some(0), EMPTY, some(5), final(10))
    assert run.finished
    assert run.emitted == ids(*range(15))


def test_a_page_that_stays_empty_is_gone_past():
    """Its cursor leads on."""
    run = Run(some(0), *[EMPTY] * (MAX_DOUBTS + 1), some(5), final(10))
    assert run.finished
    assert run.transport.asked[-2] == "c5b"
    assert [page.exchange.page.returned for page in run.pages] == [5, 0, 5, 5]


def test_empty_pages_without_end_end():
    """A fresh cursor on each of them is no progress."""
    empties = [body_of(total=15, nextCursor=f"x{number}") for number in range(500)]
    run = Run(some(0), *empties)
    assert isinstance(run.error, IncompleteFeedError)
    assert len(run.transport.asked) <= 1 + (MAX_IDLE_PAGES + 1) * (MAX_DOUBTS + 1)


def test_the_same_page_again_under_another_cursor_counts_once():
    """It is no lost order, and the walk goes on behind it."""
    again = some(0, nextCursor="c5b")
    run = Run(feed={None: some(0), "c5": again, "c5b": some(5), "c10": final(10)})
    assert run.finished
    assert run.emitted == ids(*range(15))
    assert run.bookmark.events_seen == 15
    assert not any(page.taken.lost_order for page in run.pages)


def test_the_same_page_without_end_ends():
    """Whatever the cursors are called."""
    run = Run(*[some(0, nextCursor=f"x{number}") for number in range(500)])
    assert isinstance(run.error, IncompleteFeedError)
    assert len(run.transport.asked) <= 1 + (MAX_IDLE_PAGES + 1) * (MAX_DOUBTS + 1)


@pytest.mark.parametrize(
    ("part", "damage"), [(b"event_abc123", b"event_\xff"), (b'"/home"', b"NaN")]
)
def test_a_damaged_page_is_asked_for_again(part, damage):
    """What is neither text nor JSON is taken only when it stays."""
    good = body_of(event(0), event(1), hasMore=False, nextCursor=None, total=2)
    bad = good.replace(part, damage, 1)
    assert bad != good
    run = Run(bad, good)
    assert run.pages[0].exchange.page.rejections == []
    run = Run(bad)
    assert run.finished
    assert run.emitted == ids(0, 1)
    assert len(run.pages[0].exchange.page.rejections) == 1
    assert len(run.transport.asked) == MAX_DOUBTS + 1


def damaged(body: bytes) -> bytes:
    return body.replace(b'"/home"', b"NaN", 1)


def test_damage_does_not_hide_a_false_end():
    """A page that stays damaged is taken, its word that the feed ends is not."""
    run = Run(some(0), damaged(final(5)))
    assert isinstance(run.error, IncompleteFeedError)
    assert (run.bookmark.cursor, run.bookmark.complete_to) == ("c5", None)


def test_damage_does_not_hide_a_circle():
    """Damaged pages whose cursors lead round in a circle are not walked for ever."""
    first, second = some(0, total=100), damaged(some(5, total=100))
    third = damaged(some(10, nextCursor="c5", total=100))
    run = Run(feed={None: first, "c5": second, "c10": third})
    assert isinstance(run.error, IncompleteFeedError)


def test_a_feed_that_stays_damaged_does_not_cost_five_requests_a_page():
    """Once is enough to know; from then on a page gets one more chance."""
    run = Run(feed={None: damaged(some(0)), "c5": damaged(some(5)), "c10": damaged(final(10))})
    assert run.finished
    assert run.emitted == ids(*range(15))
    asked = run.transport.asked
    assert [asked.count(cursor) for cursor in (None, "c5", "c10")] == [MAX_DOUBTS + 1, 2, 2]


def test_a_changed_api_is_told_by_what_does_not_fit():
    """A field that is only missing on the first event is not what has changed."""
    run = Run(last_page(event(0, session=..., type=7), *(event(n, type=7) for n in range(1, 25))))
    assert "type: is not a string" in str(run.error)


def test_an_empty_feed_is_finished():
    """No events are all events."""
    for body in (last_page(), body_of(total=0)):
        run = Run(body)
        assert run.error is None
        assert run.finished
        assert run.bookmark.complete_to is None


def test_a_second_run_stops_where_the_first_began():
    """It reads the lookback again, and no more."""
    first = Run(some(3, count=15, total=15, hasMore=False, nextCursor=None))
    second = Run(body_of(*map(event, range(18))), bookmark=first.bookmark)
    assert second.finished
    assert second.transport.asked == [None]
    assert second.emitted == ids(*range(14))
    assert second.bookmark.complete_to == NOON


def test_a_full_run_reads_all_again():
    """FULL_TABLE goes to the oldest event."""
    first = Run(some(0, count=15, total=15, hasMore=False, nextCursor=None))
    second = Run(some(0), some(5), final(10), bookmark=first.bookmark, full=True)
    assert second.emitted == ids(*range(15))


def test_a_page_of_misfits_is_a_changed_api():
    """Most events of a page do not fit: stop before anything of it is emitted."""
    run = Run(some(0), body_of(*(event(n, type=5) for n in range(6, 30)), event(5)))
    assert isinstance(run.error, ApiChangedError)
    assert "24 of 25 events on a page do not fit (type: is not a string)" in str(run.error)
    assert run.emitted == ids(*range(5))


def test_some_misfits_and_missing_fields_are_no_changed_api():
    """Half of a page may be bad, and all of it may lack a field."""
    good = [event(n) for n in range(20)]
    bad = [event(n, type=5) for n in range(20, 40)]
    lacking = [event(n, session=...) for n in range(40, 80)]
    run = Run(last_page(*good, *bad, *lacking))
    assert run.error is None
    assert len(run.emitted) == 80
    assert len(run.pages[0].exchange.page.rejections) == 60


def test_an_order_that_is_lost_is_told_once(caplog):
    """And the walk goes to the very end."""
    bookmark = Bookmark(complete_to=NOON - timedelta(days=9))
    with caplog.at_level(logging.WARNING):
        run = Run(
            body_of(event(0), event(5), event(1), nextCursor="a", total=7),
            body_of(event(9), event(2), nextCursor="b", total=7),
            body_of(event(7), event(3), nextCursor=None, hasMore=False, total=7),
            bookmark=bookmark,
        )
    assert run.finished
    assert caplog.text.count("not sorted by time") == 1
    assert len(run.emitted) == 7
    # All was loaded, so the next run reads only what is new.
    assert run.bookmark.complete_to == NOON


def test_a_walk_that_has_skipped_before_the_order_was_lost_starts_over(caplog):
    """What it skipped may never have been loaded."""
    bookmark = Bookmark(loaded=(Span(NOON, moment(-1000)),))
    pages = [
        body_of(*map(event, range(20)), nextCursor="a", total=23),
        body_of(event(30), event(25), event(31), nextCursor=None, hasMore=False, total=23),
    ]
    with caplog.at_level(logging.WARNING):
        run = Run(*pages, *pages, bookmark=bookmark)
    assert run.finished
    assert run.transport.asked == [None, "a", None, "a"]
    assert set(run.emitted) == set(ids(*range(20), 25, 30, 31))
    assert caplog.text.count("starts over") == 1


def test_events_without_an_id_do_not_make_an_unsorted_walk_start_over_for_ever():
    """They are seen but have no row, and nothing was skipped."""
    pages = [
        body_of(*map(event, range(20)), event(20, id=...), nextCursor="a", total=24),
        body_of(event(30), event(25), event(31), nextCursor=None, hasMore=False, total=24),
    ]
    run = Run(*pages * 50)
    assert run.finished
    assert run.transport.asked == [None, "a"]


def test_unknown_fields_are_told_once_a_run_by_name(caplog):
    """However many events have them."""
    with caplog.at_level(logging.WARNING):
        Run(
            body_of(event(0, zeta=1), event(1, zeta=2), nextCursor="a", total=3),
            body_of(event(2, zeta=3, alpha=1), nextCursor=None, hasMore=False, total=3),
        )
    assert [record.getMessage() for record in caplog.records] == [
        "Events have a field that is not documented: zeta",
        "Events have a field that is not documented: alpha",
    ]


def test_the_efforts_of_a_page_are_its_own():
    """Retries and waits are counted since the page before."""
    run = Run(
        Reply(503, {}, b""),
        Reply(200, limits(2, 0, 30), some(0)),
        some(5),
        final(10),
    )
    assert [dict(page.effort.retries) for page in run.pages] == [{"503": 1}, {}, {}]
    assert [round(page.effort.waited) for page in run.pages] == [0, 30, 0]


def test_a_failure_keeps_what_was_yielded():
    """The last bookmark resumes the walk."""
    run = Run(some(0), Reply(503, {}, b""))
    assert isinstance(run.error, RetriesExhaustedError)
    state = json.loads(json.dumps(run.bookmark.to_state()))
    assert Bookmark.from_state(state).cursor == "c5"
    assert not run.finished


def test_a_timestamp_of_tomorrow_is_taken_for_now():
    """By the clock at the reply."""
    run = Run(last_page(event(0, timestamp=MILLIS + 86_400_000), event(1)), latency=2.0)
    assert run.bookmark.complete_to == NOON + timedelta(seconds=2)
