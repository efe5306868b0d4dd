"""The load: attempts of the pipeline until one finishes or a retry cannot help."""

from __future__ import annotations

import re
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import IO, TYPE_CHECKING, Any

from datasync_monitor.database import DatabaseRejected, DatabaseUnavailable
from datasync_monitor.snapshot import read_checkpoint

from datasync_ingestion import database
from datasync_ingestion.errors import (
    EXIT_BUSY,
    EXIT_CONFIG,
    EXIT_OK,
    EXIT_PERMANENT,
    EXIT_RETRY,
    IngestionError,
)
from datasync_ingestion.meltano import (
    MELTANO,
    TAP,
    TARGET,
    AttemptSummary,
    LogLine,
    Pipeline,
    parse_line,
)
from datasync_ingestion.signals import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import psycopg
    from datasync_monitor.database import ReconnectingConnection
    from datasync_monitor.snapshot import Checkpoint

    from datasync_ingestion.database import PipelineRun
    from datasync_ingestion.output import ProgressDisplay
    from datasync_ingestion.signals import SignalWatcher

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0
STALL_TIMEOUT_SECONDS = 15 * 60.0
MIN_ATTEMPTS = 5

_POLL_SECONDS = 0.25
_DIGITS = re.compile(r"\d+")
_SANDBOX_CHECK_SECONDS = 5.0
# Exit codes of tap and target after which a retry fails the same way.
_NO_RETRY = frozenset({EXIT_CONFIG, EXIT_PERMANENT, EXIT_BUSY})


class Action(Enum):
    """What to do after an attempt."""

    FINISH = "finish"
    RETRY = "retry"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to do after an attempt, why, and the exit code if the run ends with it."""

    action: Action
    message: str = ""
    exit_code: int = EXIT_OK


def classify(
    code: int,
    summary: AttemptSummary,
    checkpoint: Checkpoint | None,
    plugin_settings: Sequence[str] = (),
) -> Outcome:
    """Classify the end of an attempt.

    A permanent exit code of tap or target takes precedence over the errors that it caused.
    Meltano's exit code 0 counts only if the checkpoint shows a finished scan.

    Args:
        code: Meltano's exit code; negative for a signal.
        summary: What the log reports.
        checkpoint: As it is now; None where there is none.
        plugin_settings: Names of the settings that Meltano reads by itself.
    """
    for plugin in (TAP, TARGET):
        plugin_code = summary.exit_codes.get(plugin)
        if plugin_code in _NO_RETRY:
            message = summary.errors.get(plugin) or f"{plugin} ended with exit code {plugin_code}."
            return Outcome(Action.FAIL, message, plugin_code)
    if summary.invalid_setting is not None:
        names = ", ".join(plugin_settings) or "meltano.yml"
        message = f"A setting has an invalid value, see {names}: {summary.invalid_setting}"
        return Outcome(Action.FAIL, message, EXIT_CONFIG)
    if code == 0:
        if checkpoint is not None and checkpoint.scan_finished:
            return Outcome(Action.FINISH)
        message = "Meltano ended with exit code 0, but the scan has not finished."
        return Outcome(Action.RETRY, message, EXIT_RETRY)
    cause = summary.message
    if code < 0:
        cause = f"Meltano was ended by {signal.Signals(-code).name}."
    return Outcome(Action.RETRY, cause or f"Meltano ended with exit code {code}.", EXIT_RETRY)


class RestartPolicy:
    """Computes the delay before the next attempt.

    After progress the pipeline restarts at once, because its cursor expires after two minutes.
    Without progress the delays grow, 0, 1, 2, 4, ... 60 seconds, and the run fails after a
    quarter of an hour. A minimum number of attempts is made in any case, because a single attempt
    may take longer.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        stall_timeout: float = STALL_TIMEOUT_SECONDS,
        min_attempts: int = MIN_ATTEMPTS,
    ) -> None:
        """Start counting.

        Args:
            clock: Seconds of a monotonic clock.
            stall_timeout: Seconds without progress after which the run fails.
            min_attempts: Attempts without progress that are made in any case.
        """
        self._clock = clock
        self._stall_timeout = stall_timeout
        self._min_attempts = min_attempts
        self._progressed_at = clock()
        self._stalled_attempts = 0

    def next_delay(self, *, progressed: bool) -> float | None:
        """Return the seconds to wait before the next attempt; None to fail.

        Args:
            progressed: Whether the failed attempt loaded anything.
        """
        now = self._clock()
        if progressed:
            self._progressed_at, self._stalled_attempts = now, 0
            return 0.0
        self._stalled_attempts += 1
        stalled = now - self._progressed_at >= self._stall_timeout
        if stalled and self._stalled_attempts >= self._min_attempts:
            return None
        if self._stalled_attempts == 1:
            return 0.0
        return min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** (self._stalled_attempts - 2))


class ProgressMarker:
    """Detects progress: the scan has seen more events than any before it, or has finished.

    The time of the checkpoint is not used: an attempt that fails at once may write it as well. A
    new scan counts as progress when it passes the position of the interrupted one.
    """

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self._most_seen = 0
        self._high_watermark: datetime | None = None
        self.update(checkpoint)

    def update(self, checkpoint: Checkpoint | None) -> bool:
        """Compare with the checkpoint of an earlier attempt; returns whether it progressed."""
        if checkpoint is None:
            return False
        seen = (checkpoint.events_seen or 0) if checkpoint.scan_in_progress else 0
        progressed = seen > self._most_seen or checkpoint.high_watermark != self._high_watermark
        self._most_seen = max(seen, self._most_seen)
        self._high_watermark = checkpoint.high_watermark
        return progressed


@dataclass(frozen=True, slots=True)
class RunContext:
    """Dependencies of a load.

    Attributes:
        root: The checkout.
        env: Meltano's whole environment.
        database: The connection.
        display: Shows progress and messages.
        log: The full log, line-buffered.
        signals: Reports signals.
        ensure_sandbox: Restarts the sandbox if it has ended; returns whether its addresses are
            unchanged.
        plugin_settings: Names of the settings that Meltano reads by itself.
        verbose: Whether the full log is also printed.
    """

    root: Path
    env: Mapping[str, str]
    database: ReconnectingConnection
    display: ProgressDisplay
    log: IO[str]
    signals: SignalWatcher
    ensure_sandbox: Callable[[], bool]
    plugin_settings: Sequence[str] = ()
    verbose: bool = False


class LoadRunner:
    """Runs the pipeline until the scan has finished, or until no further attempt can help."""

    def __init__(self, context: RunContext, run: PipelineRun, policy: RestartPolicy | None) -> None:
        """Store the arguments.

        Args:
            context: Dependencies.
            run: The row of `pipeline_runs`.
            policy: Delays between attempts; None for a single attempt.
        """
        self._context = context
        self._run = run
        self._policy = policy
        self._sandbox_checked_at = 0.0
        self._last_warning = ""
        self.restarts = 0

    def run(self) -> Outcome:
        """Load.

        Raises:
            Interrupted: A signal arrived; the pipeline is stopped and the row updated.
            IngestionError: The run cannot continue; the row is updated.
        """
        try:
            outcome = self._run_attempts()
        except Interrupted:
            self._end("stopped", None)
            raise
        except (IngestionError, OSError) as error:
            self._fail(str(error))
            raise
        if outcome.action is not Action.FINISH:
            self._fail(outcome.message)
        return outcome

    def _run_attempts(self) -> Outcome:
        marker = ProgressMarker(self._read_checkpoint(attempts=1))
        while True:
            outcome = self._attempt()
            # The server may not have released the lock of the previous attempt's target yet.
            own_lock = outcome.exit_code == EXIT_BUSY and self.restarts > 0
            if self._policy is None or not (outcome.action is Action.RETRY or own_lock):
                return outcome
            # Why the sandbox does not start says more than that its database is not reached.
            failure = self._ensure_sandbox() or outcome.message
            progressed = marker.update(self._read_checkpoint(attempts=1))
            delay = self._policy.next_delay(progressed=progressed)
            if delay is None:
                message = f"{failure} No progress over {self.restarts} restarts."
                return Outcome(Action.FAIL, message, outcome.exit_code)
            self.restarts += 1
            when = f"in {delay:.0f} s" if delay else "now"
            self._report(f"{failure} Restarting {when} (restart {self.restarts}).")
            self._write(lambda conn: database.record_restart(conn, self._run, self.restarts))
            self._wait(delay)

    def _attempt(self) -> Outcome:
        context = self._context
        context.signals.check()
        try:
            # Without a database the tap would use up the rate limit in vain.
            context.database.run(read_checkpoint, attempts=database.CONNECT_ATTEMPTS)
        except DatabaseRejected as error:
            return Outcome(Action.FAIL, str(error), EXIT_CONFIG)
        except DatabaseUnavailable as error:
            return Outcome(Action.RETRY, str(error), EXIT_RETRY)
        pipeline = Pipeline(context.root, context.env)
        summary = AttemptSummary()
        try:
            while (text := pipeline.next_line(_POLL_SECONDS)) is not None:
                if text:
                    self._process_line(parse_line(text), summary)
                context.signals.check()
                context.display.refresh()
                self._check_sandbox_database()
        except BaseException:
            pipeline.stop()
            # The rest is logged only, because the stop was requested.
            while text := pipeline.next_line(_POLL_SECONDS):
                with suppress(OSError):
                    self._process_line(parse_line(text), summary, shown=False)
            # Writing to a closed terminal fails before its SIGHUP is checked for.
            context.signals.check()
            raise
        code = pipeline.wait()
        checkpoint = None
        if code == 0:
            checkpoint = self._read_checkpoint(attempts=database.CONNECT_ATTEMPTS)
        return classify(code, summary, checkpoint, context.plugin_settings)

    def _process_line(self, line: LogLine, summary: AttemptSummary, *, shown: bool = True) -> None:
        if line.is_noise:
            return
        summary.add(line)
        print(line, file=self._context.log)
        if not shown:
            return
        if self._context.verbose:
            self._context.display.message(str(line))
        elif line.source != MELTANO and line.level == "warning":
            # An error ends the attempt and is reported then, with its consequence. A warning that
            # differs from the last one by its numbers only is one of a series.
            content = _DIGITS.sub("", line.text)
            if content != self._last_warning:
                self._context.display.message(f"{line.source}: {line.text}")
            self._last_warning = content

    def _check_sandbox_database(self) -> None:
        # The target retries for longer than the embedded PostgreSQL takes to start.
        now = time.monotonic()
        if (
            self._context.display.database_unreachable
            and now - self._sandbox_checked_at > _SANDBOX_CHECK_SECONDS
        ):
            self._sandbox_checked_at = now
            self._ensure_sandbox()

    def _ensure_sandbox(self) -> str:
        """Restart what has ended of the sandbox; returns why it does not start, else ""."""
        try:
            same_address = self._context.ensure_sandbox()
        except IngestionError as error:
            return str(error)  # retried like any other failure
        if not same_address:
            message = "The sandbox was restarted at another address: run this again."
            raise IngestionError(message)
        return ""

    def _wait(self, seconds: float) -> None:
        display = self._context.display
        deadline = time.monotonic() + seconds
        while (remaining := deadline - time.monotonic()) > 0:
            display.note = f"restarting in {remaining:.0f} s"
            display.refresh()
            self._context.signals.sleep(min(_POLL_SECONDS, remaining))
        display.note = None

    def _read_checkpoint(self, *, attempts: int) -> Checkpoint | None:
        # An unreachable database is retried like any other failure.
        with suppress(DatabaseUnavailable):
            return self._context.database.run(read_checkpoint, attempts=attempts)
        return None

    def _report(self, message: str) -> None:
        self._log(message, "warning")
        self._context.display.message(message)

    def _log(self, message: str, level: str) -> None:
        now = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S.%fZ}"
        print(LogLine(message, "run-ingestion", level, now), file=self._context.log)

    def _fail(self, message: str) -> None:
        # A full disk may be the cause, and the log is on it.
        with suppress(OSError):
            self._log(message, "error")
        self._end("failed", message)

    def _end(self, outcome: str, message: str | None) -> None:
        self._write(lambda connection: database.end_run(connection, self._run, outcome, message))

    def _write(self, work: Callable[[psycopg.Connection[Any]], object]) -> None:
        # Neither a restart nor the end of the run waits for an unreachable database.
        with suppress(DatabaseUnavailable):
            self._context.database.run(work)
