"""The feed: which events there are, in which order, and pages without overlap or gap."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timezone
from itertools import pairwise

import pytest
from datasync_sandbox.blocks import BLOCK, TYPE_SHARES
from datasync_sandbox.stamps import instant, iso, millis_of
from datasync_sandbox.testing import ArrivalRate, Feed, FeedDefects
from hypothesis import given, settings
from hypothesis import strategies as st


def walk(feed: Feed, *sizes: int) -> list[dict]:
    """Read the whole feed in pages of the given sizes, over and over."""
    events, after, number = [], None, 0
    while True:
        page = feed.page(after, sizes[number % len(sizes)])
        events += [json.loads(text) for text in page.texts]
        assert len(page.texts) <= sizes[number % len(sizes)]
        if not page.more:
            return events
        after, number = page.last, number + 1


def millis(event: dict) -> int:
    stamp = event["timestamp"]
    return stamp if isinstance(stamp, int) else millis_of(stamp)


def key(event: dict) -> tuple[int, str]:
    return millis(event), event["id"]


def test_newest_first_ties_by_id():
    events = walk(Feed(20_000), 5000)
    assert len(events) == 20_000
    assert all(one > two for one, two in pairwise(map(key, events)))
    assert millis(events[0]) == millis_of("2026-01-27T19:20:12.369Z")


def test_ties_occur_across_page_ends():
    stamps = [row.timestamp for row in Feed(20_000).rows()]
    assert all(stamps[end - 1] == stamps[end] for end in (5000, 10_000, 15_000))
    assert Counter(Counter(stamps).values())[3] >= 30


@settings(max_examples=20, deadline=None)
@given(
    total=st.integers(0, 3 * BLOCK),
    sizes=st.lists(st.integers(151, 5000), min_size=1, max_size=4),
    seed=st.integers(0, 5),
)
def test_pages_of_any_size_neither_overlap_nor_leave_gaps(total, sizes, seed):
    ids = [event["id"] for event in walk(Feed(total, seed=seed), *sizes)]
    assert ids == [row.id for row in Feed(total, seed=seed).rows()]
    assert len(set(ids)) == total


def test_pages_of_one_event_split_ties():
    feed = Feed(60)
    assert [event["id"] for event in walk(feed, 1)] == [row.id for row in feed.rows()]


def test_rows_are_what_the_pages_say():
    feed = Feed(3 * BLOCK + 17)
    for event, row in zip(walk(feed, 700), feed.rows(), strict=True):
        assert event == {
            "id": row.id,
            "sessionId": row.session_id,
            "userId": row.user_id,
            "type": row.type,
            "name": row.name,
            "properties": row.properties,
            "timestamp": event["timestamp"],
            "session": row.session,
        }
        assert instant(millis(event)) == row.timestamp
        assert row.session["id"] == row.session_id


def test_timestamp_form_follows_the_place_in_the_page():
    feed = Feed(300)
    for after in (None, feed.page(None, 100).last, feed.page(None, 101).last):
        events = [json.loads(text) for text in feed.page(after, 100).texts]
        for place, event in enumerate(events):
            if place % 3 == 0:
                assert type(event["timestamp"]) is int
            else:
                assert event["timestamp"] == iso(millis(event))


def test_same_seed_same_feed_other_seed_other_feed():
    rows = list(Feed(3000, seed=7).rows())
    assert rows == list(Feed(3000, seed=7).rows())
    assert not {row.id for row in rows} & {row.id for row in Feed(3000, seed=8).rows()}


def test_the_feed_does_not_change_between_versions():
    # Whoever compares a table with a feed made elsewhere leans on this.
    first, last = Feed(5000).event(0), Feed(5000).event(4999)
    assert (first.id, first.name, iso(millis_of(first.timestamp))) == FIRST
    assert (last.id, last.name, iso(millis_of(last.timestamp))) == LAST


FIRST = ("2ed6f723-0cb4-4179-82aa-0be7fc77d8cd", "event_7tnq02", "2026-01-27T19:20:12.369Z")
LAST = ("cf20fea3-8658-493a-a36d-09fa6d962ec0", "event_stu5x5", "2026-01-27T18:08:13.185Z")


def test_any_event_of_three_million_without_the_others():
    feed = Feed(3_000_000)
    last = feed.event(2_999_999)
    assert json.loads(feed.find(last.id))["id"] == last.id
    assert len(feed._blocks) == 1
    days = (feed.event(0).timestamp - last.timestamp).total_seconds() / 86_400
    assert 29.5 < days < 30.5
    with pytest.raises(IndexError):
        feed.event(3_000_000)


def test_memory_stays_flat():
    feed = Feed(3_000_000)
    after = None
    for _ in range(20):
        after = feed.page(after, 5000).last
        assert len(feed._blocks) <= 24


def test_every_event_is_found_by_its_id_and_nothing_else_is():
    feed = Feed(2500, arrival_rate=ArrivalRate(1))
    feed.arrive(70)
    for row in feed.rows():
        assert json.loads(feed.find(row.id))["id"] == row.id
    assert feed.find(feed.arrival(70).id) is None
    assert feed.find(feed.arrival(200).id) is None
    for stranger in (
        "bulk",
        "",
        "export",
        "-abcdef0",
        "-1",
        Feed(10, seed=2).event(0).id,
        "ffffffff" * 4,
    ):
        assert feed.find(stranger) is None


def test_shares_crowd_and_shapes():
    rows = list(Feed(50_000).rows())
    types = Counter(row.type for row in rows)
    for name, share in TYPE_SHARES.items():
        assert types[name] / len(rows) == pytest.approx(share / 20, abs=0.005)
    assert len({row.session_id for row in rows}) == 1000
    assert len({row.user_id for row in rows}) == 50
    devices = {row.session["deviceType"] for row in rows}
    browsers = {row.session["browser"] for row in rows}
    assert devices == {"mobile", "tablet", "desktop"}
    assert browsers == {"Chrome", "Safari", "Firefox", "Edge"}
    assert all(row.id[14] == "4" and row.id[19] in "89ab" for row in rows)
    assert len({(row.session_id, row.user_id, str(row.session)) for row in rows}) == 1000


def test_arrivals_come_in_at_the_head_and_keep_the_order():
    feed = Feed(1000, arrival_rate=ArrivalRate(rate=10))
    before = [row.id for row in feed.rows()]
    feed.arrive(5)
    ids = [row.id for row in feed.rows()]
    assert ids[5:] == before
    assert ids[:5] == [feed.arrival(number).id for number in (4, 3, 2, 1, 0)]
    assert feed.total == 1005
    feed.arrive(3)
    assert feed.total == 1005


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 60)), min_size=1, max_size=8),
    seed=st.integers(0, 3),
)
def test_a_walk_in_a_growing_feed_sees_each_event_that_was_there_once(steps, seed):
    feed = Feed(200, seed=seed, arrival_rate=ArrivalRate(rate=1, late_share=0.5, late_seconds=600))
    feed.arrive(10)
    there = {row.id for row in feed.rows()}
    seen, after, step = [], None, 0
    while True:
        size, arriving = steps[step % len(steps)]
        page = feed.page(after, size)
        seen += [json.loads(text)["id"] for text in page.texts]
        if not page.more:
            break
        after, step = page.last, step + 1
        feed.arrive(min(feed.arrived + arriving, 400))
    assert len(seen) == len(set(seen))
    assert there <= set(seen)


def test_late_arrivals_sort_in_among_older_events():
    feed = Feed(500, arrival_rate=ArrivalRate(rate=1, late_share=1.0, late_seconds=300))
    feed.arrive(50)
    ids = [row.id for row in feed.rows()]
    body = [feed.event(index).id for index in range(500)]
    assert ids[:50] != [feed.arrival(number).id for number in range(49, -1, -1)]
    assert [ident for ident in ids if ident in set(body)] == body
    stamps = [row.timestamp for row in feed.rows()]
    assert stamps == sorted(stamps, reverse=True)


def test_an_unsorted_feed_still_holds_each_event_once():
    feed = Feed(3000, defects=FeedDefects(unsorted=0.1))
    events = walk(feed, 500)
    rises = sum(millis(one) < millis(two) for one, two in pairwise(events))
    assert 100 < rises < 600
    assert {event["id"] for event in events} == {row.id for row in Feed(3000).rows()}
    assert [instant(millis(event)) for event in events] == [row.timestamp for row in feed.rows()]


def test_newest_may_be_named_in_three_ways():
    when = datetime(2026, 3, 1, 12, 0, 0, 5000, tzinfo=timezone.utc)
    for spelling in (when, "2026-03-01T12:00:00.005Z", 1_772_366_400_005):
        assert Feed(1, newest=spelling).event(0).timestamp == when


def test_an_empty_feed_is_one_empty_page():
    assert Feed(0).page(None, 10).texts == []
    assert list(Feed(0).rows()) == []
