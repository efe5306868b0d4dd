"""Malformed events: JSON of every kind, each with an expectation that holds."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from datasync_sandbox.data.malformed import COLUMNS, MALFORMED_KINDS

from tests.sandbox.sandbox_helpers import feed_of

NAMES = {"session_id": "sessionId", "user_id": "userId"}


def malformed_feed(kind, events=12):
    return feed_of(events, malformed=1.0, malformed_kinds=kind)


def test_share_of_malformed_events_is_kept_and_every_kind_occurs():
    feed = feed_of(20_000, malformed=0.05)
    kinds = Counter(row.malformed for row in feed.rows())
    assert kinds[None] / 20_000 == pytest.approx(0.95, abs=0.01)
    assert set(kinds) == {None, *MALFORMED_KINDS}


def test_valid_events_do_not_depend_on_malformed_ones():
    valid = {row.id: row for row in feed_of(2000).rows()}
    for row in feed_of(2000, malformed=0.2).rows():
        if row.malformed is None:
            assert row == valid[row.id]


@pytest.mark.parametrize("kind", sorted(MALFORMED_KINDS))
def test_page_holds_the_raw_event_and_the_row_keeps_what_can_be_kept(kind):
    feed = malformed_feed(kind)
    events = feed.page(None, 12).events
    for event, row in zip(events, feed.rows(), strict=True):
        assert event.to_json(as_millis=True) == row.raw_event
        row.raw_event.encode()  # lone surrogates are escapes
        document = json.loads(row.raw_event, parse_constant=pytest.fail)
        if row.id is None:
            assert not isinstance(document, dict) or not isinstance(document.get("id") or 0, str)
            continue
        for column in set(COLUMNS) - {"timestamp", *row.ambiguous}:
            value = getattr(row, column)
            if value is not None:
                assert storable(document[NAMES.get(column, column)]) == value


def storable(value):
    """Replace what PostgreSQL cannot hold."""
    if isinstance(value, str):
        return re.sub("[\0\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, dict):
        return {storable(name): storable(item) for name, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, list) else value


def test_every_notation_of_a_timestamp_is_the_same_instant():
    valid = [row.timestamp for row in feed_of(12).rows()]
    kinds = [name for name, kind in MALFORMED_KINDS.items() if kind.valid]
    for kind in (name for name in kinds if name.startswith("time-")):
        timestamps = [row.timestamp for row in malformed_feed(kind).rows()]
        if {"seconds", "fraction"} & set(kind.split("-")):
            assert timestamps == [timestamp.replace(microsecond=0) for timestamp in valid]
        else:
            assert timestamps == valid


@pytest.mark.parametrize(
    ("kind", "timestamp"),
    [
        ("time-seconds", 1769541612),
        ("time-micros", 1769541612369000),
        ("time-text-millis", "1769541612369"),
        ("time-text-decimal", "1769541612.369"),
        ("time-space", "2026-01-27 19:20:12.369Z"),
        ("time-no-zone", "2026-01-27T19:20:12.369"),
        ("time-offset", "2026-01-27T21:20:12.369+02:00"),
        ("time-zero-width", "\u200b2026-01-27T19:20:12\u200d.369Z\ufeff"),
        ("time-control", "\a2026-01-27T19:20:12\0.369Z\r\n"),
        ("time-february-30", "2026-02-30T00:00:00.000Z"),
    ],
)
def test_timestamp_is_written_as_named(kind, timestamp):
    (row,) = malformed_feed(kind, 1).rows()
    assert json.loads(row.raw_event)["timestamp"] == timestamp


@pytest.mark.parametrize(("name", "escape"), [("nul", "\\u0000"), ("surrogate", "\\ud83d")])
def test_characters_that_postgresql_cannot_hold_occur_at_any_depth(name, escape):
    for place in ("name", "deep", "key"):
        (row,) = malformed_feed(f"{name}-{place}", 1).rows()
        assert escape in row.raw_event
