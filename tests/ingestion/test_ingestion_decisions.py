"""Restarts, outcomes, sources and states: pure decisions, each over its cases."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from datasync_ingestion.database import Checkpoint
from datasync_ingestion.errors import UsageError
from datasync_ingestion.logs import Account
from datasync_ingestion.outcomes import End, judge
from datasync_ingestion.restarts import RestartPolicy
from datasync_ingestion.settings import Api, Plan
from datasync_ingestion.sources import Change, compare, name
from datasync_ingestion.states import correct

NOON = datetime(2026, 1, 27, 12, tzinfo=timezone.utc)
FINISHED = Checkpoint({}, NOON, walk_open=False, complete_to=NOON, total_events=5)
OPEN = Checkpoint({}, NOON, walk_open=True, complete_to=None, total_events=5)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_run_that_moved_is_started_again_at_once_however_often() -> None:
    policy = RestartPolicy(Clock())
    assert [policy.pause(moved=True) for _ in range(100)] == [0.0] * 100


def test_pauses_grow_while_nothing_moves_and_begin_anew_after_a_movement() -> None:
    policy = RestartPolicy(Clock())
    pauses = [policy.pause(moved=False) for _ in range(9)]
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert policy.pause(moved=True) == 0
    assert [policy.pause(moved=False) for _ in range(3)] == [0, 1, 2]


def test_it_gives_up_after_its_patience_and_not_before_the_fewest_attempts() -> None:
    clock = Clock()
    policy = RestartPolicy(clock, patience=900, fewest=3)
    clock.now = 5000
    assert policy.pause(moved=False) is not None
    assert policy.pause(moved=False) is not None
    assert policy.pause(moved=False) is None


def test_patience_is_counted_from_the_last_movement() -> None:
    clock = Clock()
    policy = RestartPolicy(clock, patience=900, fewest=1)
    clock.now = 5000
    assert policy.pause(moved=True) == 0
    clock.now = 5899
    assert policy.pause(moved=False) is not None
    clock.now = 5900
    assert policy.pause(moved=False) is None


def test_a_run_that_never_gets_anywhere_ends_within_half_an_hour() -> None:
    """With attempts that fail at once, as with a wrong port: time is spent in pauses alone."""
    clock = Clock()
    policy = RestartPolicy(clock)
    restarts = 0
    while (pause := policy.pause(moved=False)) is not None:
        clock.now += pause
        restarts += 1
    assert 900 <= clock.now < 1800
    assert restarts < 30


@pytest.mark.parametrize(
    ("code", "account", "checkpoint", "end", "exit_code"),
    [
        (0, Account(), FINISHED, End.FINISHED, 0),
        # An exit code is not believed alone.
        (0, Account(), OPEN, End.AGAIN, 1),
        (0, Account(), None, End.AGAIN, 1),
        # Nor is the checkpoint: the state behind it may not be saved.
        (1, Account(), FINISHED, End.AGAIN, 1),
        (-9, Account(), FINISHED, End.AGAIN, 1),
        (1, Account(tap=1), OPEN, End.AGAIN, 1),
        (1, Account(tap=2), OPEN, End.GIVE_UP, 2),
        (1, Account(tap=3), OPEN, End.GIVE_UP, 3),
        (1, Account(loader=1), OPEN, End.AGAIN, 1),
        (1, Account(loader=2), OPEN, End.GIVE_UP, 2),
        (1, Account(tap=3, loader=1), OPEN, End.GIVE_UP, 3),
        (1, Account(tap=143), OPEN, End.AGAIN, 1),
    ],
)
def test_outcome(
    code: int, account: Account, checkpoint: Checkpoint | None, end: End, exit_code: int
) -> None:
    outcome = judge(code, account, checkpoint)
    assert (outcome.end, outcome.exit_code) == (end, exit_code)
    assert bool(outcome.reason) == (end is not End.FINISHED)


def test_the_reason_is_what_the_failed_part_said_last() -> None:
    said = {
        "meltano": "Extractor failed",
        "tap-datasync": "The key.",
        "target-postgres": "No disk.",
    }
    assert judge(1, Account(tap=3, said=said), OPEN).reason == "The key."
    assert judge(1, Account(loader=1, said=said), OPEN).reason == "No disk."
    # Code and words are of the same part.
    outcome = judge(1, Account(tap=3, loader=1, said=said), OPEN)
    assert (outcome.reason, outcome.exit_code) == ("The key.", 3)
    outcome = judge(1, Account(tap=1, loader=2, said=said), OPEN)
    assert (outcome.reason, outcome.exit_code) == ("No disk.", 2)
    silent = judge(1, Account(tap=3, loader=1, said={"target-postgres": "No disk."}), OPEN)
    assert silent.reason == "tap-datasync ended with exit code 3."
    # When the loader dies, the tap complains too, of the consequence.
    assert judge(1, Account(tap=1, loader=1, said=said), OPEN).reason == "No disk."
    assert judge(1, Account(said={"meltano": "No such plugin"}), OPEN).reason == "No such plugin"
    assert judge(-9, Account(said=said), OPEN).reason == "Meltano was ended by SIGKILL."
    assert judge(7, Account(), OPEN).reason == "Meltano ended with exit code 7."


@pytest.mark.parametrize(("total", "finished"), [(0, True), (None, True), (5, False)])
def test_a_feed_without_events_is_finished_although_nothing_is_newest(
    total: int | None,
    finished: bool,  # noqa: FBT001 - a case of the table
) -> None:
    checkpoint = Checkpoint({}, NOON, walk_open=False, complete_to=None, total_events=total)
    assert checkpoint.finished is finished


def test_the_source_of_made_up_events_is_what_decides_on_them(tmp_path: Path) -> None:
    """Their number and seed count; the limit of the API and its port do not."""
    plan = Plan()

    def source(*args: str) -> str:
        (tmp_path / "api.json").write_text(json.dumps({"args": args, "created": 7.5}))
        return name(plan, tmp_path)

    assert source() == "sandbox"
    assert source("--limit=1000", "--port=0", "--window=1.0") == "sandbox"
    assert source("--seed=3", "--events=20", "--limit=5") == "sandbox --events=20 --seed=3"
    assert source("--events=20", "--seed=3") == "sandbox --events=20 --seed=3"
    assert source("--newest=now") == "sandbox --newest=now started=7.5"


def test_the_source_of_real_events_is_the_address(tmp_path: Path) -> None:
    assert name(Plan(api=Api("https://a.test/api/v1/", "k")), tmp_path) == "https://a.test/api/v1"
    # Only what Compose sets is its sandbox, not every host of that name.
    for url, key in (
        ("http://sandbox:8765/api/v1", "a-real-key"),
        ("http://sandbox:80/api/v1", "sandbox-key"),
        ("https://sandbox/api/v1", "sandbox-key"),
    ):
        assert name(Plan(api=Api(url, key)), tmp_path) == url


def test_what_the_container_sets_for_its_sandbox_is_told_as_made_up(tmp_path: Path) -> None:
    entrypoint = Path(__file__).parents[2] / "docker" / "entrypoint.sh"
    found = re.search(r"API_BASE_URL=(\S+) API_KEY=(\S+)", entrypoint.read_text())
    assert found
    assert name(Plan(api=Api(found[1], found[2])), tmp_path) == f"sandbox {found[1]}"


REAL, OTHER = "https://a.test/api/v1", "https://b.test/api/v1"


@pytest.mark.parametrize(
    ("last", "this", "change"),
    [
        (None, REAL, Change.NONE),
        (None, "sandbox", Change.NONE),
        (REAL, REAL, Change.NONE),
        ("sandbox", "sandbox", Change.NONE),
        ("sandbox", "sandbox --events=20", Change.FORGET),
        (REAL, OTHER, Change.WALK),
    ],
)
def test_change_of_source(last: str | None, this: str, change: Change) -> None:
    assert compare(last, this, "events at db") is change


def test_made_up_and_real_events_are_never_mixed() -> None:
    with pytest.raises(UsageError, match="holds made-up events of the sandbox"):
        compare("sandbox --events=5", REAL, "events at db")
    with pytest.raises(UsageError, match=f"holds real events from {REAL}"):
        compare(REAL, "sandbox", "events at db")
    # An address is no sandbox, whatever it is called.
    assert compare("https://sandbox.test", "https://sandbox.test/2", "events at db") is Change.WALK


def state(cursor: str | None) -> dict[str, Any]:
    return {"bookmarks": {"events": {"cursor": cursor}, "pages": {}}}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, None),
        (None, None),
        ({}, state("a")),
        (state("a"), state("a")),
        ({"bookmarks": {}}, None),
    ],
)
def test_a_state_that_claims_no_more_than_the_database_is_left_alone(
    ours: Any, theirs: Any
) -> None:
    assert correct(ours, theirs) is None


def test_a_state_about_another_database_is_removed() -> None:
    correction = correct(state("a"), None)
    assert correction is not None
    assert correction.state is None


def test_the_database_is_right_where_the_two_differ() -> None:
    """It was restored from a backup, or Meltano was killed before it had saved."""
    correction = correct(state("b"), state("a"))
    assert correction is not None
    assert correction.state == state("a")
