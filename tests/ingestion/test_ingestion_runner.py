"""The load over its attempts: classification, restarts, progress, and what is stored of it."""

from __future__ import annotations

import errno
import io
import signal
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from datasync_ingestion import database
from datasync_ingestion.errors import IngestionError, Interrupted, SignalWatcher
from datasync_ingestion.meltano import AttemptSummary, pipeline_processes
from datasync_ingestion.runner import LoadRunner, ProgressMarker, RestartPolicy, classify
from datasync_monitor.database import DatabaseUnavailable, ReconnectingConnection
from datasync_monitor.snapshot import Checkpoint, read_checkpoint

from tests.ingestion.ingestion_helpers import (
    FINISH,
    begin_run,
    closed_port,
    failure,
    load,
    own_database,
)
from tests.monitoring.monitoring_helpers import settings_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasync_sandbox.testing import Cluster

    from tests.ingestion.ingestion_helpers import Checkout

NOON = datetime(2026, 1, 27, 12, tzinfo=timezone.utc)
TAP, TARGET = "tap-datasync", "target-postgres"
FINISHED = Checkpoint(NOON, high_watermark=NOON, total_events=5)
IN_PROGRESS = Checkpoint(NOON, scan_in_progress=True, total_events=5)
ERRORS = {"meltano": "Extractor failed", TAP: "The key.", TARGET: "No disk."}
UNFINISHED = "Meltano ended with exit code 0, but the scan has not finished."


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("checkpoint", "exit_code"),
    [
        (FINISHED, 0),
        # A feed without events has no watermark.
        (Checkpoint(NOON, total_events=0), 0),
        (Checkpoint(NOON, total_events=None), 0),
        (Checkpoint(NOON, total_events=5), 1),
        (IN_PROGRESS, 1),
        (None, 1),
    ],
)
def test_exit_code_0_counts_only_if_scan_has_finished(
    checkpoint: Checkpoint | None, exit_code: int
) -> None:
    outcome = classify(0, AttemptSummary(), checkpoint)
    assert (outcome.exit_code, outcome.message) == (exit_code, UNFINISHED if exit_code else "")


@pytest.mark.parametrize(
    ("code", "exit_codes", "silent", "exit_code", "message"),
    [
        (1, {TAP: 1}, (), 1, "The key."),
        (1, {TAP: 2}, (), 2, "The key."),
        (1, {TAP: 3}, (), 3, "The key."),
        (1, {TAP: 143}, (), 1, "The key."),
        (1, {TARGET: 1}, (), 1, "No disk."),
        (1, {TARGET: 2}, (), 2, "No disk."),
        (1, {TARGET: 3}, (), 3, "No disk."),
        (1, {TARGET: 75}, (), 75, "No disk."),
        # A permanent error takes precedence over the errors that it caused.
        (1, {TAP: 3, TARGET: 1}, (), 3, "The key."),
        (1, {TAP: 1, TARGET: 2}, (), 2, "No disk."),
        (1, {TAP: 3, TARGET: 1}, (TAP,), 3, "tap-datasync ended with exit code 3."),
        # When the target fails the tap fails too, as a consequence.
        (1, {TAP: 1, TARGET: 1}, (), 1, "No disk."),
        (1, {}, (TAP, TARGET), 1, "Extractor failed"),
        (-9, {}, (), 1, "Meltano was ended by SIGKILL."),
        (7, {}, (TAP, TARGET, "meltano"), 1, "Meltano ended with exit code 7."),
    ],
)
def test_classifies_failed_attempt(
    code: int, exit_codes: dict[str, int], silent: tuple[str, ...], exit_code: int, message: str
) -> None:
    """Also if the checkpoint shows a finished scan: Meltano may not have saved the state."""
    errors = {name: text for name, text in ERRORS.items() if name not in silent}
    for checkpoint in (IN_PROGRESS, FINISHED):
        outcome = classify(code, AttemptSummary(exit_codes, errors), checkpoint)
        assert (outcome.exit_code, outcome.message) == (exit_code, message)


def test_unreadable_setting_fails_with_names_to_check() -> None:
    summary = AttemptSummary(invalid_setting="invalid literal: 'abc'")
    outcome = classify(1, summary, None, ("TAP_DATASYNC_LOOKBACK",))
    assert outcome.exit_code == 2
    assert "see TAP_DATASYNC_LOOKBACK: invalid literal: 'abc'" in outcome.message


def test_restarts_at_once_after_progress() -> None:
    policy = RestartPolicy(Clock())
    assert [policy.next_delay(progressed=True) for _ in range(100)] == [0.0] * 100


def test_delays_grow_without_progress_and_reset_after_it() -> None:
    policy = RestartPolicy(Clock())
    delays = [policy.next_delay(progressed=False) for _ in range(9)]
    assert delays == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert policy.next_delay(progressed=True) == 0
    assert [policy.next_delay(progressed=False) for _ in range(3)] == [0, 1, 2]


def test_timeout_counts_from_last_progress_and_allows_five_attempts() -> None:
    clock = Clock()
    policy = RestartPolicy(clock)
    clock.now = 5000
    assert policy.next_delay(progressed=True) == 0
    clock.now = 5899
    assert [policy.next_delay(progressed=False) is None for _ in range(6)] == [False] * 6
    clock.now = 5900
    assert policy.next_delay(progressed=False) is None
    assert policy.next_delay(progressed=True) == 0
    clock.now = 9000
    delays = [policy.next_delay(progressed=False) for _ in range(5)]
    assert delays == [0, 1, 2, 4, None]


def test_full_disk_causes_few_attempts() -> None:
    """Attempts that fail after five seconds: ten in five minutes, and then none."""
    clock = Clock()
    policy = RestartPolicy(clock)
    starts = []
    while (delay := policy.next_delay(progressed=False)) is not None:
        clock.now += delay + 5
        starts.append(clock.now)
    assert 900 <= clock.now < 1200
    assert sum(start <= 60 for start in starts) <= 6
    assert len(starts) < 25


@pytest.mark.parametrize(
    ("checkpoints", "expected"),
    [
        # Only the time moved.
        ([IN_PROGRESS, Checkpoint(NOON.replace(hour=13), scan_in_progress=True)], [False, False]),
        ([None, None], [False, False]),
        ([Checkpoint(NOON, scan_in_progress=True, events_seen=10)] * 2, [True, False]),
        # A scan that starts again progresses where it passes the end of the one before.
        (
            [Checkpoint(NOON, scan_in_progress=True, events_seen=seen) for seen in (10, 5, 10, 11)],
            [True, False, False, True],
        ),
        # The count of a finished scan is not that of the next one.
        (
            [
                Checkpoint(NOON, high_watermark=NOON, events_seen=90),
                Checkpoint(NOON, scan_in_progress=True, high_watermark=NOON, events_seen=5),
            ],
            [True, True],
        ),
        ([None, FINISHED, None, FINISHED], [False, True, False, False]),
    ],
)
def test_detects_progress(checkpoints: list[Checkpoint | None], expected: list[bool]) -> None:
    marker = ProgressMarker(None)
    assert [marker.update(checkpoint) for checkpoint in checkpoints] == expected


@dataclass
class Display:
    """A display without a terminal."""

    refresh: Callable[[], None] = lambda: None
    database_unreachable: bool = False
    note: str | None = None
    messages: list[str] = field(default_factory=list)

    def message(self, text: str) -> None:
        self.messages.append(text)


@dataclass
class Policy:
    """Allows a number of restarts, and records its arguments."""

    restarts: int = 0
    progressed: list[bool] = field(default_factory=list)

    def next_delay(self, *, progressed: bool) -> float | None:
        self.progressed.append(progressed)
        return 0.0 if len(self.progressed) <= self.restarts else None


@pytest.fixture
def runner(checkout: Checkout, empty: Cluster, connection: ReconnectingConnection) -> LoadRunner:
    """A runner that makes a single attempt; tests replace its attributes."""
    return LoadRunner(
        root=checkout.root,
        env={**checkout.env, **own_database(empty)},
        database=connection,
        row=begin_run(connection, "sandbox"),
        display=Display(),
        log=io.StringIO(),
        signals=SignalWatcher(),
        ensure_sandbox=lambda: True,
        policy=None,
    )


def stored(runner: LoadRunner) -> list[tuple[str, str | None]]:
    query = "SELECT outcome, message FROM pipeline_runs"
    return runner.database.run(lambda connection: connection.execute(query).fetchall())


def test_sandbox_that_does_not_restart_is_retried_with_its_reason(
    checkout: Checkout, runner: LoadRunner
) -> None:
    def ensure_sandbox() -> bool:
        message = "Port 8765 is taken."
        raise IngestionError(message)

    checkout.plan(failure(1, "The API does not respond."), FINISH)
    runner.policy = Policy(restarts=1)
    runner.ensure_sandbox = ensure_sandbox
    assert runner.run().exit_code == 0
    assert runner.display.messages == ["Port 8765 is taken. Restarting now (restart 1)."]


def test_sandbox_at_another_address_ends_load(checkout: Checkout, runner: LoadRunner) -> None:
    """The pipeline was started with the old address."""
    message = "The sandbox was restarted at another address: run this again."
    checkout.plan(failure(1, "The API does not respond."))
    runner.policy = Policy()
    runner.ensure_sandbox = lambda: False
    with pytest.raises(IngestionError, match=message):
        runner.run()
    assert stored(runner) == [("failed", message)]
    assert runner.log.getvalue().endswith(f"error    run-ingestion   {message}\n")


def test_checks_sandbox_while_database_is_unreachable(
    checkout: Checkout, runner: LoadRunner
) -> None:
    """Also during an attempt, which ends when the sandbox is at another address."""
    checkout.plan({"tap": {"seconds": 60}})
    display = runner.display
    display.refresh = lambda: setattr(display, "database_unreachable", bool(checkout.calls("run")))
    runner.ensure_sandbox = lambda: False
    with pytest.raises(IngestionError, match="another address"):
        runner.run()
    assert pipeline_processes(checkout.root) == []


def test_load_without_progress_fails_and_stores_why(checkout: Checkout, runner: LoadRunner) -> None:
    checkout.plan(failure(1, "The API does not respond."))
    runner.policy = Policy()
    message = "The API does not respond. No progress over 0 restarts."
    assert runner.run().message == message
    assert runner.log.getvalue().endswith(f"error    run-ingestion   {message}\n")
    assert stored(runner) == [("failed", message)]


def test_waits_for_lock_of_previous_attempt(checkout: Checkout, runner: LoadRunner) -> None:
    busy = failure(75, "Another load is running.", TARGET)
    checkout.plan({"sql": load(5, cursor="c"), **failure(1, "No.")}, busy, FINISH)
    runner.policy = Policy(restarts=2)
    assert runner.run().exit_code == 0


def test_sends_no_request_without_database(checkout: Checkout, runner: LoadRunner) -> None:
    """Each attempt waits for the database, and no pipeline starts without it."""
    delays: list[float] = []
    runner.database = ReconnectingConnection(closed_port(), sleep=delays.append)
    runner.policy = Policy(restarts=1)
    checkout.plan({})
    outcome = runner.run()
    assert outcome.exit_code == 1
    assert "Connection refused" in outcome.message
    assert len(delays) == 2 * (database.CONNECT_ATTEMPTS - 1)
    assert checkout.calls("run") == []


def test_rejected_login_ends_run(empty: Cluster, runner: LoadRunner) -> None:
    """For example because the password was changed between two attempts."""
    settings = replace(settings_of(empty), password="wrong")  # noqa: S106 - of the test
    runner.policy = Policy(restarts=1)
    with ReconnectingConnection(settings, sleep=lambda _seconds: None) as connection:
        runner.database = connection
        assert runner.run().exit_code == 2
    assert runner.policy.progressed == []


def test_unreadable_checkpoint_is_no_progress(checkout: Checkout, runner: LoadRunner) -> None:
    known = Checkpoint(NOON, scan_in_progress=True, events_seen=5)
    # At the start, before and after the first attempt, before and after the second.
    answers: list[Checkpoint | None] = [known, known, None, known, known]

    class Flickering:
        def run(self, work: Any, **_: Any) -> Checkpoint | None:
            if work is not read_checkpoint:
                return None
            if (answer := answers.pop(0)) is None:
                message = "The connection was lost."
                raise DatabaseUnavailable(message)
            return answer

    runner.database = Flickering()
    runner.policy = Policy(restarts=1)
    checkout.plan(failure(1, "No."), failure(1, "No."))
    runner.run()
    assert runner.policy.progressed == [False, False]


@pytest.mark.parametrize(
    ("received", "error", "row"),
    [
        (None, OSError, ("failed", "[Errno 5] Input/output error")),
        # Writing to a closed terminal fails before its SIGHUP is checked for.
        (signal.SIGHUP, Interrupted, ("stopped", None)),
    ],
)
def test_closed_output_stops_pipeline_and_completes_log(
    checkout: Checkout, runner: LoadRunner, received: int | None, error: type[Exception], row: Any
) -> None:
    def write(_text: str = "") -> None:
        if "Page 1" in runner.log.getvalue():
            runner.signals.received = received
            raise OSError(errno.EIO, "Input/output error")

    checkout.plan({"tap": {"seconds": 60}})
    runner.display.message = runner.display.refresh = write
    # A line of the log fails to be written, or else the progress.
    runner.verbose = received is None
    with pytest.raises(error):
        runner.run()
    assert pipeline_processes(checkout.root) == []
    assert "Block run completed" in runner.log.getvalue()
    assert stored(runner) == [row]
