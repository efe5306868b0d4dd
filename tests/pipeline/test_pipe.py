"""The tap piped into the loader: dirty events, the recorded page, memory; in both lanes."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from datasync_sandbox.testing import running_api

from tests.pipeline.pipeline_helpers import KEY, ROOT, Database, pipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from datasync_sandbox.testing import ExpectedRow

RECORDED = ROOT.parent / "shared" / "recorded" / "events-limit-10000.json"
QUERY = "SELECT id, session_id, user_id, type, name, properties, timestamp, session FROM events"
FIELDS = ("session_id", "user_id", "type", "name", "properties", "timestamp", "session")


@pytest.fixture(params=["records", "bulk"])
def lane(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The tap's settings for a lane."""
    if request.param == "records":
        return {}
    root = (tmp_path / "bulk").as_uri()
    encoding = {"format": "jsonl", "compression": "none"}
    return {"batch_config": {"encoding": encoding, "storage": {"root": root}}}


def _differences(row: ExpectedRow, values: tuple[Any, ...]) -> list[str]:
    pairs = zip(FIELDS, values, strict=True)
    return [f for f, value in pairs if f not in row.ambiguous and value != getattr(row, f)]


def test_dirty_events_are_all_there(
    database: Database, tmp_path: Path, lane: dict[str, Any]
) -> None:
    """With an id it is in events, typed as far as it goes; what did not fit is kept raw."""
    with running_api(events=6_000, limit=1000, malformed=0.3, key=KEY) as api:
        code, loaded, log = pipe(api, database, tmp_path, page_size=1000, **lane)
        assert (code, loaded) == (0, 0), log
        table = {ident: tuple(values) for ident, *values in database.rows(QUERY)}
        raws = {raw for (raw,) in database.rows("SELECT raw FROM rejected_events")}
        kinds = set()
        for row in api.model.feed.rows():
            if row.id is not None:
                assert not _differences(row, table[row.id]), row.malformed
            if row.valid is False:
                kinds.add(row.malformed)
                assert row.raw_event in raws, row.malformed
        assert len(kinds) > 30
        assert len(table) == sum(row.id is not None for row in api.model.feed.rows())
        assert "not documented: schemaVersion" in log
        assert log.count("not documented: schemaVersion") == 1


class _Recorded(BaseHTTPRequestHandler):
    body = b""

    def do_GET(self) -> None:
        body = self.body
        if "cursor=" in self.path:
            body = b'{"data":[],"pagination":{"hasMore":false},"meta":{"total":5000}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def recorded() -> Iterator[Any]:
    """Serve the recorded page, and then nothing more."""
    if not RECORDED.exists():
        pytest.skip("the recorded page is not at hand")
    handler = type("Handler", (_Recorded,), {"body": RECORDED.read_bytes()})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}/api/v1", key=KEY)
    server.shutdown()
    server.server_close()


def test_the_recorded_page_is_loaded_field_by_field(
    recorded: Any, database: Database, tmp_path: Path, lane: dict[str, Any]
) -> None:
    """5000 real events, equal to the recording in every field."""
    code, loaded, log = pipe(recorded, database, tmp_path, **lane)
    assert (code, loaded) == (0, 0), log
    table = {ident: tuple(values) for ident, *values in database.rows(QUERY)}
    events = json.loads(RECORDED.read_bytes())["data"]
    assert len(table) == len(events) == 5000
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    for event in events:
        moment = event["timestamp"]
        if isinstance(moment, int):
            moment = epoch + timedelta(milliseconds=moment)
        else:
            moment = datetime.fromisoformat(moment.replace("Z", "+00:00"))
        assert table[event["id"]] == (
            event["sessionId"],
            event["userId"],
            event["type"],
            event["name"],
            event["properties"],
            moment,
            event["session"],
        )


def test_a_growing_feed_is_followed(
    database: Database, tmp_path: Path, lane: dict[str, Any]
) -> None:
    """What arrives, late or not, between two runs is there after the second."""
    options = {"arrivals": 50.0, "late": "0.3:300", "newest": "now"}
    with running_api(events=3_000, limit=1000, key=KEY, **options) as api:
        for _ in range(2):
            code, loaded, log = pipe(api, database, tmp_path, page_size=500, lookback=400, **lane)
            assert (code, loaded) == (0, 0), log
        pages = database.rows(
            "SELECT count(*) FROM pages GROUP BY run_id ORDER BY min(requested_at)"
        )
        first_request = database.rows(
            "SELECT min(requested_at) FROM pages GROUP BY run_id ORDER BY 1 DESC LIMIT 1"
        )[0][0]
        assert pages[1] < pages[0]
        table = {ident for (ident,) in database.rows("SELECT id FROM events")}
        # Up to the moment of the second run's first request, nothing is missing.
        arrived = int((first_request.timestamp() - api.model.started_at) * 50) - 1
        assert arrived > 0
        missing = [n for n in range(arrived) if api.model.feed.arrival(n).id not in table]
        assert not missing
        assert {api.model.feed.event(n).id for n in range(3_000)} <= table
