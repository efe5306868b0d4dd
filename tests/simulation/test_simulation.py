"""Hundreds of simulated loads; ``python -m tests.simulation`` runs any number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tap_datasync.bookmark import Span
from tap_datasync.budget import RateLimit, RequestBudget
from tap_datasync.walk import Walk

from tests.simulation.world import check

if TYPE_CHECKING:
    from datetime import datetime, timedelta

CHUNK = 50


@pytest.mark.parametrize("first", range(0, 400, CHUNK))
def test_simulated_loads_are_complete(first: int) -> None:
    """Whatever fails, is killed or arrives: all events, none lost, none over the limit."""
    for seed in range(first, first + CHUNK):
        check(seed)


def _covers_late_events_too(span: Span, moment: datetime, lookback: timedelta) -> bool:
    del lookback
    return span.oldest < moment < span.newest


def _believes_the_end(walk: Walk, page: object) -> None:
    del walk, page


def _is_early(budget: RequestBudget, facts: RateLimit, now: float) -> float:
    del budget
    return now + facts.reset - 2


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (Span, "covers", _covers_late_events_too),
        (Walk, "doubt", _believes_the_end),
        (RequestBudget, "_next_slot", _is_early),
    ],
    ids=["late events are skipped", "a false end is believed", "requests are early"],
)
def test_the_simulation_finds_a_planted_bug(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, broken: object
) -> None:
    """A simulation that cannot fail would prove nothing."""
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(AssertionError, match="seed"):
        for seed in range(400):
            check(seed)
