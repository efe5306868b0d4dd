"""The log lines about the progress of a scan."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from tap_datasync.client import RawResponse
from tap_datasync.state import ScanState, TimeRange

from tests.tap.tap_helpers import NOON, body_of, event, last_page, limits
from tests.tap.tap_runs import PAGES

KEY_REFUSED = RawResponse(401, {}, b"")


@pytest.fixture
def progress_of(run, caplog):
    """Run the tap; returns the lines about its progress."""

    def progress_of(*outcomes: RawResponse | bytes, **options: Any) -> list[str]:
        with caplog.at_level(logging.INFO):
            run(*outcomes, **options)
        return [line for line in caplog.messages if line.startswith(("Page ", "Scan "))]

    return progress_of


@pytest.mark.parametrize(
    ("latency", "rate", "time_left"), [(10.0, 100, "0:01:30"), (0.1, 167, "0:00:54")]
)
def test_a_page_is_one_line(progress_of, latency, rate, time_left):
    """The first pages come in a burst that the rate limit does not permit again."""
    loaded = TimeRange(NOON, "id-000000", NOON - timedelta(seconds=500))
    page = body_of(*map(event, range(1000)), total=10_000)
    line, _ = progress_of(
        RawResponse(200, limits(10, 9, 60), page),
        KEY_REFUSED,
        state=ScanState(loaded_ranges=(loaded,)),
        latency=latency,
    )
    assert line == (
        "Page 1: 1000 events (512 emitted, 488 skipped, 0 rejected), 1,000 of 10,000 (10.0 %), "
        f"{rate} events/s, rate limit 9/10, reset in 60 s, cursor expires in 116 s, "
        f"time left {time_left}"
    )


def test_a_run_ends_with_a_summary(progress_of):
    """Its retries and waits include those after the last page."""
    *_, summary = progress_of(
        RawResponse(503, {"Retry-After": "30"}, b""),
        PAGES[None],
        PAGES["c5"],
        RawResponse(503, {"Retry-After": "20"}, b""),
        KEY_REFUSED,
    )
    assert summary == (
        "Scan not finished: 2 pages, 11 events read, 10 emitted, 2 rejected in 0:00:50 "
        "(0:00:50 waiting for the rate limit, 2 retries)"
    )


def test_what_is_not_known_is_named_and_an_empty_feed_is_complete(progress_of):
    page, summary = progress_of(last_page())
    assert page == (
        "Page 1: 0 events (0 emitted, 0 skipped, 0 rejected), 0 of 0 (100.0 %), 0 events/s, "
        "rate limit unknown, cursor expires in -, time left unknown"
    )
    assert summary.startswith("Scan finished: 1 pages, 0 events read, 0 emitted, 0 rejected in ")
