"""The load over its attempts: classification, restarts, progress, and what is stored of it."""

from __future__ import annotations

import errno
import io
import os
import signal
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from datasync_ingestion import database
from datasync_ingestion.errors import IngestionError
from datasync_ingestion.meltano import AttemptSummary, pipeline_processes
from datasync_ingestion.runner import (
    Action,
    LoadRunner,
    ProgressMarker,
    RestartPolicy,
    RunContext,
    classify,
)
from datasync_ingestion.signals import Interrupted, SignalWatcher
from datasync_monitor.database import DatabaseUnavailable, ReconnectingConnection
from datasync_monitor.snapshot import Checkpoint, read_checkpoint
from ingestion_helpers import FINISH, closed_port, failure, load, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasync_ingestion.database import PipelineRun
    from datasync_sandbox.testing import Cluster
    from ingestion_helpers import Checkout

NOON = datetime(2026, 1, 27, 12, tzinfo=timezone.utc)
TAP, TARGET = "tap-datasync", "target-postgres"
FINISHED = Checkpoint(NOON, high_watermark=NOON, total_events=5)
IN_PROGRESS = Checkpoint(NOON, scan_in_progress=True, total_events=5)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("code", "exit_codes", "checkpoint", "action", "exit_code"),
    [
        (0, {}, FINISHED, Action.FINISH, 0),
        # A feed without events has no watermark.
        (0, {}, Checkpoint(NOON, total_events=0), Action.FINISH, 0),
        (0, {}, Checkpoint(NOON, total_events=None), Action.FINISH, 0),
        (0, {}, Checkpoint(NOON, total_events=5), Action.RETRY, 1),
        # Meltano's exit code alone is not sufficient.
        (0, {}, IN_PROGRESS, Action.RETRY, 1),
        (0, {}, None, Action.RETRY, 1),
        # Nor is the checkpoint: Meltano may not have saved the state.
        (1, {}, FINISHED, Action.RETRY, 1),
        (-9, {}, FINISHED, Action.RETRY, 1),
        (1, {TAP: 1}, IN_PROGRESS, Action.RETRY, 1),
        (1, {TAP: 2}, IN_PROGRESS, Action.FAIL, 2),
        (1, {TAP: 3}, IN_PROGRESS, Action.FAIL, 3),
        (1, {TARGET: 1}, IN_PROGRESS, Action.RETRY, 1),
        (1, {TARGET: 2}, IN_PROGRESS, Action.FAIL, 2),
        (1, {TARGET: 3}, IN_PROGRESS, Action.FAIL, 3),
        (1, {TARGET: 75}, IN_PROGRESS, Action.FAIL, 75),
        # A permanent error takes precedence over the errors that it caused.
        (1, {TAP: 3, TARGET: 1}, IN_PROGRESS, Action.FAIL, 3),
        (1, {TAP: 1, TARGET: 2}, IN_PROGRESS, Action.FAIL, 2),
        (1, {TAP: 143}, IN_PROGRESS, Action.RETRY, 1),
    ],
)
def test_classifies_attempt(
    code: int,
    exit_codes: dict[str, int],
    checkpoint: Checkpoint | None,
    action: Action,
    exit_code: int,
) -> None:
    outcome = classify(code, AttemptSummary(exit_codes), checkpoint)
    assert (outcome.action, outcome.exit_code) == (action, exit_code)
    assert bool(outcome.message) == (action is not Action.FINISH)


@pytest.mark.parametrize(
    ("code", "exit_codes", "silent", "message"),
    [
        (1, {TAP: 3}, (), "The key."),
        (1, {TARGET: 1}, (), "No disk."),
        # Code and message are of the same plugin.
        (1, {TAP: 3, TARGET: 1}, (), "The key."),
        (1, {TAP: 1, TARGET: 2}, (), "No disk."),
        (1, {TAP: 3, TARGET: 1}, (TAP,), "tap-datasync ended with exit code 3."),
        # When the target fails the tap fails too, as a consequence.
        (1, {TAP: 1, TARGET: 1}, (), "No disk."),
        (1, {}, (TAP, TARGET), "Extractor failed"),
        (-9, {}, (), "Meltano was ended by SIGKILL."),
        (7, {}, (TAP, TARGET, "meltano"), "Meltano ended with exit code 7."),
    ],
)
def test_message_names_the_cause(
    code: int, exit_codes: dict[str, int], silent: tuple[str, ...], message: str
) -> None:
    errors = {"meltano": "Extractor failed", TAP: "The key.", TARGET: "No disk."}
    for name in silent:
        del errors[name]
    assert classify(code, AttemptSummary(exit_codes, errors), IN_PROGRESS).message == message


def test_unreadable_setting_fails_with_names_to_check() -> None:
    summary = AttemptSummary(invalid_setting="invalid literal: 'abc'")
    outcome = classify(1, summary, None, ("TAP_DATASYNC_LOOKBACK",))
    assert (outcome.action, outcome.exit_code) == (Action.FAIL, 2)
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


def test_fails_after_timeout_and_minimum_attempts() -> None:
    clock = Clock()
    policy = RestartPolicy(clock, stall_timeout=900, min_attempts=3)
    clock.now = 5000
    assert policy.next_delay(progressed=False) is not None
    assert policy.next_delay(progressed=False) is not None
    assert policy.next_delay(progressed=False) is None


def test_timeout_counts_from_last_progress() -> None:
    clock = Clock()
    policy = RestartPolicy(clock, stall_timeout=900, min_attempts=1)
    clock.now = 5000
    assert policy.next_delay(progressed=True) == 0
    clock.now = 5899
    assert policy.next_delay(progressed=False) is not None
    clock.now = 5900
    assert policy.next_delay(progressed=False) is None


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


def make_runner(
    checkout: Checkout, connection: Any, run: PipelineRun, policy: Any = None, **context: Any
) -> tuple[LoadRunner, RunContext]:
    env = {**os.environ, "MELTANO_PROJECT_ROOT": str(checkout.root), "API_KEY": "k"}
    if isinstance(connection, ReconnectingConnection):
        at = connection.settings
        env |= {"DB_HOST": at.host, "DB_PORT": str(at.port), "DB_USER": at.user}
        env |= {"DB_PASSWORD": at.password, "DB_NAME": at.name}
    defaults = {
        "display": Display(),
        "log": io.StringIO(),
        "signals": SignalWatcher(),
        "ensure_sandbox": lambda: True,
    }
    made = RunContext(root=checkout.root, env=env, database=connection, **{**defaults, **context})
    return LoadRunner(made, run, policy), made


def stored(cluster: Cluster) -> list[str]:
    query = "SELECT outcome, message FROM pipeline_runs ORDER BY id"
    return cluster.sql(query).splitlines()


@pytest.fixture
def run(connection: ReconnectingConnection) -> PipelineRun:
    settings = connection.settings
    return connection.run(lambda conn: database.begin_run(conn, settings, "sandbox"))


def test_sandbox_that_does_not_restart_is_retried_with_its_reason(
    checkout: Checkout, connection: ReconnectingConnection, run: PipelineRun
) -> None:
    def ensure_sandbox() -> bool:
        message = "Port 8765 is taken."
        raise IngestionError(message)

    checkout.plan(failure(1, "The API does not respond."), FINISH)
    display = Display()
    runner, _ = make_runner(
        checkout,
        connection,
        run,
        Policy(restarts=1),
        display=display,
        ensure_sandbox=ensure_sandbox,
    )
    assert runner.run().action is Action.FINISH
    assert display.messages == ["Port 8765 is taken. Restarting now (restart 1)."]


def test_sandbox_at_another_address_ends_load(
    checkout: Checkout, empty: Cluster, connection: ReconnectingConnection, run: PipelineRun
) -> None:
    """The pipeline was started with the old address."""
    message = "The sandbox was restarted at another address: run this again."
    checkout.plan(failure(1, "The API does not respond."))
    runner, context = make_runner(checkout, connection, run, Policy(), ensure_sandbox=lambda: False)
    with pytest.raises(IngestionError, match=message):
        runner.run()
    assert stored(empty) == [f"failed|{message}"]
    assert isinstance(context.log, io.StringIO)
    assert context.log.getvalue().endswith(f"error    run-ingestion   {message}\n")


def test_checks_sandbox_while_database_is_unreachable(
    checkout: Checkout, connection: ReconnectingConnection, run: PipelineRun
) -> None:
    """Also during an attempt, which ends when the sandbox is at another address."""
    checkout.plan({"tap": {"seconds": 60}})
    display = Display()
    display.refresh = lambda: setattr(display, "database_unreachable", bool(checkout.calls("run")))
    runner, _ = make_runner(
        checkout, connection, run, display=display, ensure_sandbox=lambda: False
    )
    with pytest.raises(IngestionError, match="another address"):
        runner.run()
    assert pipeline_processes(checkout.root) == []


def test_logs_and_stores_reason_of_failed_run(
    checkout: Checkout, empty: Cluster, connection: ReconnectingConnection, run: PipelineRun
) -> None:
    checkout.plan(failure(1, "The API does not respond."))
    runner, context = make_runner(checkout, connection, run, Policy())
    message = "The API does not respond. No progress over 0 restarts."
    assert runner.run().message == message
    assert isinstance(context.log, io.StringIO)
    assert context.log.getvalue().endswith(f"error    run-ingestion   {message}\n")
    assert stored(empty) == [f"failed|{message}"]


def test_waits_for_lock_of_previous_attempt(
    checkout: Checkout, connection: ReconnectingConnection, run: PipelineRun
) -> None:
    busy = failure(75, "Another load is running.", TARGET)
    checkout.plan({"sql": load(5, cursor="c"), **failure(1, "No.")}, busy, FINISH)
    runner, _ = make_runner(checkout, connection, run, Policy(restarts=2))
    assert runner.run().action is Action.FINISH


def test_lock_of_another_load_ends_first_attempt(
    checkout: Checkout, connection: ReconnectingConnection, run: PipelineRun
) -> None:
    checkout.plan(failure(75, "Another load is running.", TARGET))
    runner, _ = make_runner(checkout, connection, run, Policy(restarts=2))
    outcome = runner.run()
    assert (outcome.action, outcome.exit_code) == (Action.FAIL, 75)


def test_sends_no_request_without_database(checkout: Checkout) -> None:
    """Each attempt waits for the database, and no pipeline starts without it."""
    delays: list[float] = []
    connection = ReconnectingConnection(closed_port(), sleep=delays.append)
    checkout.plan({})
    run = database.PipelineRun(1, 0)
    runner, _ = make_runner(checkout, connection, run, Policy(restarts=1))
    outcome = runner.run()
    assert (outcome.action, outcome.exit_code) == (Action.FAIL, 1)
    assert "Connection refused" in outcome.message
    assert len(delays) == 2 * (database.CONNECT_ATTEMPTS - 1)
    assert checkout.calls("run") == []


def test_rejected_login_ends_run(checkout: Checkout, empty: Cluster) -> None:
    """For example because the password was changed between two attempts."""
    settings = replace(settings_of(empty), password="wrong")  # noqa: S106 - of the test
    with ReconnectingConnection(settings, sleep=lambda _seconds: None) as connection:
        runner, _ = make_runner(checkout, connection, database.PipelineRun(1, 0), Policy(1))
        outcome = runner.run()
    assert (outcome.action, outcome.exit_code) == (Action.FAIL, 2)


def test_unreadable_checkpoint_is_no_progress(checkout: Checkout) -> None:
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

    policy = Policy(restarts=1)
    checkout.plan(failure(1, "No."), failure(1, "No."))
    runner, _ = make_runner(checkout, Flickering(), database.PipelineRun(1, 0), policy)
    runner.run()
    assert policy.progressed == [False, False]


def test_shows_series_of_warnings_once(
    checkout: Checkout, connection: ReconnectingConnection, run: PipelineRun
) -> None:
    texts = ["try 1 of 3", "try 2 of 3", "The cursor has expired.", "try 3 of 3"]
    log = [{"event": text, "name": TARGET, "level": "warning"} for text in texts]
    checkout.plan({**FINISH, "log": log})
    display = Display()
    runner, context = make_runner(checkout, connection, run, display=display)
    runner.run()
    assert display.messages == [f"{TARGET}: {texts[i]}" for i in (0, 2, 3)]
    assert isinstance(context.log, io.StringIO)
    assert all(text in context.log.getvalue() for text in texts)


class ClosingDisplay(Display):
    """A terminal that closes while the tap runs."""

    def __init__(self, log: io.StringIO, before: Callable[[], None] = lambda: None) -> None:
        super().__init__(refresh=self._fail_in_time)
        self._log, self._before = log, before

    def _fail_in_time(self) -> None:
        if "Page 1" in self._log.getvalue():
            self._before()
            raise OSError(errno.EIO, "Input/output error")

    def message(self, _text: str) -> None:
        self._fail_in_time()


def test_closed_output_stops_pipeline_and_completes_log(
    checkout: Checkout, empty: Cluster, connection: ReconnectingConnection, run: PipelineRun
) -> None:
    checkout.plan({"tap": {"seconds": 60}})
    log = io.StringIO()
    runner, _ = make_runner(
        checkout, connection, run, display=ClosingDisplay(log), log=log, verbose=True
    )
    with pytest.raises(OSError, match="Input/output error"):
        runner.run()
    assert pipeline_processes(checkout.root) == []
    assert "Block run completed" in log.getvalue()
    assert stored(empty) == ["failed|[Errno 5] Input/output error"]


def test_closed_terminal_is_reported_as_sighup(
    checkout: Checkout, empty: Cluster, connection: ReconnectingConnection, run: PipelineRun
) -> None:
    """Writing to it fails before the SIGHUP is checked for."""
    signals = SignalWatcher()
    checkout.plan({"tap": {"seconds": 60}})
    log = io.StringIO()
    display = ClosingDisplay(log, lambda: setattr(signals, "received", signal.SIGHUP))
    runner, _ = make_runner(checkout, connection, run, display=display, log=log, signals=signals)
    with pytest.raises(Interrupted) as caught:
        runner.run()
    assert caught.value.exit_code == 129
    assert stored(empty) == ["stopped|"]
