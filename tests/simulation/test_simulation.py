"""Hundreds of simulated loads; ``python -m tests.simulation`` runs any number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tap_datasync.rate_limit import RateLimiter
from tap_datasync.scan import Scan
from tap_datasync.state import ScanState, TimeRange
from tap_datasync.verification import PageCheck, PageHistory

from tests.simulation import feeds, service

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from tap_datasync.parsing import FetchedPage

CHUNK = 40


@pytest.mark.parametrize("check", [service.check, feeds.check], ids=["service", "feeds"])
@pytest.mark.parametrize("first", range(0, 280, CHUNK))
def test_simulated_loads_are_complete(first: int, check: Callable[[int], object]) -> None:
    """Whatever fails, is killed, arrives or is wrong: nothing missing, requests bounded."""
    for seed in range(first, first + CHUNK):
        check(seed)


def _contains_late_events(loaded: TimeRange, timestamp: datetime, lookback: timedelta) -> bool:
    del lookback
    return loaded.oldest_at < timestamp < loaded.newest_at


def _any_end(check: PageCheck) -> bool:
    del check
    return True


def _too_early(limiter: RateLimiter, headers: object, now: float) -> float:
    del limiter, headers
    return now - 2


def _no_repeated_event(history: PageHistory, ids: list[str], recent: frozenset[str]) -> set[int]:
    del history, ids, recent
    return set()


def _every_anchor(scan: Scan, page: FetchedPage) -> tuple[str | None, ...]:
    del page
    return tuple(scan._anchors())


def _trust_the_feed(state: ScanState, *, at_oldest_event: bool) -> ScanState:
    del at_oldest_event
    return ScanState(high_watermark=state.scan_newest_at, high_watermark_id=state.scan_newest_id)


@pytest.mark.parametrize(
    ("owner", "name", "broken", "check", "first"),
    [
        (TimeRange, "contains", _contains_late_events, service.check, 60),
        (PageCheck, "may_end", property(_any_end), service.check, 0),
        (RateLimiter, "_next_slot", _too_early, service.check, 0),
        (PageHistory, "_find_repeated", _no_repeated_event, feeds.check, 0),
        (Scan, "_anchors_met", _every_anchor, feeds.check, 600),
        (ScanState, "finish", _trust_the_feed, feeds.check, 40),
    ],
    ids=[
        "late events are skipped",
        "false ends are accepted",
        "requests are too early",
        "repeated events count twice",
        "anchors are not verified",
        "an unsorted feed is trusted",
    ],
)
def test_the_simulation_finds_a_bug(  # noqa: PLR0913, PLR0917 - drawn cases are arguments
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    broken: object,
    check: Callable[[int], object],
    first: int,
) -> None:
    """A simulation that cannot fail would prove nothing."""
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(AssertionError, match="seed"):
        for seed in range(first, first + 1000):
            check(seed)
