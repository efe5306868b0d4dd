"""The log lines that people read while the tap runs."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import timedelta

import pytest
from tap_datasync.bookmark import Bookmark
from tap_datasync.budget import RateLimit
from tap_datasync.client import Effort
from tap_datasync.extraction import ExtractedPage
from tap_datasync.pages import Rejection
from tap_datasync.progress import ProgressLog
from tap_datasync.walk import Taken
from tap_helpers import NOON, decoded, exchange_of, record_at

REJECTION = Rejection(None, ["x"], "{}", "a")


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO)
    return ProgressLog(logging.getLogger("tests.progress"), 100.0)


def page_number(number: int, *, cursor: str | None = "next", budget: RateLimit | None = None):
    rows = [record_at(f"{number}-{n}", NOON) for n in range(1000)]
    page = decoded(rows, cursor=cursor, rejections=[REJECTION], returned=1000)
    bookmark = Bookmark(
        cursor=cursor,
        cursor_expires_at=NOON + timedelta(seconds=117) if cursor else None,
        events_seen=1000 * number,
        total_events=10_000,
    )
    taken = Taken(rows[:900], bookmark, 100, NOON, NOON, lost_order=False)
    effort = Effort(Counter({"503": 2, "429": 1}), 30.0)
    return ExtractedPage(number, exchange_of(page, budget=budget), taken, effort)


def test_a_page_is_told_in_one_line(log, caplog):
    """What came, how far it is, how fast, what is left."""
    log.page(page_number(1, budget=RateLimit(10, 9, 60)), 110.0, None)
    (message,) = caplog.messages
    assert message == (
        "Page 1: 1000 events (900 new to this walk, 100 skipped, 1 rejected), "
        "1,000 of 10,000 (10.0 %), 100 events/s, budget 9/10, next in 60 s, "
        "cursor lives 115 s, done in 0:01:30"
    )


def test_the_end_is_foretold_with_the_limit_in_mind(log, caplog):
    """The first pages come in a burst that the limit does not allow again."""
    log.page(page_number(1, budget=RateLimit(10, 9, 60)), 100.1, 60.0)
    # 10 pages of 1000 in 60 s, 9000 to go.
    assert "167 events/s" in caplog.text
    assert "done in 0:00:54" in caplog.text


def test_what_is_not_known_is_said_so(log, caplog):
    """No headers, no cursor, no time passed."""
    log.page(page_number(10, cursor=None), 100.0, None)
    assert "budget not told, cursor lives -, done in ?" in caplog.text


def test_a_feed_of_nothing_is_whole(log, caplog):
    """No division by zero."""
    exchange = exchange_of(decoded([], cursor=None, total=0))
    taken = Taken([], Bookmark(total_events=0), 0, None, None, lost_order=False)
    log.page(ExtractedPage(1, exchange, taken, Effort()), 101.0, 60.0)
    assert "0 of 0 (100.0 %)" in caplog.text


@pytest.mark.parametrize(
    ("finished", "words"), [(True, "Walk finished: "), (False, "Walk not finished: ")]
)
def test_a_run_ends_with_a_summary(log, caplog, finished, words):
    """Pages, events, time, waits and retries."""
    for number in (1, 2):
        log.page(page_number(number), 100.0 + number, None)
    caplog.clear()
    log.summary(190.0, finished=finished)
    (message,) = caplog.messages
    assert message == (
        f"{words}2 pages, 2,000 events seen, 1,800 emitted, 2 rejected in 0:01:30 "
        "(0:01:00 waited for the API's limit, 6 retries)"
    )
    assert log.emitted == 1800
