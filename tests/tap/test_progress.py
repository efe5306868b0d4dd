"""The log lines about the progress of a scan."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from tap_datasync.client import RequestStats
from tap_datasync.parsing import Rejection
from tap_datasync.progress import ProgressLog
from tap_datasync.rate_limit import RateLimitHeaders
from tap_datasync.state import ScanState

from tests.tap.tap_helpers import NOON, FakeClock, fetched, record_at

RATE_LIMIT = RateLimitHeaders(10, 9, 60)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def log(caplog, clock):
    caplog.set_level(logging.INFO)
    return ProgressLog(logging.getLogger("tests.progress"), clock)


def log_page(
    log: ProgressLog, number: int, *, cursor: str | None = "next", window: Any = None, **page: Any
) -> None:
    """Log a page of 1000 events, of which 900 are emitted."""
    rows = [record_at(f"{number}-{n}", NOON) for n in range(1000)]
    state = ScanState(
        cursor=cursor,
        cursor_expires_at=NOON + timedelta(seconds=117) if cursor else None,
        events_seen=1000 * number,
        events_expected=10_000,
    )
    log.log_page(
        fetched(rows, cursor=cursor, rejections=[Rejection(None, ["x"], "{}", "a")], **page),
        state,
        RequestStats(Counter({"http_503": 2, "http_429": 1}), 30.0),
        emitted=900,
        window=window,
    )


def test_a_page_is_one_line(log, clock, caplog):
    clock.passed = 10.0
    log_page(log, 1, rate_limit=RATE_LIMIT)
    (message,) = caplog.messages
    assert message == (
        "Page 1: 1000 events (900 emitted, 100 skipped, 1 rejected), 1,000 of 10,000 (10.0 %), "
        "100 events/s, rate limit 9/10, reset in 60 s, cursor expires in 115 s, "
        "time left 0:01:30"
    )


def test_the_time_left_takes_the_rate_limit_into_account(log, clock, caplog):
    """The first pages come in a burst that the rate limit does not permit again."""
    clock.passed = 0.1
    log_page(log, 1, rate_limit=RATE_LIMIT, window=60.0)
    # 10 pages of 1000 in 60 s, 9000 to go.
    assert "167 events/s" in caplog.text
    assert "time left 0:00:54" in caplog.text


def test_what_is_not_known_is_named(log, caplog):
    log_page(log, 10, cursor=None)
    assert "rate limit unknown, cursor expires in -, time left unknown" in caplog.text


def test_an_empty_feed_is_complete(log, caplog):
    page = fetched([], cursor=None, total=0)
    log.log_page(page, ScanState(events_expected=0), RequestStats(), emitted=0, window=60.0)
    assert "0 of 0 (100.0 %)" in caplog.text


@pytest.mark.parametrize(
    ("finished", "words"), [(True, "Scan finished: "), (False, "Scan not finished: ")]
)
def test_a_run_ends_with_a_summary(log, clock, caplog, finished, words):
    for number in (1, 2):
        log_page(log, number)
    caplog.clear()
    clock.passed = 90.0
    log.log_summary(RequestStats(Counter({"timeout": 1}), 1.0), finished=finished)
    (message,) = caplog.messages
    assert message == (
        f"{words}2 pages, 2,000 events read, 1,800 emitted, 2 rejected in 0:01:30 "
        "(0:01:01 waiting for the rate limit, 7 retries)"
    )
    assert (log.pages, log.emitted) == (2, 1800)
