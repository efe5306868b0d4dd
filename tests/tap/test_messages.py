"""What the tap writes as Singer messages."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any

import pytest
from tap_datasync.client import RawResponse
from tap_datasync.errors import IncompleteFeedError
from tap_datasync.state import ScanState, TimeRange

from tests.tap.tap_helpers import NOON, body_of, event, last_page, limits
from tests.tap.tap_runs import PAGES, catalog_with


def test_messages_come_in_the_order_that_a_target_needs(run):
    """SCHEMAs first; for each page its events, its rejections, its own record, its STATE."""
    words = [f"{m['type']} {m.get('stream', '')}".strip() for m in run().messages]
    assert [(word, len(list(equal))) for word, equal in groupby(words)] == [
        ("SCHEMA events", 1),
        ("SCHEMA pages", 1),
        ("SCHEMA rejected_events", 1),
        ("RECORD events", 5),
        ("RECORD pages", 1),
        ("STATE", 1),
        ("RECORD events", 5),
        ("RECORD rejected_events", 2),
        ("RECORD pages", 1),
        ("STATE", 1),
        ("RECORD events", 1),
        ("RECORD pages", 1),
        ("STATE", 1),
        ("SCHEMA pages", 1),
        ("STATE", 1),
        ("SCHEMA rejected_events", 1),
        ("STATE", 1),
    ]


def test_each_state_names_the_page_behind_its_records(run):
    """And the last one a finished scan, every key still there."""
    output = run()
    assert [bookmark["cursor"] for bookmark in output.bookmarks[:3]] == ["c5", "c11", None]
    for count in ("events_seen", "events_emitted"):
        assert [bookmark[count] for bookmark in output.bookmarks[:3]] == [5, 11, 12]
    last = output.bookmarks[-1]
    assert last == output.bookmarks[2]
    assert last["high_watermark"] == "2026-01-27T12:00:00.000000Z"
    assert (last["scan_newest_at"], last["loaded_ranges"]) == (None, [])
    assert last["cursor_expires_at"] is None
    assert set(last) == set(output.bookmarks[0])
    for message in output.of("STATE"):
        assert set(message["value"]["bookmarks"]) <= {"events", "pages", "rejected_events"}
        assert message["value"]["bookmarks"].get("pages", {}) == {}


def test_records_are_what_the_schema_says(run):
    """Snake case, RFC 3339, objects as objects, and when they were extracted."""
    output = run()
    assert output.rows()[0] == {
        "id": "id-000000",
        "session_id": "session-0",
        "user_id": "user-0",
        "type": "page_view",
        "name": "event_abc123",
        "properties": {"page": "/home"},
        "timestamp": "2026-01-27T12:00:00Z",
        "session": {"id": "session-0", "deviceType": "mobile", "browser": "Edge"},
    }
    assert output.emitted == [f"id-{n:06}" for n in [*range(10), 11]]
    message = output.of("RECORD", "events")[0]
    assert message["time_extracted"] == "2026-01-27T12:00:00Z"
    (schema,) = output.of("SCHEMA", "events")
    assert schema["key_properties"] == ["id"]
    assert set(schema["schema"]["properties"]) == set(output.rows()[0])


def test_rejected_events_hold_the_event_as_it_came(run):
    """With the reasons, the run and the page."""
    first, second = run().rows("rejected_events")
    assert (first["event_id"], first["errors"]) == ("id-000009", ["type: not a string"])
    assert json.loads(first["raw_event"]) == event(9, type=5)
    assert (second["event_id"], second["errors"]) == (None, ["id: missing"])
    assert first["sync_id"] == second["sync_id"]
    assert first["page"] == 2
    assert len(first["rejection_id"]) == 64


def test_each_page_is_told_as_a_record(run):
    """What came, what was done with it, what was left of the limit."""
    feed = {cursor: RawResponse(200, limits(10, 4, 33), body) for cursor, body in PAGES.items()}
    first, second, third = run(feed=feed).rows("pages")
    assert first == {
        "sync_id": second["sync_id"],
        "page": 1,
        "requested_at": "2026-01-27T12:00:00.000000Z",
        "received_at": "2026-01-27T12:00:00.000000Z",
        "response_bytes": len(PAGES[None]),
        "events": 5,
        "emitted": 5,
        "skipped": 0,
        "rejected": 0,
        "retries": {},
        "rate_limit_wait_seconds": 0.0,
        "rate_limit": 10,
        "rate_limit_remaining": 4,
        "rate_limit_reset_seconds": 33,
        "cursor_expires_at": "2026-01-27T12:01:56.000000Z",
        "oldest_event_at": "2026-01-27T11:59:56.000000Z",
        "newest_event_at": "2026-01-27T12:00:00.000000Z",
        "events_seen": 5,
        "events_expected": 12,
        "total_events": 12,
        "incremental_to": None,
    }
    assert (second["emitted"], second["rejected"], second["events"]) == (5, 2, 6)
    assert third["cursor_expires_at"] is None


def test_a_second_run_emits_what_is_new_and_the_lookback(run):
    """The state of a run is the start of the next."""
    state = run(last_page(*map(event, range(5, 30)))).state
    again = run(body_of(*map(event, range(2, 30)), total=28), state=state, lookback=3)
    assert again.emitted == [f"id-{n:06}" for n in range(2, 9)]
    assert again.cursors == [None]
    assert again.bookmarks[-1]["high_watermark"] == "2026-01-27T11:59:58.000000Z"


def test_a_page_of_loaded_events_still_moves_the_state(run):
    """Otherwise a scan through what is loaded could never be resumed."""
    loaded = TimeRange(NOON, "id-000000", NOON - timedelta(hours=1))
    output = run(
        body_of(*map(event, range(20)), nextCursor="a", total=60),
        body_of(*map(event, range(20, 40)), nextCursor="b", total=60),
        body_of(*map(event, range(40, 60)), nextCursor=None, hasMore=False, total=60),
        state=ScanState(loaded_ranges=(loaded,)),
        lookback=0,
    )
    assert output.messages[0]["type"] == "STATE"
    assert [page["skipped"] for page in output.rows("pages")] == [8, 10, 10]
    assert [b["cursor"] for b in output.bookmarks[1:4]] == ["a", "b", None]


def test_a_run_that_fails_has_saved_every_page_before(run, caplog):
    """The state that was written last resumes it."""
    pages = PAGES | {"c5": body_of(*map(event, range(5, 9)), nextCursor=None, total=12)}
    with caplog.at_level(logging.INFO):
        output = run(feed=pages)
    assert isinstance(output.error, IncompleteFeedError)
    assert "Scan not finished: 2 pages" in caplog.text
    assert "Scan finished" not in caplog.text
    assert output.bookmarks[-1]["cursor"] == "c5"
    # The events of the page are emitted, with a state that fetches it again.
    assert output.rows()[-1]["id"] == "id-000008"
    resumed = run(state=output.state)
    assert resumed.emitted == [f"id-{n:06}" for n in (5, 6, 7, 8, 9, 11)]
    assert resumed.bookmarks[-1]["cursor"] is None


def test_full_table_reads_everything_again(run):
    """By the catalog."""
    output = run(
        state=run().state, catalog=catalog_with(replication_method="FULL_TABLE"), lookback=0
    )
    assert len(output.rows()) == 11
    assert {page["incremental_to"] for page in output.rows("pages")} == {None}


def test_deselected_fields_are_left_out(run):
    """All others stay."""
    output = run(catalog=catalog_with(("events", "session"), ("events", "name")))
    assert len(output.rows()) == 11
    for row in output.rows():
        assert set(row) == {"id", "session_id", "user_id", "type", "properties", "timestamp"}
    assert output.rows()[0]["properties"] == {"page": "/home"}
    assert output.rows()[0]["timestamp"].startswith("2026-01-27T12:00:00")


NUMBERS = '{"a": 0.12345678901234567890123, "b": 1e400, "c": 123456789012345678901234567890}'


def exact(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


@pytest.mark.parametrize(
    ("config", "catalog"),
    [
        ({}, None),
        ({"stream_maps": {"events": {"extra": "'x'"}}}, None),
        ({}, [("events", "session")]),
    ],
)
def test_numbers_are_emitted_exactly_on_every_path(run, config, catalog):
    """As they came, past maps and selection."""
    page = last_page(event(0, properties="@@")).replace(b'"@@"', NUMBERS.encode())
    output = run(page, catalog=catalog and catalog_with(*catalog), **config)
    lines = output.text.splitlines()
    (line,) = [line for line in lines if line.startswith('{"type":"RECORD","stream":"events"')]
    assert exact(line)["record"]["properties"] == exact(NUMBERS)


def test_stream_maps_are_applied(run):
    """A field is added, one is hashed away, a stream is renamed."""
    maps = {"events": {"kind": "name.upper()", "user_id": None, "__alias__": "visits"}}
    output = run(stream_maps=maps)
    assert output.rows() == []
    row = output.rows("visits")[0]
    assert row["kind"] == "EVENT_ABC123"
    assert "user_id" not in row
    assert row["properties"] == {"page": "/home"}
    assert len(output.rows("visits")) == 11


def test_flattening_is_applied(run):
    """An SDK setting like any other."""
    row = run(flattening_enabled=True, flattening_max_depth=1).rows()[0]
    assert row["properties__page"] == "/home"
    assert row["session__browser"] == "Edge"


@pytest.mark.parametrize(
    "left_out", [("pages",), ("rejected_events",), ("pages", "rejected_events")]
)
def test_streams_that_are_not_selected_are_not_written(run, left_out):
    """Neither their SCHEMA nor a record."""
    output = run(catalog=catalog_with(*((name,) for name in left_out)))
    assert {m["stream"] for m in output.messages if "stream" in m} == (
        {"events", "pages", "rejected_events"} - set(left_out)
    )
    assert len(output.rows()) == 11
    assert output.bookmarks[-1]["cursor"] is None


def test_without_the_events_nothing_is_asked(run):
    """The other streams are written while events are read."""
    output = run(catalog=catalog_with(("events",)))
    assert output.of("RECORD") == []
