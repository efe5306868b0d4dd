"""The feed: its events, their order, and pages without overlap or gap."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timezone
from itertools import pairwise

import pytest
from datasync_sandbox.data.events import TYPE_SHARES
from datasync_sandbox.data.timestamps import isoformat, to_millis
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sandbox.sandbox_helpers import feed_of


def scan(feed, *sizes):
    """Read the whole feed in pages of the given sizes, over and over."""
    events, after, number = [], None, 0
    while True:
        page = feed.page(after, sizes[number % len(sizes)])
        assert len(page.events) <= sizes[number % len(sizes)]
        events += page.events
        if not page.has_more:
            return events
        after, number = page.end, number + 1


def ids(events):
    return [event.id for event in events]


def test_newest_event_is_first_and_ties_across_page_ends_are_ordered_by_id():
    events = scan(feed_of(20_000), 5000)
    assert len(events) == 20_000
    assert all((one.millis, one.id) > (other.millis, other.id) for one, other in pairwise(events))
    assert isoformat(events[0].millis) == "2026-01-27T19:20:12.369Z"
    millis = [event.millis for event in events]
    assert all(millis[end - 1] == millis[end] for end in (5000, 10_000, 15_000))
    assert Counter(Counter(millis).values())[3] >= 30


@settings(max_examples=20, deadline=None)
@given(
    total=st.integers(0, 3000),
    sizes=st.lists(st.just(1) | st.integers(151, 5000), min_size=1, max_size=4),
    seed=st.integers(0, 5),
    shards=st.integers(1, 3),
)
def test_pages_of_any_size_neither_overlap_nor_leave_gaps(total, sizes, seed, shards):
    feed = feed_of(total, seed=seed, shards=shards)
    found = ids(scan(feed, *sizes))
    assert found == ids(feed.rows())
    assert len(set(found)) == total


@pytest.mark.parametrize("as_millis", [True, False])
def test_json_of_an_event_is_that_of_its_fields(as_millis):
    feed = feed_of(1100)
    for event, row in zip(scan(feed, 700), feed.rows(), strict=True):
        document = json.loads(event.to_json(as_millis=as_millis))
        timestamp = document.pop("timestamp")
        assert list(document) == [
            *("id", "sessionId", "userId", "type", "name", "properties", "session"),
        ]
        values = row.to_dict()
        del values["timestamp"]
        assert list(document.values()) == list(values.values())
        assert row.session["id"] == row.session_id
        assert (timestamp if as_millis else to_millis(timestamp)) == event.millis
        assert to_millis(row.timestamp) == event.millis


def test_seed_determines_the_feed():
    rows = list(feed_of(3000, seed=7).rows())
    assert rows == list(feed_of(3000, seed=7).rows())
    assert not set(ids(rows)) & set(ids(feed_of(3000, seed=8).rows()))


def test_feed_is_the_same_on_every_machine():
    # A table may be compared with a feed that was computed elsewhere.
    first, last = feed_of(5000).event(0), feed_of(5000).event(4999)
    assert (first.id, first.name, isoformat(to_millis(first.timestamp))) == FIRST
    assert (last.id, last.name, isoformat(to_millis(last.timestamp))) == LAST


FIRST = ("a509658f-2a52-4d5d-9d13-4cbddfd91fe9", "event_3qfya2", "2026-01-27T19:20:12.369Z")
LAST = ("ca50390c-f879-43dd-8cd5-9ab495ea998d", "event_5omy8q", "2026-01-27T18:08:13.233Z")


def test_oldest_of_three_million_events_needs_no_others():
    feed = feed_of(3_000_000)
    oldest = feed.event(2_999_999)
    days = (feed.event(0).timestamp - oldest.timestamp).total_seconds() / 86_400
    assert days == pytest.approx(30, abs=0.01)
    assert feed._generator._chunk.cache_info().currsize == 2


def test_shares_sessions_and_users_are_those_of_the_recordings():
    rows = list(feed_of(50_000).rows())
    types = Counter(row.type for row in rows)
    for name, share in TYPE_SHARES.items():
        assert types[name] / len(rows) == pytest.approx(share / 20, abs=0.005)
    assert len({row.session_id for row in rows}) == 1000
    assert len({row.user_id for row in rows}) == 50
    assert {row.session["deviceType"] for row in rows} == {"mobile", "tablet", "desktop"}
    assert {row.session["browser"] for row in rows} == {"Chrome", "Safari", "Firefox", "Edge"}
    assert all(row.id[14] == "4" and row.id[19] in "89ab" for row in rows)
    assert len({(row.session_id, row.user_id, str(row.session)) for row in rows}) == 1000


def test_arrivals_come_first_and_in_order():
    feed = feed_of(1000, arrivals=10)
    before = ids(feed.rows())
    feed.arrive(5)
    found = ids(feed.rows())
    assert found[5:] == before
    assert found[:5] == [feed.arrival(number).id for number in (4, 3, 2, 1, 0)]
    feed.arrive(3)
    assert feed.total == 1005


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 60)), min_size=1, max_size=8),
    seed=st.integers(0, 3),
    shards=st.integers(1, 3),
)
def test_scan_of_a_growing_feed_has_each_earlier_event_once(steps, seed, shards):
    feed = feed_of(200, seed=seed, arrivals=1, late="0.5:600", shards=shards)
    feed.arrive(10)
    earlier = set(ids(feed.rows()))
    found, after, step = [], None, 0
    while True:
        size, arriving = steps[step % len(steps)]
        page = feed.page(after, size)
        found += ids(page.events)
        if not page.has_more:
            break
        after, step = page.end, step + 1
        feed.arrive(min(feed.arrived + arriving, 400))
    assert len(found) == len(set(found))
    assert earlier <= set(found)


def test_late_arrivals_are_placed_among_older_events():
    feed = feed_of(500, arrivals=1, late="1:300")
    frozen = ids(feed.rows())
    feed.arrive(50)
    found = ids(feed.rows())
    assert found[50:] != frozen
    assert [event_id for event_id in found if event_id in set(frozen)] == frozen
    timestamps = [row.timestamp for row in feed.rows()]
    assert timestamps == sorted(timestamps, reverse=True)


def test_events_before_a_place_are_those_of_the_page_before():
    feed = feed_of(500, arrivals=1, late="0.5:300")
    feed.arrive(20)
    rows = ids(feed.rows())
    place = feed.page(None, 40).end
    assert ids(feed.events_before(place, 10)) == rows[30:40]
    assert ids(feed.events_before(place, 100)) == rows[:40]
    assert feed.events_before(None, 10) == []


def test_unsorted_feed_has_the_same_events():
    feed = feed_of(3000, unsorted=0.1)
    events = scan(feed, 500)
    rises = sum(one.millis < other.millis for one, other in pairwise(events))
    assert 100 < rises < 600
    assert set(ids(events)) == set(ids(feed_of(3000).rows()))
    assert [event.millis for event in events] == [to_millis(r.timestamp) for r in feed.rows()]


def test_shards_follow_one_another_each_newest_first():
    millis = [event.millis for event in scan(feed_of(900, shards=3), 100)]
    rises = [at for at, (one, other) in enumerate(pairwise(millis), 1) if one < other]
    assert rises == [300, 600]


@pytest.mark.parametrize(
    "newest",
    ["2026-03-01T12:00:00.005Z", "2026-03-01T12:00:00.005", "2026-03-01 14:00:00.005+02:00"],
)
def test_newest_timestamp_may_have_a_zone(newest):
    when = datetime(2026, 3, 1, 12, 0, 0, 5000, tzinfo=timezone.utc)
    assert feed_of(1, newest=newest).event(0).timestamp == when
