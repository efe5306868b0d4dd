"""One walk: what it emits, what it skips, and when it is over."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap_datasync.bookmark import Bookmark, Span
from tap_datasync.walk import Doubt, Taken, Walk
from tap_helpers import decoded, moment, record_at

NOW = moment(10_000)
LOOKBACK = timedelta(seconds=10)


def start(bookmark: Bookmark | None = None, *, full: bool = False) -> Walk:
    return Walk.start(bookmark or Bookmark(), lookback=LOOKBACK, full=full)


def rows(*seconds: float | None) -> list:
    return [record_at(f"at-{s}", None if s is None else moment(s)) for s in seconds]


def take(walk: Walk, *seconds: float | None, **changes: Any) -> Taken:
    return walk.take(decoded(rows(*seconds), **changes), expires_at=NOW, now=NOW)


def emitted(taken: Taken) -> list[str]:
    return [record.id for record in taken.emit]


def test_a_first_walk_emits_everything_and_follows_the_cursor():
    """Nothing is loaded, nothing is skipped."""
    walk = start()
    assert walk.bookmark.cursor is None
    taken = take(walk, 100, 90, 90, 80, cursor="one")
    assert emitted(taken) == ["at-100", "at-90", "at-90", "at-80"]
    assert (taken.skipped, taken.newest, taken.oldest) == (0, moment(100), moment(80))
    assert taken.bookmark.walk == Span(moment(100), moment(80))
    assert (walk.bookmark.cursor, walk.finished) == ("one", False)
    assert (taken.bookmark.events_seen, taken.bookmark.events_emitted) == (4, 4)


def test_the_last_page_finishes_the_walk():
    """``hasMore: false`` with all events seen is the end, with or without a cursor."""
    for cursor in (None, "more"):
        walk = start()
        page = decoded(rows(100, 90), cursor=cursor, has_more=False, total=2)
        assert walk.doubt(page) is None
        taken = walk.take(page, expires_at=NOW, now=NOW)
        assert walk.finished
        assert taken.bookmark.complete_to == moment(100)
        assert (taken.bookmark.cursor, taken.bookmark.cursor_expires_at) == (None, None)


@pytest.mark.parametrize("has_more", [True, False])
def test_an_empty_page_behind_the_last_event_finishes_the_walk(has_more):
    """An API may say so only with an empty page, or not at all."""
    walk = start()
    take(walk, 100, 90, total=2, cursor="one")
    assert not walk.finished
    page = decoded([], cursor="two" if has_more else None, has_more=has_more, total=2)
    assert walk.doubt(page) is None
    walk.take(page, expires_at=NOW, now=NOW)
    assert walk.finished


def test_a_walk_stops_after_three_events_that_are_loaded():
    """Strictly below the end of the last walk, less the lookback, and in a row."""
    bookmark = Bookmark(complete_to=moment(100))
    walk = start(bookmark)
    taken = take(walk, 120, 100, 90, 89, 88)
    assert emitted(taken) == ["at-120", "at-100", "at-90"]
    assert not walk.finished
    taken = take(walk, 87, 86, cursor="two")
    assert emitted(taken) == []
    assert walk.finished
    assert taken.bookmark.complete_to == moment(120)


def test_a_full_walk_goes_to_the_end_whatever_is_loaded():
    """FULL_TABLE neither skips nor stops early by ``complete_to``."""
    walk = start(Bookmark(complete_to=moment(100)), full=True)
    taken = take(walk, 80, 79, 78, 77)
    assert len(taken.emit) == 4
    assert not walk.finished


def test_events_inside_a_span_are_skipped_and_its_edges_are_not():
    """Ties at the ends, and the lookback below the newest end, are read again."""
    walk = start(Bookmark(loaded=(Span(moment(100), moment(50)),)))
    taken = take(walk, 110, 100, 95, 90, 89, 60, 51, 50, 50, 49)
    again = ["at-110", "at-100", "at-95", "at-90", "at-51", "at-50", "at-50", "at-49"]
    assert emitted(taken) == again
    assert (taken.skipped, walk.has_skipped) == (2, True)


def test_an_event_without_a_time_is_always_emitted():
    """It cannot be compared with anything, and takes no part in the order."""
    walk = start(Bookmark(complete_to=moment(1000), loaded=(Span(moment(100), moment(50)),)))
    taken = take(walk, 80, None, 70, None, 60)
    assert emitted(taken) == ["at-None", "at-None"]
    assert not taken.lost_order


def test_events_without_an_id_are_not_taken_for_skipped():
    """They are seen and rejected: the walk has not left them out."""
    walk = start()
    walk.take(decoded(rows(100), returned=3), expires_at=NOW, now=NOW)
    assert walk.bookmark.events_seen == 3
    assert not walk.has_skipped


@pytest.mark.parametrize("year", [1970, 2099])
@pytest.mark.parametrize("place", range(6))
def test_an_absurd_time_neither_ends_a_walk_nor_moves_what_is_complete(year, place):
    """One wrong clock among the visitors costs no event."""
    absurd = datetime(year, 1, 1, tzinfo=timezone.utc)
    before = Bookmark(complete_to=moment(0))
    walk = start(before)
    records = rows(140, 130, 120, 110, 105)
    records.insert(place, record_at("absurd", absurd))
    taken = walk.take(decoded(records), expires_at=NOW, now=NOW)
    assert {record.id for record in records} - {"absurd"} <= set(emitted(taken))
    assert not walk.finished
    walk.take(
        decoded(rows(100, 90), cursor=None, has_more=False, total=8), expires_at=None, now=NOW
    )
    complete_to = walk.bookmark.complete_to
    # An absurd time in the future counts as now; it is never the measure.
    assert complete_to is not None
    assert complete_to <= NOW


def test_an_absurd_time_in_the_future_at_the_head_is_taken_for_now():
    """Otherwise no later walk would ever load anything again."""
    walk = start()
    absurd = record_at("absurd", datetime(2099, 1, 1, tzinfo=timezone.utc))
    walk.take(decoded([absurd, *rows(100)]), expires_at=NOW, now=NOW)
    assert walk.bookmark.walk == Span(NOW, moment(100))


@pytest.mark.parametrize("pages", [[(100, 90, 95)], [(100, 90), (95,)]])
def test_when_the_order_is_lost_nothing_is_skipped_any_more(pages):
    """A time that rises, on one page or between two, ends skipping and early stopping."""
    bookmark = Bookmark(complete_to=moment(80), loaded=(Span(moment(70), moment(0)),))
    walk = start(bookmark)
    lost = [take(walk, *page, cursor=f"c{n}").lost_order for n, page in enumerate(pages)]
    assert lost == [False] * (len(pages) - 1) + [True]
    taken = take(walk, 60, 50, 40, 30, cursor="last")
    assert len(taken.emit) == 4
    assert not walk.finished
    assert not taken.lost_order
    assert (taken.bookmark.walk, taken.bookmark.loaded) == (None, ())
    assert taken.bookmark.complete_to is None
    walk.take(decoded([], cursor=None, has_more=False, total=7), expires_at=None, now=NOW)
    assert walk.finished
    assert walk.bookmark.complete_to == moment(100)


def test_a_time_in_whole_seconds_between_others_is_no_lost_order():
    """It lies up to a second below its place; much as ever, a rise of more is one."""
    walk = start(Bookmark(complete_to=moment(80)))
    taken = take(walk, 100.9, 100.7, 100, 100.6, 100.5, cursor="a")
    assert not taken.lost_order
    assert taken.bookmark.walk == Span(moment(100.9), moment(100))
    # What has crept up by more than a second has risen, however slowly.
    assert take(walk, 100.9, 101.4, cursor="b").lost_order


def test_what_a_time_in_whole_seconds_lies_before_is_not_taken_for_loaded():
    """A walk that is cut off right behind it has not seen the rest of that second."""
    walk = start()
    take(walk, 200, 100, cursor="a")
    again = start(walk.cut_off())
    assert emitted(take(again, 300, 150, 101, 100.6, 100.2)) == [
        *("at-300", "at-101", "at-100.6", "at-100.2")
    ]


def test_a_page_that_reaches_what_is_loaded_out_of_order_is_doubted():
    """Its order counts against the page before it, too."""
    walk = start(Bookmark(complete_to=moment(100)))
    take(walk, 150, 120, cursor="a")
    page = decoded(rows(130, 80, 79, 78), cursor=None, has_more=False)
    assert walk.doubt(page) is Doubt.FALSE_END


def test_an_order_that_is_lost_stays_lost_over_a_restart():
    """The bookmark of such a walk has no span."""
    walk = start(Bookmark(complete_to=moment(80)))
    take(walk, 90, 95)
    again = Walk.resume(
        Bookmark.from_state(json.loads(json.dumps(walk.bookmark.to_state()))),
        lookback=LOOKBACK,
        full=False,
    )
    taken = take(again, 60, 50, 40, 30)
    assert len(taken.emit) == 4
    assert not again.finished


def test_a_resumed_walk_still_knows_the_order():
    """The last page's oldest event is the measure for the next page."""
    walk = start()
    take(walk, 100, 90)
    again = Walk.resume(walk.bookmark, lookback=LOOKBACK, full=False)
    assert not take(again, 90, 80, cursor="b").lost_order
    assert take(again, 82, cursor="c").lost_order


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (decoded(rows(1)), None),
        (decoded(rows(1), has_more=None), None),
        (decoded([]), Doubt.EMPTY),
        (decoded([], has_more=None), Doubt.EMPTY),
        (decoded(rows(1), cursor=None), Doubt.CURSOR_MISSING),
        (decoded(rows(1), cursor="used"), Doubt.CURSOR_REPEATS),
        (decoded(rows(1), cursor=None, has_more=False), Doubt.FALSE_END),
        (decoded(rows(1), cursor=None, has_more=None), Doubt.FALSE_END),
        (decoded(rows(1), has_more=False), Doubt.FALSE_END),
        (decoded([], cursor=None, has_more=False), Doubt.FALSE_END),
        (decoded(rows(1), cursor=None, has_more=False, total=2), None),
        (decoded(rows(1), cursor=None, has_more=None, total=2), None),
        (decoded([], cursor=None, has_more=False, total=1), None),
        (decoded([], total=1), None),
        # Whatever is said of more to come: all that the API counts has been seen.
        (decoded(rows(1), cursor=None, total=2), None),
        (decoded(rows(1), cursor="used", total=2), None),
    ],
)
def test_pages_that_are_asked_for_again(page, expected):
    """The table of doubts; one event of this walk has been seen before."""
    walk = start()
    take(walk, 2, cursor="used")
    assert walk.doubt(page) is expected


@pytest.mark.parametrize("cursor", [None, "used"])
def test_a_walk_that_has_seen_all_ends_where_no_cursor_leads_on(cursor):
    """More is said to come, but there is nothing left to wait for."""
    walk = start()
    take(walk, 2, cursor="used")
    walk.take(decoded(rows(1), cursor=cursor, total=2), expires_at=NOW, now=NOW)
    assert walk.finished


def test_a_page_that_reaches_what_is_loaded_is_never_doubted():
    """What comes behind it does not matter."""
    walk = start(Bookmark(complete_to=moment(100)))
    page = decoded(rows(120, 80, 79, 78), cursor=None, has_more=False)
    assert walk.doubt(page) is None
    assert walk.doubt(decoded(rows(120, 80, 79), cursor=None)) is Doubt.CURSOR_MISSING
    assert walk.doubt(decoded(rows(78, 120, 80), cursor=None)) is Doubt.CURSOR_MISSING
    walk.take(page, expires_at=None, now=NOW)
    assert walk.finished


def test_what_is_deleted_during_a_walk_is_not_waited_for():
    """The smallest count that the API has told in this walk is the one that counts."""
    walk = start()
    take(walk, 100, 90, total=4)
    last = decoded(rows(80), cursor=None, has_more=False, total=3)
    assert walk.doubt(last) is None
    grown = decoded(rows(80, 70), cursor=None, has_more=False, total=9)
    assert walk.doubt(grown) is None


class World:
    """A feed that grows at its head, and late within the lookback; a walk through it."""

    def __init__(self) -> None:
        self.now = 1000
        self.feed: dict[str, int] = {}
        self.emitted: set[str] = set()
        self.walk: Walk | None = None
        self.bookmark = Bookmark()
        self.position: tuple[int, str] | None = None
        self.at_start: set[str] = set()

    def arrive(self, late: int) -> None:
        """Add an event, ``late`` seconds after its time; ties are frequent."""
        self.now += 1 if late % 3 else 0
        name = f"e{len(self.feed):04}"
        self.feed[name] = self.now - min(late, int(LOOKBACK.total_seconds()) - 1)

    def page(self, size: int) -> None:
        """Take one page in, and check what is skipped and what is complete."""
        if self.walk is None:
            self.walk = Walk.start(self.bookmark, lookback=LOOKBACK, full=False)
            self.position, self.at_start = None, set(self.feed)
        order = sorted(((at, name) for name, at in self.feed.items()), reverse=True)
        if self.position is not None:
            order = [key for key in order if key < self.position]
        part, rest = order[:size], order[size:]
        page = decoded(
            [record_at(name, moment(at)) for at, name in part],
            cursor=f"c{part[-1]}" if rest else None,
            has_more=bool(rest),
            total=len(self.feed),
        )
        taken = self.walk.take(page, expires_at=None, now=moment(self.now))
        sent = {record.id for record in taken.emit}
        skipped = {name for _, name in part} - sent
        assert skipped <= self.emitted, "only what was emitted is skipped"
        assert not taken.lost_order
        self.emitted |= sent
        self.bookmark = Bookmark.from_state(json.loads(json.dumps(taken.bookmark.to_state())))
        self.position = part[-1] if part else self.position
        if self.walk.finished:
            assert self.at_start <= self.emitted, "a finished walk leaves nothing out"
            self.walk = None

    def restart(self) -> None:
        """The process ends, and another one goes on at the cursor."""
        if self.walk is not None and self.bookmark.cursor is not None:
            self.walk = Walk.resume(self.bookmark, lookback=LOOKBACK, full=False)

    def cut(self) -> None:
        """The cursor dies."""
        if self.walk is not None:
            self.bookmark = self.bookmark.cut_off(LOOKBACK)
            self.walk = None


steps = st.one_of(
    st.tuples(st.just("arrive"), st.integers(0, 30)),
    st.tuples(st.just("page"), st.integers(1, 5)),
    st.tuples(st.just("page"), st.integers(1, 5)),
    st.tuples(st.just("restart")),
    st.tuples(st.just("cut")),
)


@given(st.integers(0, 30), st.lists(steps, max_size=60))
def test_no_sequence_of_walks_loses_an_event(initial, sequence):
    """Cut off anywhere, restarted anywhere, growing and late: all is emitted in the end."""
    world = World()
    for number in range(initial):
        world.arrive(number)
    for name, *arguments in sequence:
        getattr(world, name)(*arguments)
    world.cut()
    world.page(3)
    while world.walk is not None:
        world.page(3)
    world.page(100)
    assert set(world.feed) <= world.emitted
    assert world.bookmark.cursor is None
    assert world.bookmark.loaded == ()
