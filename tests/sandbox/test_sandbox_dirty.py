"""Events that do not fit: valid JSON, of every kind, with an expectation that holds."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import datetime

import pytest
from datasync_sandbox.dirty import KINDS
from datasync_sandbox.testing import Feed, FeedDefects

COLUMNS = {
    "id": "id",
    "sessionId": "session_id",
    "userId": "user_id",
    "type": "type",
    "name": "name",
    "properties": "properties",
    "session": "session",
}


def only(kind, events=12):
    feed = Feed(events, defects=FeedDefects(malformed=1.0, kinds=(kind,)))
    return feed, list(feed.rows())


def test_the_share_is_kept_and_every_kind_turns_up():
    feed = Feed(20_000, defects=FeedDefects(malformed=0.05))
    kinds = Counter(row.malformed for row in feed.rows())
    assert kinds[None] / 20_000 == pytest.approx(0.95, abs=0.01)
    assert set(kinds) == {None, *KINDS}


def test_clean_events_are_the_same_in_a_dirty_feed():
    clean = {row.id: row for row in Feed(2000).rows()}
    for row in Feed(2000, defects=FeedDefects(malformed=0.2)).rows():
        if row.malformed is None:
            assert row == clean[row.id]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_text_is_json_and_the_page_holds_it(kind):
    feed, rows = only(kind)
    texts = feed.page(None, 12).texts
    assert texts == [row.raw_event for row in rows]
    for text in texts:
        json.loads(text, parse_constant=pytest.fail)
        text.encode()  # lone surrogates are escapes, never raw


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_where_a_dirty_value_can_be_kept_it_is(kind):
    _, rows = only(kind)
    for row in rows:
        event = json.loads(row.raw_event)
        if row.id is None:
            assert (
                not isinstance(event, dict)
                or not isinstance(event.get("id"), str)
                or not event["id"]
            )
            continue
        for field, column in COLUMNS.items():
            value = getattr(row, column)
            if value is not None and column not in row.ambiguous:
                assert holdable(event[field]) == value


def holdable(value):
    """Replace what PostgreSQL cannot hold."""
    if isinstance(value, str):
        return re.sub("[\0\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, dict):
        return {holdable(name): holdable(item) for name, item in value.items()}
    return [holdable(item) for item in value] if isinstance(value, list) else value


def test_every_spelling_of_a_timestamp_names_the_same_instant():
    clean = [row.timestamp for row in Feed(12).rows()]
    for kind in (kind for kind in KINDS if kind.startswith("time-") and KINDS[kind].fits):
        stamps = [row.timestamp for row in only(kind)[1]]
        if {"seconds", "fraction"} & set(kind.split("-")):
            assert stamps == [stamp.replace(microsecond=0) for stamp in clean]
        else:
            assert stamps == clean


def test_some_spellings_by_hand():
    def spelt(kind):
        row = only(kind, 1)[1][0]
        return json.loads(row.raw_event)["timestamp"]

    assert spelt("time-seconds") == 1769541612
    assert spelt("time-micros") == 1769541612369000
    assert spelt("time-text-millis") == "1769541612369"
    assert spelt("time-space") == "2026-01-27 19:20:12.369Z"
    assert spelt("time-no-zone") == "2026-01-27T19:20:12.369"
    assert spelt("time-offset") == "2026-01-27T21:20:12.369+02:00"
    assert spelt("time-zero-width").isascii() is False
    assert datetime.fromisoformat(spelt("time-offset")) == Feed(1).event(0).timestamp


def test_nuls_and_surrogates_lie_deep():
    for name in ("nul", "surrogate"):
        raw = only(f"{name}-deep", 1)[1][0].raw_event
        assert ("\\u0000" if name == "nul" else "\\ud83d") in raw
