"""The tap piped into targets: malformed events, the recorded page, a growing feed."""

from __future__ import annotations

import csv
import json
import re
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from datasync_sandbox.testing import running_api

from tests.pipeline.pipeline_helpers import KEY, TAP, feed_ids, pipe
from tests.tap.tap_helpers import KEY as TAP_KEY
from tests.tap.tap_helpers import feeding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasync_sandbox.testing import ExpectedRow

    from tests.helpers import Database

QUERY = "SELECT id, session_id, user_id, type, name, properties, timestamp, session FROM events"
CSV_TARGET = Path(sys.executable).with_name("target-csv")
FIELDS = ("session_id", "user_id", "type", "name", "properties", "timestamp", "session")


def _differences(row: ExpectedRow, values: tuple[Any, ...]) -> list[str]:
    pairs = zip(FIELDS, values, strict=True)
    return [f for f, value in pairs if f not in row.ambiguous and value != getattr(row, f)]


def test_malformed_events_are_loaded_or_rejected(database: Database, tmp_path: Path) -> None:
    """Events with an id are in events, typed as far as possible; invalid ones are also kept raw."""
    with running_api(events=6_000, limit=1000, malformed=0.3, key=KEY) as api:
        *codes, log = pipe(api, database.config, tmp_path, page_size=1000)
        assert codes == [0, 0], log
        table = {ident: tuple(values) for ident, *values in database.rows(QUERY)}
        rejected = {raw for (raw,) in database.rows("SELECT raw_event FROM rejected_events")}
        kinds = set()
        for row in api.model.feed.rows():
            if row.id is not None:
                assert not _differences(row, table[row.id]), row.malformed
            if row.valid is False:
                kinds.add(row.malformed)
                assert row.raw_event in rejected, row.malformed
        assert len(kinds) > 30
        assert len(table) == sum(1 for _ in feed_ids(api))
        assert log.count("schemaVersion") == 1


@pytest.fixture
def recorded_api(recordings: Path) -> Iterator[Any]:
    """Serve the recorded page of 5000 events, and then an empty one."""
    body = (recordings / "events-limit-10000.json").read_bytes()
    cursor = json.loads(body)["pagination"]["nextCursor"]
    pages = {
        None: re.sub(rb'"total": ?\d+', b'"total":5000', body),
        cursor: b'{"data":[],"pagination":{"hasMore":false},"meta":{"total":5000}}',
    }
    with feeding(pages) as server:
        yield SimpleNamespace(url=server.url, key=TAP_KEY)


def test_recorded_page_is_loaded_field_by_field(
    recordings: Path, recorded_api: Any, database: Database, tmp_path: Path
) -> None:
    *codes, log = pipe(recorded_api, database.config, tmp_path)
    assert codes == [0, 0], log
    table = {ident: tuple(values) for ident, *values in database.rows(QUERY)}
    events = json.loads((recordings / "events-limit-10000.json").read_bytes())["data"]
    assert len(table) == len(events) == 5000
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    for event in events:
        timestamp = event["timestamp"]
        if isinstance(timestamp, int):
            timestamp = epoch + timedelta(milliseconds=timestamp)
        else:
            timestamp = datetime.fromisoformat(timestamp.replace("Z", "+00:00"))
        assert table[event["id"]] == (
            event["sessionId"],
            event["userId"],
            event["type"],
            event["name"],
            event["properties"],
            timestamp,
            event["session"],
        )


def test_events_that_arrive_between_loads_are_loaded(database: Database, tmp_path: Path) -> None:
    """Events that arrive, late or not, between two loads are loaded by the second."""
    options: dict[str, Any] = {"arrivals": 50.0, "late": "0.3:300", "newest": "now"}
    with running_api(events=3_000, limit=1000, key=KEY, **options) as api:
        for _ in range(2):
            *codes, log = pipe(api, database.config, tmp_path, page_size=500, lookback=400)
            assert codes == [0, 0], log
        loads = database.rows(
            "SELECT count(*), min(requested_at) FROM pages GROUP BY sync_id ORDER BY 2"
        )
        (first_pages, _), (second_pages, second_start) = loads
        assert second_pages < first_pages
        table = {ident for (ident,) in database.rows("SELECT id FROM events")}
        # Nothing that had arrived by the first request of the second load is missing.
        arrived = int((second_start.timestamp() - api.model.started_at) * 50) - 1
        assert arrived > 0
        missing = [n for n in range(arrived) if api.model.feed.arrival(n).id not in table]
        assert not missing
        assert {api.model.feed.event(n).id for n in range(3_000)} <= table


# ------------------------------------------------------------------ other targets


def load_with(
    target: Path, config: dict[str, Any], directory: Path, *, malformed: float = 0.0
) -> set[str]:
    """Load sample events with a target; returns the ids that the feed has."""
    with running_api(events=500, limit=1000, malformed=malformed) as api:
        *codes, log = pipe(api, config, directory, target)
        assert codes == [0, 0], log
        state = json.loads((directory / "state.json").read_text())
        assert state["bookmarks"]["events"]["high_watermark"]
        return set(feed_ids(api))


@pytest.mark.skipif(not CSV_TARGET.exists(), reason="target-csv is not installed")
def test_target_csv_writes_every_event(tmp_path: Path) -> None:
    ids = load_with(CSV_TARGET, {"output_path": str(tmp_path)}, tmp_path, malformed=0.3)
    (path,) = tmp_path.glob("events*.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["id"] for row in rows} == ids
    assert list(tmp_path.glob("rejected_events*.csv"))


def test_stock_target_postgres_loads_every_event(database: Database, tmp_path: Path) -> None:
    config = {
        **database.config,
        "default_target_schema": "public",
        "add_record_metadata": False,
        "activate_version": False,
    }
    ids = load_with(TAP.with_name("target-postgres"), config, tmp_path)
    assert {ident for (ident,) in database.rows("SELECT id FROM events")} == ids
