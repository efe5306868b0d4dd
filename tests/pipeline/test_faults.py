"""Every fault of the API, over HTTP: all events in the end, or a plain sentence and a state."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timezone
from typing import Any

import pytest
from datasync_sandbox.catalogue import FAULTS
from datasync_sandbox.faults import Faults
from datasync_sandbox.testing import RunningApi, running_api
from tap_datasync.streams import EventsStream

from tests.pipeline.reader import Table, run_tap

EVENTS = 1000
PAGE = 100

SURVIVED = [
    *("500@3x3", "502@1x2", "502@4x3", "503@5x3", "504@10x2", "500@2x2", "refused=0.02@3"),
    *("reset@2x2", "reset-body@4x2", "reset-body=0.99@5", "hang@3", "slow=3@6", "late-reply=2@7"),
    *("truncated@2x2", "truncated=0.999@3", "null@2x2", "list@2", "empty@3x2", "html@4x2"),
    *("nan@2", "infinity@3", "nan@4xforever", "bad-utf8@5", "no-data@3", "null-data@3"),
    *("no-pagination@2x2", "null-pagination@3x2", "no-meta@4", "null-meta@5", "no-meta@1x2"),
    *("empty-page@1", "empty-page@4x2", "empty-same-cursor@5", "empty-page@3x6"),
    *("false-end@1", "false-end@4", "false-end@9x3", "false-end-bare@5", "false-end-empty@6"),
    *("no-cursor@3x2", "repeat-cursor@4x2", "repeat-cursor@1"),
    *("cursor-expired@5", "cursor-malformed@5", "cursor-expired@2", "cursor-malformed@10"),
    *("429=1@4", "429-date=1@4", "429-bare@4x2", "429-long=1@4"),
]

FATAL = {
    "401@1xforever": (3, "The API refuses the key (HTTP 401"),
    "403@1xforever": (3, "The API refuses the key (HTTP 403"),
    "401@5xforever": (3, "The API refuses the key (HTTP 401"),
    "403@5xforever": (3, "The API refuses the key (HTTP 403"),
    "404@1xforever": (3, "There are no events at this address (HTTP 404"),
    "404@5xforever": (3, "There are no events at this address (HTTP 404"),
    "redirect@1xforever": (3, "The API answers with a redirect (HTTP 302"),
    "redirect@5xforever": (3, "The API answers with a redirect (HTTP 302"),
    "400@1xforever": (3, "The API refuses the request (HTTP 400"),
    "500@4xforever": (1, "Gave up after 8 tries: the server failed"),
    "reset@4xforever": (1, "Gave up after 8 tries: the connection broke"),
    "truncated@4xforever": (1, "Gave up after 8 tries: the reply is not a page of events"),
    "no-pagination@4xforever": (1, "Gave up after 8 tries: the reply is not a page of events"),
    "no-meta@4xforever": (1, "Gave up after 8 tries: the reply is not a page of events"),
    "html@1xforever": (1, "Gave up after 8 tries: the reply is not a page of events"),
    "false-end@4xforever": (1, "the API says that the feed ends, short of the events it counts"),
    "false-end-bare@4xforever": (1, "the API says that the feed ends"),
    "false-end-empty@4xforever": (1, "the API says that the feed ends"),
    "no-cursor@4xforever": (1, "more is to come, but there is no cursor"),
    "repeat-cursor@4xforever": (1, "the next cursor has been used before"),
    "cursor-malformed@4xforever": (1, "walks in a row were cut off at the same place"),
    "cursor-expired@2xforever": (1, "walks in a row were cut off at the same place"),
}


class FastClock:
    """Waits briefly where the tap means to wait, and lets the tap believe that it did.

    A pause that the API enforces (429) is waited out for real.
    """

    def __init__(self, *, honest: bool) -> None:
        self._honest = honest
        self._ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def now(self) -> datetime:
        return datetime.now(tz=timezone.utc)

    def sleep(self, seconds: float) -> None:
        really = seconds if self._honest else min(seconds, 0.01)
        time.sleep(really)
        self._ahead += seconds - really


@pytest.fixture(autouse=True)
def _logging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def _serve(fault: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    monkeypatch.setattr(EventsStream, "clock", FastClock(honest=fault.startswith("429")))
    options.setdefault("limit", 100_000)
    return running_api(events=EVENTS, fault=[fault], **options)


def _config(api: RunningApi) -> dict[str, Any]:
    return {
        "api_url": api.url,
        "api_key": api.key,
        "page_size": PAGE,
        "request_timeout": 1,
        "lookback": 60,
    }


def _assert_whole(table: Table, api: RunningApi) -> None:
    """The table holds the feed, row by row."""
    rows = list(api.model.feed.rows())
    assert table.rows.keys() == {row.id for row in rows}
    for row in rows:
        record = table.rows[row.id or ""]
        moment = datetime.fromisoformat(record["timestamp"].replace("Z", "+00:00"))
        assert moment == row.timestamp
        columns = ("session_id", "user_id", "type", "name", "session")
        assert all(record[column] == getattr(row, column) for column in columns)


def test_every_fault_of_the_sandbox_is_in_the_table() -> None:
    """A fault that the sandbox learns has to be survived, or to end in a sentence."""
    tried = {spec.split("@")[0].split("=")[0] for spec in [*SURVIVED, *FATAL]}
    assert tried == set(FAULTS)


@pytest.mark.parametrize("fault", SURVIVED)
def test_the_walk_survives(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The walk completes with every event exactly once, and says what was in its way."""
    lifetime = 3 if fault.startswith("429-long") else 120
    with _serve(fault, monkeypatch, cursor_lifetime=lifetime) as api:
        table = Table()
        run = run_tap(table, _config(api), caplog)
        assert run.exit_code == 0, run.log
        _assert_whole(table, api)
        assert api.stats()["faults_served"] >= 1
        bookmark = table.state["bookmarks"]["events"]
        assert bookmark["cursor"] is None
        assert bookmark["complete_to"]
        assert "Traceback" not in run.log
        assert api.key not in run.log
        if not fault.startswith(("nan", "infinity", "late-reply")):
            warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
            assert warnings, run.log
        causes = [cause for page in table.pages for cause in page["retries"]]
        assert causes or not warnings_expected(fault)


def warnings_expected(fault: str) -> bool:
    """Say whether a fault makes the tap ask again."""
    name = fault.split("@", maxsplit=1)[0].split("=", maxsplit=1)[0]
    return name not in {
        *("nan", "infinity", "late-reply"),
        *("cursor-expired", "cursor-malformed"),
    }


@pytest.mark.parametrize("fault", FATAL)
def test_the_run_ends_with_a_sentence_and_resumes(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Non-zero, one sentence last, no traceback; mended, the next run has everything."""
    code, sentence = FATAL[fault]
    with _serve(fault, monkeypatch) as api:
        table = Table()
        run = run_tap(table, _config(api), caplog)
        assert run.exit_code == code, run.log
        assert sentence in run.sentence
        assert "\n" not in run.sentence
        assert api.key not in run.log
        served = len(table.rows)
        page = int(fault.split("@")[1].split("x", maxsplit=1)[0])
        assert served >= (page - 1) * PAGE

        before = api.stats()["requests"]
        api.model.faults = Faults()
        run = run_tap(table, _config(api), caplog)
        assert run.exit_code == 0, run.log
        _assert_whole(table, api)
        if "cursor" not in fault.split("@", maxsplit=1)[0] or fault.startswith(
            ("no-cursor", "repeat")
        ):
            # It goes on at the page that failed: not one request more than is left.
            assert api.stats()["requests"] - before == EVENTS // PAGE - page + 1


def test_a_redirect_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The key goes to the configured host alone."""
    with _serve("redirect@1xforever", monkeypatch) as api:
        run_tap(Table(), _config(api), caplog)
        assert api.stats()["requests"] == 1


def test_a_key_that_dies_in_the_middle(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was loaded stays, the sentence names the key, and a new key goes on."""
    with _serve("500@9", monkeypatch, key_requests=5) as api:
        table = Table()
        run = run_tap(table, _config(api), caplog)
        assert run.exit_code == 3
        assert "refuses the key" in run.sentence
        assert len(table.rows) == 5 * PAGE
