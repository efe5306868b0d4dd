"""Every fault of the sandbox, over HTTP: complete in the end, or one message and a usable state."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from datasync_sandbox.testing import FAULTS, Faults, RunningApi, running_api
from singer_sdk.plugin_base import _ConfigInput
from tap_datasync.errors import TapDataSyncError
from tap_datasync.streams import EventsStream
from tap_datasync.tap import TapDataSync

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

EVENTS = 1000
PAGE = 100
LOOKBACK = 60

SURVIVED = [
    *("500@3x3", "502@1x2", "502@4x3", "503@5x3", "504@10x2", "500@2x2", "refused=0.02@3"),
    *("204@3x2", "206@4", "409@2x2", "501@5"),
    *("reset@2x2", "reset-body@4x2", "reset-body=0.99@5", "hang@3", "late-reply=2@7"),
    *("drip-headers=3@4", "drip-body=3@6", "huge-body=65@3", "gzip-bomb=65@4"),
    *("truncated@2x2", "truncated=0.999@3", "null@2x2", "list@2", "empty@3x2", "html@4x2"),
    *("nan@2", "infinity@3", "nan@4xforever", "bad-utf8@5", "no-data@3", "null-data@3"),
    *("no-pagination@2x2", "null-pagination@3x2", "no-meta@4", "null-meta@5", "no-meta@1x2"),
    *("empty-page@1", "empty-page@4x2", "empty-same-cursor@5", "empty-page@3x6"),
    *("false-end@1", "false-end@4", "false-end@9x3", "false-end-bare@5", "false-end-empty@6"),
    *("no-cursor@3x2", "repeat-cursor@4x2", "repeat-cursor@1"),
    *("cursor-expired@5", "cursor-malformed@5", "cursor-expired@2", "cursor-malformed@10"),
    *("429=1@4", "429-date=1@4", "429-bare@4x2", "429-long=1@4"),
    *("total-zero@4", "total-dip@5", "total-zero@1xforever"),
]

# Handled without a repeated request.
HARMLESS = [
    "bad-expires@3",
    "total-dip@1",
    "reset-epoch@3",
    "overlap@4",
    "future@3",
    "old-timestamps@4",
]

CURSOR_FAULTS = ("cursor-expired", "cursor-malformed", "429-long")

KEY = "The API rejected the key (HTTP {}"
ADDRESS = "HTTP {}"
RETRIES = "8 attempts"
INCOMPLETE = "The scan is incomplete"

FATAL = {
    "401@1xforever": (3, KEY.format(401)),
    "401@5xforever": (3, KEY.format(401)),
    "403@5xforever": (3, KEY.format(403)),
    "404@1xforever": (3, ADDRESS.format(404)),
    "404@5xforever": (3, ADDRESS.format(404)),
    "redirect@1xforever": (3, ADDRESS.format(302)),
    "redirect@5xforever": (3, ADDRESS.format(302)),
    "huge-redirect=65@5xforever": (3, ADDRESS.format(302)),
    "400@1xforever": (3, ADDRESS.format(400)),
    "500@4xforever": (1, RETRIES),
    "reset@4xforever": (1, RETRIES),
    "truncated@4xforever": (1, RETRIES),
    "no-pagination@4xforever": (1, RETRIES),
    "html@1xforever": (1, RETRIES),
    "huge-body=65@4xforever": (1, RETRIES),
    "false-end@4xforever": (1, INCOMPLETE),
    "false-end-bare@4xforever": (1, INCOMPLETE),
    "false-end-empty@4xforever": (1, INCOMPLETE),
    "no-cursor@4xforever": (1, INCOMPLETE),
    "repeat-cursor@4xforever": (1, INCOMPLETE),
    "cycle@4": (1, INCOMPLETE),
    "cursor-malformed@4xforever": (1, "scans in a row were interrupted at the same position"),
    "cursor-expired@2xforever": (1, "scans in a row were interrupted at the same position"),
}


@dataclass
class Table:
    """The contents of a target after one or more syncs."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    pages: list[dict[str, Any]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    duplicates: int = 0

    @property
    def bookmark(self) -> dict[str, Any]:
        bookmark: dict[str, Any] = self.state["bookmarks"]["events"]
        return bookmark

    def read(self, output: bytes) -> None:
        """Read Singer messages; every line has to be one."""
        for line in output.splitlines():
            message = msgspec.json.decode(line)
            if message["type"] == "STATE":
                self.state = message["value"]
            elif message["type"] == "RECORD" and message["stream"] == "events":
                record = message["record"]
                self.duplicates += record["id"] in self.rows
                self.rows[record["id"]] = record
            elif message["type"] == "RECORD" and message["stream"] == "pages":
                self.pages.append(message["record"])


@dataclass
class Sync:
    """The result of one run of the tap."""

    exit_code: int
    message: str
    log: str


def run_tap(table: Table, config: dict[str, Any], caplog: pytest.LogCaptureFixture) -> Sync:
    """Run the tap in this process, from the table's state into the table."""
    caplog.clear()
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    state = io.StringIO(json.dumps(table.state)) if table.state else None
    code, message = 0, ""
    stdout, sys.stdout = sys.stdout, output
    try:
        TapDataSync.invoke(config=_ConfigInput(config=dict(config)), state=state, catalog=None)
    except TapDataSyncError as error:
        code, message = error.exit_code, str(error)
    finally:
        sys.stdout = stdout
    output.flush()
    table.read(output.buffer.getvalue())  # type: ignore[attr-defined]
    return Sync(code, message, caplog.text)


class FastClock:
    """Sleeps briefly, and advances by the full duration, for tap and API alike."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def now(self) -> datetime:
        return datetime.now(tz=timezone.utc) + timedelta(seconds=self._ahead)

    def sleep(self, seconds: float) -> None:
        slept = min(seconds, 0.01)
        time.sleep(slept)
        self._ahead += seconds - slept


@pytest.fixture(autouse=True)
def _logging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FastClock:
    """The clock of tap and API."""
    fast = FastClock()
    monkeypatch.setattr(EventsStream, "clock", fast)
    return fast


def serve(clock: FastClock, *faults: str, **options: Any) -> AbstractContextManager[RunningApi]:
    options.setdefault("limit", 100_000)
    return running_api(
        events=EVENTS, fault=faults, clock=lambda: clock.now().timestamp(), **options
    )


def config_of(api: RunningApi) -> dict[str, Any]:
    return {
        "api_url": api.url,
        "api_key": api.key,
        "page_size": PAGE,
        "request_timeout": 1,
        "lookback": LOOKBACK,
    }


def assert_complete(table: Table, api: RunningApi, *ignored: str) -> None:
    """The table equals the feed, row by row."""
    rows = list(api.model.feed.rows())
    assert table.rows.keys() == {row.id for row in rows}
    columns = {"session_id", "user_id", "type", "name", "properties", "session"} - {*ignored}
    for row in rows:
        record = table.rows[row.id or ""]
        if "timestamp" not in ignored:
            assert datetime.fromisoformat(record["timestamp"]) == row.timestamp
        for column in columns:
            assert record[column] == getattr(row, column)


def most_repeated(api: RunningApi) -> int:
    """How many events a new scan may emit again: a lookback, a timestamp, and a page."""
    timestamps = [row.timestamp for row in api.model.feed.rows() if row.timestamp]
    since = max(timestamps) - timedelta(seconds=LOOKBACK)
    lookback = sum(timestamp >= since for timestamp in timestamps)
    return lookback + max(Counter(timestamps).values()) + PAGE


def name_of(fault: str) -> str:
    return fault.split("@", maxsplit=1)[0].split("=", maxsplit=1)[0]


def test_every_sandbox_fault_is_tested() -> None:
    """A new fault of the sandbox has to be added to one of the lists above."""
    assert {name_of(fault) for fault in [*SURVIVED, *HARMLESS, *FATAL]} == set(FAULTS)


@pytest.mark.parametrize("fault", SURVIVED)
def test_scan_completes_after_retries(
    fault: str, clock: FastClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Every event is loaded, none is repeated without need, and a warning is logged."""
    name = name_of(fault)
    with serve(clock, fault) as api:
        table = Table()
        sync = run_tap(table, config_of(api), caplog)
        assert sync.exit_code == 0, sync.log
        # A page that stays corrupted is loaded with replacements, which tests/tap covers.
        assert_complete(table, api, *(["properties"] if fault.endswith("forever") else []))
        restarts = name in CURSOR_FAULTS
        assert table.duplicates <= (most_repeated(api) if restarts else 0)
        assert api.stats()["faults_served"] >= 1
        assert table.bookmark["cursor"] is None
        assert table.bookmark["high_watermark"]
        assert "Traceback" not in sync.log
        assert api.key not in sync.log
        assert any(record.levelno == logging.WARNING for record in caplog.records), sync.log
        causes = [cause for page in table.pages for cause in page["retries"]]
        assert causes or restarts


@pytest.mark.parametrize("fault", HARMLESS)
def test_scan_completes_without_retries(
    fault: str, clock: FastClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a repeated request, and without losing an event."""
    with serve(clock, fault) as api:
        table = Table()
        sync = run_tap(table, config_of(api), caplog)
        assert sync.exit_code == 0, sync.log
        assert_complete(table, api, "timestamp")
        # An overlap makes the feed a page longer.
        assert api.stats()["requests"] <= EVENTS // PAGE + (name_of(fault) == "overlap")
        assert datetime.fromisoformat(table.bookmark["high_watermark"]) <= clock.now()


@pytest.mark.parametrize("fault", FATAL)
def test_sync_fails_with_message_and_next_one_resumes(
    fault: str, clock: FastClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Exit code, one message, no traceback; without the fault the next sync has everything."""
    code, message = FATAL[fault]
    with serve(clock, fault) as api:
        table = Table()
        sync = run_tap(table, config_of(api), caplog)
        assert sync.exit_code == code, sync.log
        assert message in sync.message
        assert "\n" not in sync.message
        assert api.key not in sync.log
        page = int(fault.split("@")[1].split("x", maxsplit=1)[0])
        assert len(table.rows) >= (page - 1) * PAGE

        before = api.stats()["requests"]
        api.model.faults = Faults()
        sync = run_tap(table, config_of(api), caplog)
        assert sync.exit_code == 0, sync.log
        assert_complete(table, api)
        if name_of(fault) not in (*CURSOR_FAULTS, "cycle"):
            # It resumes at the page that failed.
            assert api.stats()["requests"] - before <= EVENTS // PAGE - page + 1


def test_redirect_is_not_followed(clock: FastClock, caplog: pytest.LogCaptureFixture) -> None:
    """The key is sent to the configured host only."""
    with serve(clock, "redirect@1xforever") as api:
        run_tap(Table(), config_of(api), caplog)
        stats = api.stats()
        followed = stats["redirects_followed"], stats["keys_elsewhere"]
        assert (stats["requests"], *followed) == (1, 0, 0)


def test_expired_key_fails_and_new_key_resumes(
    clock: FastClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The message names the key, and a sync with a new key resumes."""
    table = Table()
    with serve(clock, key_requests=5) as api:
        sync = run_tap(table, config_of(api), caplog)
        assert sync.exit_code == 3
        assert KEY.format(401) in sync.message
        assert len(table.rows) == 5 * PAGE
        port = api.port
    # The same service, with another key for this client: the same feed and cursors.
    with serve(clock, key="another-key", port=port) as api:
        sync = run_tap(table, config_of(api), caplog)
        assert sync.exit_code == 0, sync.log
        assert_complete(table, api)
        assert table.duplicates == 0
        assert api.stats()["requests"] == EVENTS // PAGE - 5
