"""Every fault of the API, over HTTP: all events in the end, or a plain sentence and a state."""

from __future__ import annotations

import logging
import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from datasync_sandbox.testing import FAULTS, Faults, RunningApi, running_api
from tap_datasync.streams import EventsStream

from tests.pipeline.reader import Table, run_tap

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

EVENTS = 1000
PAGE = 100
LOOKBACK = 60

SURVIVED = [
    *("500@3x3", "502@1x2", "502@4x3", "503@5x3", "504@10x2", "500@2x2", "refused=0.02@3"),
    *(
        "reset@2x2",
        "reset-body@4x2",
        "reset-body=0.99@5",
        "hang@3",
        "drip-body=3@6",
        "late-reply=2@7",
    ),
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
    """Waits briefly where the tap means to wait, and lets tap and API believe that it did."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def now(self) -> datetime:
        return datetime.now(tz=timezone.utc) + timedelta(seconds=self._ahead)

    def sleep(self, seconds: float) -> None:
        really = min(seconds, 0.01)
        time.sleep(really)
        self._ahead += seconds - really


@pytest.fixture(autouse=True)
def _logging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FastClock:
    """The clock of tap and API."""
    fast = FastClock()
    monkeypatch.setattr(EventsStream, "clock", fast)
    return fast


def _serve(clock: FastClock, *faults: str, **options: Any) -> AbstractContextManager[RunningApi]:
    options.setdefault("limit", 100_000)
    return running_api(
        events=EVENTS, fault=faults, clock=lambda: clock.now().timestamp(), **options
    )


def _config(api: RunningApi) -> dict[str, Any]:
    return {
        "api_url": api.url,
        "api_key": api.key,
        "page_size": PAGE,
        "request_timeout": 1,
        "lookback": LOOKBACK,
    }


def _assert_whole(table: Table, api: RunningApi, *, leave_out: str = "") -> None:
    """The table holds the feed, row by row."""
    rows = list(api.model.feed.rows())
    assert table.rows.keys() == {row.id for row in rows}
    columns = {"session_id", "user_id", "type", "name", "properties", "session"} - {leave_out}
    for row in rows:
        record = table.rows[row.id or ""]
        moment = datetime.fromisoformat(record["timestamp"].replace("Z", "+00:00"))
        assert moment == row.timestamp
        for column in columns:
            assert record[column] == getattr(row, column)


def _most_read_again(api: RunningApi) -> int:
    """Count what a new walk emits once more: a lookback, and what shares the old end's instant."""
    moments = [row.timestamp for row in api.model.feed.rows() if row.timestamp]
    since = max(moments) - timedelta(seconds=LOOKBACK)
    return sum(moment >= since for moment in moments) + max(Counter(moments).values())


def test_every_fault_of_the_sandbox_is_in_the_table() -> None:
    """A fault that the sandbox learns has to be survived, or to end in a sentence."""
    tried = {spec.split("@")[0].split("=")[0] for spec in [*SURVIVED, *FATAL]}
    assert tried == set(FAULTS)


@pytest.mark.parametrize("fault", SURVIVED)
def test_the_walk_survives(fault: str, clock: FastClock, caplog: pytest.LogCaptureFixture) -> None:
    """The walk completes with every event, none twice without need, and says what was wrong."""
    name = _name(fault)
    with _serve(clock, fault) as api:
        table = Table()
        run = run_tap(table, _config(api), caplog)
        assert run.exit_code == 0, run.log
        # Of a damage that stays, the tap makes what another test is about.
        stays = fault.endswith("forever")
        _assert_whole(table, api, leave_out="properties" if stays else "")
        walks_anew = name in {"cursor-expired", "cursor-malformed", "429-long"}
        assert ("The walk is cut off" in run.log) == walks_anew
        assert table.duplicates <= (_most_read_again(api) if walks_anew else 0)
        assert api.stats()["faults_served"] >= 1
        bookmark = table.state["bookmarks"]["events"]
        assert bookmark["cursor"] is None
        assert bookmark["complete_to"]
        assert "Traceback" not in run.log
        assert api.key not in run.log
        warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert warnings, run.log
        causes = [cause for page in table.pages for cause in page["retries"]]
        assert bool(causes) == _asks_again(name)


def _name(fault: str) -> str:
    return fault.split("@", maxsplit=1)[0].split("=", maxsplit=1)[0]


def _asks_again(name: str) -> bool:
    """Say whether a fault makes the tap ask for the same page again."""
    return name not in {"cursor-expired", "cursor-malformed"}


@pytest.mark.parametrize("fault", FATAL)
def test_the_run_ends_with_a_sentence_and_resumes(
    fault: str, clock: FastClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Non-zero, one sentence last, no traceback; mended, the next run has everything."""
    code, sentence = FATAL[fault]
    with _serve(clock, fault) as api:
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


def test_a_redirect_is_not_followed(clock: FastClock, caplog: pytest.LogCaptureFixture) -> None:
    """The key goes to the configured host alone."""
    with _serve(clock, "redirect@1xforever") as api:
        run_tap(Table(), _config(api), caplog)
        stats = api.stats()
        followed = stats["redirects_followed"], stats["keys_elsewhere"]
        assert (stats["requests"], *followed) == (1, 0, 0)


def test_a_key_that_dies_in_the_middle(clock: FastClock, caplog: pytest.LogCaptureFixture) -> None:
    """What was loaded stays, the sentence names the key, and a new key goes on."""
    table = Table()
    with _serve(clock, key_requests=5) as api:
        run = run_tap(table, _config(api), caplog)
        assert run.exit_code == 3
        assert "refuses the key" in run.sentence
        assert len(table.rows) == 5 * PAGE
    # The same service to a client with another key: the same feed, and it knows its cursors.
    with _serve(clock, key="another-key") as api:
        run = run_tap(table, _config(api), caplog)
        assert run.exit_code == 0, run.log
        _assert_whole(table, api)
        assert table.duplicates == 0
        assert api.stats()["requests"] == EVENTS // PAGE - 5
