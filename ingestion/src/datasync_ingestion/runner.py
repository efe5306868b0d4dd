"""The load: attempts of the pipeline until one finishes or a retry cannot help."""

from __future__ import annotations

import re
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
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
    Interrupted,
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

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import psycopg
    from datasync_monitor.database import ReconnectingConnection
    from datasync_monitor.snapshot import Checkpoint

    from datasync_ingestion.database import PipelineRun
    from datasync_ingestion.errors import SignalWatcher
    from datasync_ingestion.output import ProgressDisplay

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0
STALL_TIMEOUT_SECONDS = 15 * 60.0
MIN_ATTEMPTS = 5

_POLL_SECONDS = 0.25
_DIGITS = re.compile(r"\d+")
_SANDBOX_CHECK_SECONDS = 5.0
# Exit codes of tap and target after which a retry fails the same way.
_NO_RETRY = frozenset({EXIT_CONFIG, EXIT_PERMANENT, EXIT_BUSY})


@dataclass(frozen=True, slots=True)
class Outcome:
    """The exit code of an attempt or of the load, and the message if it is not 0.

    After an attempt with `EXIT_RETRY` the pipeline is started again.
    """

    exit_code: int
    message: str = ""


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
        plugin_code = summary.exit_codes.get(plugin, EXIT_OK)
        if plugin_code in _NO_RETRY:
            message = summary.errors.get(plugin) or f"{plugin} ended with exit code {plugin_code}."
            return Outcome(plugin_code, message)
    if summary.invalid_setting is not None:
        names = ", ".join(plugin_settings) or "meltano.yml"
        message = f"A setting has an invalid value, see {names}: {summary.invalid_setting}"
        return Outcome(EXIT_CONFIG, message)
    if code == 0:
        if checkpoint is not None and checkpoint.scan_finished:
            return Outcome(EXIT_OK)
        message = "Meltano ended with exit code 0, but the scan has not finished."
        return Outcome(EXIT_RETRY, message)
    if code < 0:
        return Outcome(EXIT_RETRY, f"Meltano was ended by {signal.Signals(-code).name}.")
    return Outcome(EXIT_RETRY, summary.message or f"Meltano ended with exit code {code}.")


class RestartPolicy:
    """Computes the delay before the next attempt.

    After progress the pipeline restarts at once, because its cursor expires after two minutes.
    Without progress the delays grow, 0, 1, 2, 4, ... 60 seconds, and the run fails after a
    quarter of an hour. A minimum number of attempts is made in any case, because a single attempt
    may take longer.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start counting.

        Args:
            clock: Seconds of a monotonic clock.
        """
        self._clock = clock
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
        stalled = now - self._progressed_at >= STALL_TIMEOUT_SECONDS
        if stalled and self._stalled_attempts >= MIN_ATTEMPTS:
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


@dataclass
class LoadRunner:
    """Runs the pipeline until the scan has finished, or until no further attempt can help.

    Attributes:
        root: The checkout.
        env: Meltano's whole environment.
        database: The connection.
        row: The row of `pipeline_runs`.
        display: Shows progress and messages.
        log: The full log, line-buffered.
        signals: Reports signals.
        ensure_sandbox: Restarts the sandbox if it has ended; returns whether its addresses are
            unchanged.
        policy: Delays between attempts; None for a single attempt.
        plugin_settings: Names of the settings that Meltano reads by itself.
        verbose: Whether the full log is also printed.
        restarts: How often the pipeline was started again.
    """

    root: Path
    env: Mapping[str, str]
    database: ReconnectingConnection
    row: PipelineRun
    display: ProgressDisplay
    log: IO[str]
    signals: SignalWatcher
    ensure_sandbox: Callable[[], bool]
    policy: RestartPolicy | None
    plugin_settings: Sequence[str] = ()
    verbose: bool = False
    restarts: int = field(default=0, init=False)
    _sandbox_checked_at: float = field(default=0.0, init=False)
    _last_warning: str = field(default="", init=False)

    def run(self) -> Outcome:
        """Load.

        Raises:
            Interrupted: A signal arrived; the pipeline is stopped and the row updated.
            IngestionError: The run cannot continue; the row is updated.
        """
        try:
            outcome = self._run_attempts()
        except Interrupted:
            self._end("stopped")
            raise
        except (IngestionError, OSError) as error:
            self._end("failed", str(error))
            raise
        if outcome.exit_code != EXIT_OK:
            self._end("failed", outcome.message)
        return outcome

    def _run_attempts(self) -> Outcome:
        marker = ProgressMarker(self._read_checkpoint(attempts=1))
        while True:
            outcome = self._attempt()
            # The server may not have released the lock of the previous attempt's target yet.
            own_lock = outcome.exit_code == EXIT_BUSY and self.restarts > 0
            if self.policy is None or not (outcome.exit_code == EXIT_RETRY or own_lock):
                return outcome
            # Why the sandbox does not start says more than that its database is not reached.
            failure = self._ensure_sandbox() or outcome.message
            progressed = marker.update(self._read_checkpoint(attempts=1))
            delay = self.policy.next_delay(progressed=progressed)
            if delay is None:
                message = f"{failure} No progress over {self.restarts} restarts."
                return Outcome(outcome.exit_code, message)
            self.restarts += 1
            when = f"in {delay:.0f} s" if delay else "now"
            self._report(f"{failure} Restarting {when} (restart {self.restarts}).")
            self._write(lambda conn: database.record_restart(conn, self.row, self.restarts))
            self._wait(delay)

    def _attempt(self) -> Outcome:
        self.signals.check()
        try:
            # Without a database the tap would use up the rate limit in vain.
            self.database.run(read_checkpoint, attempts=database.CONNECT_ATTEMPTS)
        except DatabaseRejected as error:
            return Outcome(EXIT_CONFIG, str(error))
        except DatabaseUnavailable as error:
            return Outcome(EXIT_RETRY, str(error))
        pipeline = Pipeline(self.root, self.env)
        summary = AttemptSummary()
        try:
            while (text := pipeline.next_line(_POLL_SECONDS)) is not None:
                if text:
                    self._process_line(parse_line(text), summary)
                self.signals.check()
                self.display.refresh()
                self._check_sandbox_database()
        except BaseException:
            pipeline.stop()
            # The rest is logged only, because the stop was requested.
            while text := pipeline.next_line(_POLL_SECONDS):
                with suppress(OSError):
                    self._process_line(parse_line(text), summary, shown=False)
            # Writing to a closed terminal fails before its SIGHUP is checked for.
            self.signals.check()
            raise
        code = pipeline.wait()
        checkpoint = None
        if code == 0:
            checkpoint = self._read_checkpoint(attempts=database.CONNECT_ATTEMPTS)
        return classify(code, summary, checkpoint, self.plugin_settings)

    def _process_line(self, line: LogLine, summary: AttemptSummary, *, shown: bool = True) -> None:
        if line.is_noise:
            return
        summary.add(line)
        print(line, file=self.log)
        if not shown:
            return
        if self.verbose:
            self.display.message(str(line))
        elif line.source != MELTANO and line.level == "warning":
            # An error ends the attempt and is reported then, with its consequence. A warning that
            # differs from the last one by its numbers only is one of a series.
            content = _DIGITS.sub("", line.text)
            if content != self._last_warning:
                self.display.message(f"{line.source}: {line.text}")
            self._last_warning = content

    def _check_sandbox_database(self) -> None:
        # The target retries for longer than the embedded PostgreSQL takes to start.
        now = time.monotonic()
        if (
            self.display.database_unreachable
            and now - self._sandbox_checked_at > _SANDBOX_CHECK_SECONDS
        ):
            self._sandbox_checked_at = now
            self._ensure_sandbox()

    def _ensure_sandbox(self) -> str:
        """Restart what has ended of the sandbox; returns why it does not start, else ""."""
        try:
            same_address = self.ensure_sandbox()
        except IngestionError as error:
            return str(error)  # retried like any other failure
        if not same_address:
            message = "The sandbox was restarted at another address: run this again."
            raise IngestionError(message)
        return ""

    def _wait(self, seconds: float) -> None:
        display = self.display
        deadline = time.monotonic() + seconds
        while (remaining := deadline - time.monotonic()) > 0:
            display.note = f"restarting in {remaining:.0f} s"
            display.refresh()
            self.signals.sleep(min(_POLL_SECONDS, remaining))
        display.note = None

    def _read_checkpoint(self, *, attempts: int) -> Checkpoint | None:
        # An unreachable database is retried like any other failure.
        with suppress(DatabaseUnavailable):
            return self.database.run(read_checkpoint, attempts=attempts)
        return None

    def _report(self, message: str) -> None:
        self._log(message, "warning")
        self.display.message(message)

    def _log(self, message: str, level: str) -> None:
        now = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S.%fZ}"
        print(LogLine(message, "run-ingestion", level, now), file=self.log)

    def _end(self, outcome: str, message: str | None = None) -> None:
        if message is not None:
            # A full disk may be the cause, and the log is on it.
            with suppress(OSError):
                self._log(message, "error")
        self._write(lambda conn: database.end_run(conn, self.row, outcome, message))

    def _write(self, work: Callable[[psycopg.Connection[Any]], object]) -> None:
        # Neither a restart nor the end of the run waits for an unreachable database.
        with suppress(DatabaseUnavailable):
            self.database.run(work)
