"""The state: loaded ranges, and the JSON that Meltano keeps and merges."""

from __future__ import annotations

import ast
import copy
import json
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap_datasync.errors import EXIT_PERMANENT
from tap_datasync.state import Count, ScanState, StateError, TimeRange

from tests.tap.tap_helpers import seconds_after_noon

LOOKBACK = timedelta(seconds=10)

timestamps = st.integers(-(10**6), 10**6).map(seconds_after_noon)
ids = st.text(min_size=1)
counts = st.integers(0, 2**63 - 1)
ranges = st.builds(
    lambda a, b, newest_id: TimeRange(max(a, b), newest_id, min(a, b)), timestamps, timestamps, ids
)
by_type = {
    str | None: st.none() | ids,
    datetime | None: st.none() | timestamps,
    bool: st.booleans(),
    Count: counts,
    Count | None: st.none() | counts,
    tuple[str, ...]: st.lists(ids, max_size=3).map(tuple),
    tuple[TimeRange, ...]: st.lists(ranges, max_size=4).map(tuple),
}
states = st.builds(
    ScanState,
    **{
        name: by_type[kind] for name, kind in get_type_hints(ScanState, include_extras=True).items()
    },
)
KEYS = {
    "version": 2,
    "source": None,
    "cursor": None,
    "cursor_expires_at": None,
    "scan_newest_at": None,
    "scan_newest_id": None,
    "scan_oldest_at": None,
    "scan_last_id": None,
    "scan_anchors": [],
    "scan_has_gaps": False,
    "scan_sorted": True,
    "feed_sorted": True,
    "loaded_ranges": [],
    "high_watermark": None,
    "high_watermark_id": None,
    "events_seen": 0,
    "events_emitted": 0,
    "events_expected": None,
    "total_events": None,
    "known_total": None,
}


def read(state: dict[str, Any]) -> ScanState:
    """Read a state that has been saved as JSON."""
    return ScanState.from_dict(json.loads(json.dumps(state)))


def test_an_empty_state_has_every_key():
    assert ScanState().to_dict() == KEYS


@given(states)
def test_the_state_round_trips_through_json_with_every_key(state):
    saved = state.to_dict()
    assert list(saved) == list(KEYS)
    assert not any(isinstance(value, dict) for value in saved.values())
    assert read(saved) == state


@pytest.mark.parametrize("document", [{}, {"version": 2, "unknown": {"newest": None}}])
def test_missing_keys_have_their_defaults_and_unknown_keys_are_ignored(document):
    assert read(document) == ScanState()


# ------------------------------------------------------------------ Meltano


def meltano_merge():
    """Return Meltano's own function, from its source: it need not be importable here."""
    root = Path(__file__).resolve().parents[2]
    found = sorted(root.glob(".venv*/lib/python*/site-packages/meltano/core/utils/__init__.py"))
    if not found:
        pytest.skip("Meltano is not installed")
    tree = ast.parse(found[0].read_text())
    tree.body = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "merge"
    ]
    names: dict[str, Any] = {}
    exec(compile(tree, str(found[0]), "exec"), names)  # noqa: S102 - Meltano's own code
    return names["merge"]


@given(st.lists(states, min_size=1, max_size=5))
def test_any_sequence_of_states_survives_the_merge_of_meltano(sequence):
    """The newest state wins in every key: nothing comes back, and no merge fails."""
    merge = meltano_merge()
    saved: dict[str, Any] = {}
    for state in sequence:
        document = {"singer_state": {"bookmarks": {"events": state.to_dict()}}}
        saved = merge(json.loads(json.dumps(document)), copy.deepcopy(saved))
    assert read(saved["singer_state"]["bookmarks"]["events"]) == sequence[-1]


# ------------------------------------------------------------------ other documents


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"version": 1}, "it is of version 1"),
        ({"version": 3, "cursor": "c"}, "it is of version 3"),
        ({"version": True}, "it is of version True"),
        ({"version": "2"}, "it is of another tap"),
        ({"version": {}}, "it is of another tap"),
        ({"replication_key_value": "2026-01-01"}, "it is of another tap"),
    ],
)
def test_a_state_of_another_version_or_tap_is_refused(document, reason):
    with pytest.raises(StateError) as error:
        read(document)
    assert str(error.value).startswith(f"The state cannot be used: {reason}")
    assert str(error.value).endswith("load everything again with --full-refresh.")
    assert error.value.exit_code == EXIT_PERMANENT


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("cursor", value) for value in (5, ["a"])),
        *(("cursor_expires_at", value) for value in ("soon", "", 1.5)),
        *(("scan_anchors", [5]), ("scan_sorted", None), ("feed_sorted", 1)),
        *(("loaded_ranges", value) for value in (None, [5], [{}])),
        (
            "loaded_ranges",
            [{"newest_at": "2026-01-01", "newest_id": "", "oldest_at": "2026-01-01"}],
        ),
        ("loaded_ranges", [{"newest_at": None, "newest_id": "a", "oldest_at": 1}]),
        ("high_watermark", {}),
        *(("events_seen", value) for value in (None, "many", True, -1)),
        *(("total_events", 10**40), ("events_expected", 0.5)),
    ],
)
def test_a_damaged_state_is_refused(key, value):
    with pytest.raises(StateError, match=f"its key '{key}' is damaged"):
        read({"version": 2, key: value})


def test_timestamps_are_read_in_any_format_and_an_empty_text_is_none():
    state = read({"version": 2, "high_watermark": "2026-01-27 12:00", "cursor": ""})
    assert (state.high_watermark, state.cursor) == (seconds_after_noon(0), None)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "\ud800"]),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, json_values)), st.booleans())
def test_no_document_causes_another_error(document, ours):
    try:
        state = ScanState.from_dict(document | ({"version": 2} if ours else {}))
    except StateError:
        return
    # Whatever was accepted can be worked with and saved.
    state.interrupt(LOOKBACK).to_dict()
    state.finish(at_oldest_event=True).to_dict()


# ------------------------------------------------------------------ ranges


def range_of(newest: float, oldest: float, newest_id: str = "x") -> TimeRange:
    return TimeRange(seconds_after_noon(newest), newest_id, seconds_after_noon(oldest))


@pytest.mark.parametrize(
    ("lookback", "second", "loaded"),
    [
        # The ends are excluded, and a second beyond: a timestamp may be cut to whole seconds.
        (1, 0, False),
        (1, 1, False),
        (1, 2, True),
        (1, 98, True),
        (1, 99, False),
        (1, 100, False),
        # So is the lookback.
        (10, 89, True),
        (10, 90, False),
        (10, 101, False),
        (10, -5, False),
    ],
)
def test_a_range_contains_what_is_certainly_loaded(lookback, second, loaded):
    found = range_of(100, 0).contains(seconds_after_noon(second), timedelta(seconds=lookback))
    assert found is loaded


def ends_of(state: ScanState) -> list[tuple[float, float]]:
    noon = seconds_after_noon(0)
    return [
        ((one.newest_at - noon).total_seconds(), (one.oldest_at - noon).total_seconds())
        for one in state.loaded_ranges
    ]


def scanned(newest: float, oldest: float, **changes: Any) -> ScanState:
    """Return the state of a scan that has emitted a range."""
    state = ScanState(
        cursor="c",
        cursor_expires_at=seconds_after_noon(0),
        scan_newest_at=seconds_after_noon(newest),
        scan_newest_id="new",
        scan_oldest_at=seconds_after_noon(oldest),
        scan_last_id="last",
        high_watermark=seconds_after_noon(-1000),
    )
    return replace(state, **changes)


@pytest.mark.parametrize(
    ("scan", "loaded", "expected"),
    [
        # newest, oldest; the lookback is 10
        ((100, 60), [], [(100, 60)]),
        ((100, 60), [(50, 0)], [(100, 60), (50, 0)]),
        ((100, 50), [(50, 0)], [(100, 50), (50, 0)]),
        ((100, 41), [(50, 0)], [(100, 50), (50, 0)]),
        ((100, 40), [(50, 0)], [(100, 50), (50, 0)]),
        ((100, 39), [(50, 0)], [(100, 0)]),
        ((100, -10), [(50, 0)], [(100, -10)]),
        ((100, -10), [(50, 0), (-20, -50)], [(100, -10), (-20, -50)]),
        ((100, -25), [(50, 0), (-20, -50)], [(100, -20), (-20, -50)]),
        ((100, -35), [(50, 0), (-20, -50)], [(100, -50)]),
        ((100, -60), [(50, 0), (-20, -50)], [(100, -60)]),
        ((45, 42), [(50, 0)], [(50, 0)]),
        ((100, 100), [], []),
    ],
)
def test_an_interrupted_scan_joins_the_loaded_ranges(scan, loaded, expected):
    """Ranges that it has passed are joined, those that it has only reached keep their end."""
    state = scanned(*scan, loaded_ranges=tuple(range_of(*one) for one in loaded))
    closed = state.interrupt(LOOKBACK)
    assert ends_of(closed) == expected
    assert closed == replace(
        ScanState(), loaded_ranges=closed.loaded_ranges, high_watermark=state.high_watermark
    )
    if expected and expected[0][0] == 100:
        assert closed.loaded_ranges[0].newest_id == "new"


def test_an_interrupted_scan_that_has_emitted_nothing_keeps_the_loaded_ranges():
    earlier = (range_of(50, 0), range_of(-20, -50))
    assert ScanState(cursor="c", loaded_ranges=earlier).interrupt(LOOKBACK).loaded_ranges == earlier


@pytest.mark.parametrize("flag", ["scan_sorted", "feed_sorted"])
def test_a_scan_without_reliable_order_leaves_no_range(flag):
    state = scanned(100, 0, loaded_ranges=(range_of(-10, -20),), **{flag: False})
    closed = state.interrupt(LOOKBACK)
    assert closed.loaded_ranges == ()
    assert closed.scan_sorted


@given(
    st.lists(st.integers(0, 500), min_size=2, max_size=2, unique=True),
    st.lists(st.integers(0, 500), max_size=8, unique=True).map(sorted),
    st.integers(1, 100),
)
def test_loaded_ranges_stay_disjoint_and_contain_only_what_was_emitted(scan, ends, lookback):
    pairs = list(zip(ends[::2], ends[1::2], strict=False))[::-1]
    newest, oldest = max([*scan, *(b for _, b in pairs)]), min(scan)
    state = scanned(newest, oldest, loaded_ranges=tuple(range_of(b, a) for a, b in pairs))
    after = state.interrupt(timedelta(seconds=lookback)).loaded_ranges
    for newer, older in pairwise(after):
        assert newer.newest_at > newer.oldest_at >= older.newest_at > older.oldest_at
    for second in range(501):
        at = seconds_after_noon(second)
        if any(one.contains(at, timedelta(seconds=lookback)) for one in after):
            # Down to a second above its oldest timestamp, which may be cut to whole seconds.
            emitted = oldest + 1 < second < newest
            assert emitted or any(a + 1 < second < b for a, b in pairs)


# ------------------------------------------------------------------ watermark


@pytest.mark.parametrize(
    ("newest", "watermark", "at_oldest_event", "expected"),
    [
        (None, None, True, None),
        (9, None, True, 9),
        (9, 5, True, 9),
        # After a whole scan it is what that scan has found; a lower one is always safe.
        (5, 9, True, 5),
        (None, 5, True, None),
        (9, 5, False, 9),
        (5, 9, False, 9),
        (None, 5, False, 5),
    ],
)
def test_a_finished_scan_moves_the_high_watermark(newest, watermark, at_oldest_event, expected):
    state = ScanState(
        cursor="c",
        scan_newest_at=None if newest is None else seconds_after_noon(newest),
        scan_newest_id=None if newest is None else "new",
        loaded_ranges=(range_of(3, 2),),
        high_watermark=None if watermark is None else seconds_after_noon(watermark),
        high_watermark_id=None if watermark is None else "old",
    )
    finished = state.finish(at_oldest_event=at_oldest_event)
    assert finished.high_watermark == (None if expected is None else seconds_after_noon(expected))
    owners = {newest: "new", watermark: "old"} | {None: None}
    assert finished.high_watermark_id == owners[expected]
    assert (finished.cursor, finished.scan_newest_at, finished.loaded_ranges) == (None, None, ())


def test_a_new_scan_counts_from_zero_and_keeps_what_is_loaded():
    state = scanned(100, 0, loaded_ranges=(range_of(-10, -20),), events_seen=5, total_events=9)
    fresh = state.start_scan()
    assert (fresh.cursor, fresh.events_seen, fresh.total_events) == (None, 0, None)
    assert (fresh.loaded_ranges, fresh.high_watermark) == (
        state.loaded_ranges,
        state.high_watermark,
    )
