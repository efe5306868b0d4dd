"""Every fault of the sandbox, over HTTP: complete in the end, or one message and a usable state."""

from __future__ import annotations

import logging
import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from datasync_sandbox.testing import FAULTS, ApiServer, Faults, running_api

from tests.tap.tap_runs import Runner

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tap_datasync.state import ScanState

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


class Load:
    """Syncs of the tap in this process, into one table."""

    def __init__(self, run: Runner, clock: FastClock, log: pytest.LogCaptureFixture) -> None:
        self._run = run
        self._clock = clock
        self.log = log
        self.rows: dict[str, dict[str, Any]] = {}
        self.pages: list[dict[str, Any]] = []
        self.state: ScanState | None = None
        self.duplicates = 0

    def run(self, api: ApiServer) -> tuple[int, str]:
        """Run the tap from the state of the last time; returns exit code and error message."""
        self.log.clear()
        output = self._run(
            url=api.url,
            api_key=api.key,
            state=self.state,
            clock=self._clock,
            page_size=PAGE,
            request_timeout=1,
            lookback=LOOKBACK,
        )
        if output.states:
            self.state = output.state
        self.pages += output.rows("pages")
        for record in output.rows():
            self.duplicates += record["id"] in self.rows
            self.rows[record["id"]] = record
        assert "Traceback" not in self.log.text
        assert api.key not in self.log.text
        return (output.error.exit_code, str(output.error)) if output.error else (0, "")

    def assert_complete(self, api: ApiServer, *ignored: str) -> None:
        """The table equals the feed, row by row."""
        rows = list(api.model.feed.rows())
        assert self.rows.keys() == {row.id for row in rows}
        columns = {"session_id", "user_id", "type", "name", "properties", "session"} - {*ignored}
        for row in rows:
            record = self.rows[row.id or ""]
            if "timestamp" not in ignored:
                assert datetime.fromisoformat(record["timestamp"]) == row.timestamp
            for column in columns:
                assert record[column] == getattr(row, column)


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

    def serve(self, *faults: str, **options: Any) -> AbstractContextManager[ApiServer]:
        return running_api(
            events=EVENTS,
            fault=faults,
            limit=100_000,
            clock=lambda: self.now().timestamp(),
            **options,
        )


@pytest.fixture
def clock() -> FastClock:
    """The clock of tap and API."""
    return FastClock()


@pytest.fixture
def load(
    clock: FastClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Load:
    caplog.set_level(logging.INFO)
    return Load(Runner(monkeypatch, capfd), clock, caplog)


def most_repeated(api: ApiServer) -> int:
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
def test_scan_completes_after_retries(fault: str, clock: FastClock, load: Load) -> None:
    """Every event is loaded, none is repeated without need, and a warning is logged."""
    with clock.serve(fault) as api:
        assert load.run(api) == (0, ""), load.log.text
        # A page that stays corrupted is loaded with replacements, which tests/tap covers.
        load.assert_complete(api, *(["properties"] if fault.endswith("forever") else []))
        restarts = name_of(fault) in CURSOR_FAULTS
        assert load.duplicates <= (most_repeated(api) if restarts else 0)
        assert api.stats()["faults_served"] >= 1
        assert load.state is not None
        assert load.state.cursor is None
        assert load.state.high_watermark
        assert any(record.levelno == logging.WARNING for record in load.log.records)
        causes = [cause for page in load.pages for cause in page["retries"]]
        assert causes or restarts


@pytest.mark.parametrize("fault", HARMLESS)
def test_scan_completes_without_retries(fault: str, clock: FastClock, load: Load) -> None:
    """Without a repeated request, and without losing an event."""
    with clock.serve(fault) as api:
        assert load.run(api) == (0, ""), load.log.text
        load.assert_complete(api, "timestamp")
        # An overlap makes the feed a page longer.
        assert api.stats()["requests"] <= EVENTS // PAGE + (name_of(fault) == "overlap")
        assert load.state is not None
        assert load.state.high_watermark is not None
        assert load.state.high_watermark <= clock.now()


@pytest.mark.parametrize("fault", FATAL)
def test_sync_fails_with_message_and_next_one_resumes(
    fault: str, clock: FastClock, load: Load
) -> None:
    """Exit code, one message, no traceback; without the fault the next sync has everything."""
    code, message = FATAL[fault]
    with clock.serve(fault) as api:
        exit_code, error = load.run(api)
        assert exit_code == code, load.log.text
        assert message in error
        assert "\n" not in error
        page = int(fault.split("@")[1].split("x", maxsplit=1)[0])
        assert len(load.rows) >= (page - 1) * PAGE
        stats = api.stats()
        before = stats["requests"]
        # A permanent error is not retried.
        assert before == page or code != 3
        # The key is sent to the configured host only.
        assert (stats["redirects_followed"], stats["keys_elsewhere"]) == (0, 0)

        api.model.faults = Faults()
        assert load.run(api) == (0, ""), load.log.text
        load.assert_complete(api)
        if name_of(fault) not in (*CURSOR_FAULTS, "cycle"):
            # It resumes at the page that failed.
            assert api.stats()["requests"] - before <= EVENTS // PAGE - page + 1


def test_expired_key_fails_and_new_key_resumes(clock: FastClock, load: Load) -> None:
    """The message names the key, and a sync with a new key resumes."""
    with clock.serve(key_requests=5) as api:
        code, message = load.run(api)
        assert code == 3
        assert KEY.format(401) in message
        assert len(load.rows) == 5 * PAGE
        port = api.port
    # The same service, with another key for this client: the same feed and cursors.
    with clock.serve(key="another-key", port=port) as api:
        assert load.run(api) == (0, ""), load.log.text
        load.assert_complete(api)
        assert load.duplicates == 0
        assert api.stats()["requests"] == EVENTS // PAGE - 5
