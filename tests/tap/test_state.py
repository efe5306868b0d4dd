"""The bookmark: spans of what is loaded, and the JSON that Meltano keeps."""

from __future__ import annotations

import copy
import json
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap_datasync.bookmark import Bookmark, BookmarkError, Span
from tap_datasync.failures import EXIT_HOPELESS
from tap_helpers import moment

HOUR = timedelta(hours=1)
moments = st.integers(-(10**6), 10**6).map(moment)
spans = st.tuples(moments, moments).map(lambda ends: Span(max(ends), min(ends)))
bookmarks = st.builds(
    Bookmark,
    cursor=st.none() | st.text(min_size=1),
    cursor_expires_at=st.none() | moments,
    walk=st.none() | spans,
    loaded=st.lists(spans, max_size=4).map(tuple),
    complete_to=st.none() | moments,
    events_seen=st.integers(0, 10**9),
    events_emitted=st.integers(0, 10**9),
    total_events=st.none() | st.integers(0, 10**9),
)
KEYS = set(Bookmark().to_state())


@given(bookmarks)
def test_the_state_round_trips_through_json(bookmark):
    """What is saved is what is read."""
    assert Bookmark.from_state(json.loads(json.dumps(bookmark.to_state()))) == bookmark


@given(bookmarks)
def test_every_key_is_always_there(bookmark):
    """A key that is missing from a state would come back when Meltano merges states."""
    assert set(bookmark.to_state()) == KEYS
    assert set(bookmark.finished().to_state()) == KEYS
    assert set(bookmark.cut_off(HOUR).to_state()) == KEYS


def merged(old: dict, new: dict) -> dict:
    """Merge as Meltano does: objects key by key, everything else replaced."""
    result = copy.deepcopy(old)
    for key, value in new.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if nested else copy.deepcopy(value)
    return result


@given(bookmarks, bookmarks)
def test_a_state_merged_over_another_one_is_the_newer_one(old, new):
    """Whatever was there before, the newer state wins in every key."""
    assert Bookmark.from_state(merged(old.to_state(), new.to_state())) == new


@pytest.mark.parametrize("state", [{}, {"version": None}, {"replication_key_value": "2026"}])
def test_an_empty_state_or_one_of_another_tap_is_a_fresh_start(state):
    """No version, no bookmark."""
    assert Bookmark.from_state(state) == Bookmark()


def test_a_walk_whose_order_is_lost_keeps_its_newest_end():
    """It is what will be complete when the walk has gone to the very end."""
    bookmark = Bookmark(cursor="c", unsorted_newest=moment(9), events_seen=5)
    state = json.loads(json.dumps(bookmark.to_state()))
    assert state["walk"]["oldest"] is None
    assert Bookmark.from_state(state) == bookmark
    assert Bookmark.from_state(merged({"walk": {"oldest": "x"}}, state)) == bookmark
    assert bookmark.finished().complete_to == moment(9)
    assert bookmark.cut_off(HOUR) == Bookmark(events_seen=5)


def test_only_a_version_is_an_empty_bookmark():
    """Missing keys are null."""
    assert Bookmark.from_state({"version": 1}) == Bookmark()


@pytest.mark.parametrize("version", [0, 2, "1", {}])
def test_a_state_of_another_version_is_refused_in_a_sentence(version):
    """A newer tap's state is not guessed at."""
    with pytest.raises(BookmarkError, match=r"^The state is of version .*full-refresh\.$") as error:
        Bookmark.from_state({"version": version})
    assert error.value.exit_code == EXIT_HOPELESS


@pytest.mark.parametrize(
    "damage",
    [
        {"cursor": 5},
        {"cursor": ["a"]},
        {"cursor_expires_at": "soon"},
        {"cursor_expires_at": []},
        {"walk": "x"},
        {"walk": {"newest": "2026-01-01T00:00:00Z"}},
        {"walk": {"newest": None, "oldest": "2026-01-01T00:00:00Z"}},
        {"walk": ["2026"]},
        {"loaded": 5},
        {"loaded": [5]},
        {"loaded": {"a": 1}},
        {"loaded": [{"newest": "x", "oldest": "y"}]},
        {"complete_to": "never"},
        {"complete_to": {}},
        {"events_seen": "many"},
        {"events_seen": [1]},
        {"events_emitted": {"a": 1}},
        {"total_events": "all"},
        {"total_events": []},
    ],
)
def test_a_damaged_state_is_refused_in_a_sentence(damage):
    """Nothing is guessed, and nobody sees a traceback."""
    state = Bookmark().to_state() | damage
    with pytest.raises(BookmarkError, match=r"^The state cannot be read.*full-refresh\.$"):
        Bookmark.from_state(state)


def test_numbers_that_became_decimals_are_read():
    """The SDK reads a state's fractions as decimals."""
    assert Bookmark.from_state({"version": 1, "events_seen": 5.0}).events_seen == 5


def test_the_inside_of_a_span_is_loaded_and_its_ends_are_not():
    """A page may end between two events of the same instant."""
    span = Span(moment(100), moment(0))
    # A second inwards, which a time in whole seconds may have lost.
    assert not span.covers(moment(1), timedelta(0))
    assert span.covers(moment(2), timedelta(0))
    assert span.covers(moment(98), timedelta(0))
    assert not span.covers(moment(99), timedelta(0))


def test_the_newest_end_of_a_span_is_read_again_for_late_arrivals():
    """As far as the lookback reaches."""
    span = Span(moment(100), moment(0))
    assert span.covers(moment(89), timedelta(seconds=10))
    assert not span.covers(moment(90), timedelta(seconds=10))


def loaded_of(bookmark: Bookmark) -> list[tuple[float, float]]:
    zero = moment(0)
    return [
        ((span.newest - zero).total_seconds(), (span.oldest - zero).total_seconds())
        for span in bookmark.loaded
    ]


@pytest.mark.parametrize(
    ("walk", "loaded", "expected"),
    [
        # newest, oldest; lookback is 10
        (None, [(50, 0)], [(50, 0)]),
        ((100, 60), [], [(100, 60)]),
        ((100, 60), [(50, 0)], [(100, 60), (50, 0)]),
        ((100, 50), [(50, 0)], [(100, 50), (50, 0)]),
        ((100, 45), [(50, 0)], [(100, 50), (50, 0)]),
        ((100, 41), [(50, 0)], [(100, 50), (50, 0)]),
        ((100, 40), [(50, 0)], [(100, 50), (50, 0)]),
        ((100, 39), [(50, 0)], [(100, 0)]),
        ((100, 20), [(50, 0)], [(100, 0)]),
        ((100, -10), [(50, 0)], [(100, -10)]),
        ((100, -10), [(50, 0), (-20, -50)], [(100, -10), (-20, -50)]),
        ((100, -25), [(50, 0), (-20, -50)], [(100, -20), (-20, -50)]),
        ((100, -35), [(50, 0), (-20, -50)], [(100, -50)]),
        ((100, -60), [(50, 0), (-20, -50)], [(100, -60)]),
        ((45, 42), [(50, 0)], [(50, 0)]),
        ((100, 100), [], []),
        ((100, 200), [(50, 0)], [(50, 0)]),
    ],
)
def test_a_walk_that_is_cut_off_joins_what_is_loaded(walk, loaded, expected):
    """Spans that it has passed are swallowed, those that it only touches keep their end."""
    bookmark = Bookmark(
        cursor="c",
        cursor_expires_at=moment(0),
        walk=walk and Span(moment(walk[0]), moment(walk[1])),
        loaded=tuple(Span(moment(a), moment(b)) for a, b in loaded),
        complete_to=moment(-1000),
    )
    closed = bookmark.cut_off(timedelta(seconds=10))
    assert loaded_of(closed) == expected
    assert (closed.cursor, closed.cursor_expires_at, closed.walk) == (None, None, None)
    assert closed.complete_to == moment(-1000)


@given(
    st.lists(st.integers(0, 500), min_size=2, max_size=2, unique=True),
    st.lists(st.integers(0, 500), max_size=8, unique=True).map(sorted),
    st.integers(0, 100),
)
def test_what_is_loaded_stays_disjoint_and_newest_first(walk, ends, lookback):
    """After any cut, and nothing is claimed that no walk has emitted."""
    pairs = list(zip(ends[::2], ends[1::2], strict=False))[::-1]
    spans = tuple(Span(moment(b), moment(a)) for a, b in pairs)
    newest = max([*walk, *(b for _, b in pairs)])
    oldest = min(walk)
    bookmark = Bookmark(walk=Span(moment(newest), moment(oldest)), loaded=spans)
    after = bookmark.cut_off(timedelta(seconds=lookback)).loaded
    for newer, older in pairwise(after):
        assert newer.newest > newer.oldest >= older.newest > older.oldest
    for second in range(501):
        at = moment(second)
        if any(span.covers(at, timedelta(seconds=lookback)) for span in after):
            emitted = oldest < second < newest
            assert emitted or any(a < second < b for a, b in pairs)


@pytest.mark.parametrize(
    ("walk", "complete_to", "expected"),
    [(None, None, None), (None, 5, 5), (9, None, 9), (9, 5, 9), (5, 9, 9)],
)
def test_a_finished_walk_moves_what_is_complete_forward_only(walk, complete_to, expected):
    """``complete_to`` is the newest of the last finished walk, and never falls."""
    bookmark = Bookmark(
        cursor="c",
        walk=None if walk is None else Span(moment(walk), moment(0)),
        loaded=(Span(moment(3), moment(2)),),
        complete_to=None if complete_to is None else moment(complete_to),
    ).finished()
    assert bookmark.complete_to == (None if expected is None else moment(expected))
    assert (bookmark.cursor, bookmark.walk, bookmark.loaded) == (None, None, ())
