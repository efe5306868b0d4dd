"""The load itself: attempts until it is finished, with a view of how far it is."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import IO, TYPE_CHECKING, Any

from datasync_ingestion import database, logs, outcomes, runs
from datasync_ingestion.errors import IngestionError
from datasync_ingestion.interrupts import StoppedError
from datasync_ingestion.outcomes import End, Outcome
from datasync_ingestion.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import psycopg

    from datasync_ingestion.database import Checkpoint, Door
    from datasync_ingestion.interrupts import Interrupts
    from datasync_ingestion.restarts import RestartPolicy
    from datasync_ingestion.runs import Run
    from datasync_ingestion.view import View

_POLL_S = 0.25
_REVIVE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Tools:
    """What a load is made with.

    Attributes:
        root: The checkout.
        env: Meltano's whole environment.
        door: The database.
        view: What the user sees.
        log: The full log, line-buffered.
        interrupts: Tells of signals.
        revive: Starts the stand-ins that do not run; tells whether all are where they were.
        verbose: Whether the tools' own log is shown.
    """

    root: Path
    env: Mapping[str, str]
    door: Door
    view: View
    log: IO[str]
    interrupts: Interrupts
    revive: Callable[[], bool]
    verbose: bool = False


class Load:
    """Loads until the checkpoint says that all is loaded, or until there is no hope."""

    def __init__(self, tools: Tools, run: Run, policy: RestartPolicy | None) -> None:
        """Prepare it; nothing happens yet.

        Args:
            tools: What it is made with.
            run: The row in which it is noted.
            policy: When a failed attempt is repeated; None for never.
        """
        self._tools = tools
        self._run = run
        self._policy = policy
        self._revived_at = 0.0
        self.restarts = 0

    def run(self) -> Outcome:
        """Load.

        Raises:
            StoppedError: A signal came; the pipeline is stopped, and that is noted.
            IngestionError: It cannot go on, which is noted likewise.
        """
        try:
            outcome = self._until_it_ends()
        except StoppedError:
            self._note("stopped", None)
            raise
        except (IngestionError, OSError) as error:
            self._fail(str(error))
            raise
        if outcome.end is not End.FINISHED:
            self._fail(outcome.reason)
        return outcome

    def _until_it_ends(self) -> Outcome:
        mark = self._mark()
        while True:
            outcome = self._attempt()
            if outcome.end is not End.AGAIN or self._policy is None:
                return outcome
            self._revive()
            # A mark that cannot be read has not moved.
            before, mark = mark, self._mark() or mark
            pause = self._policy.pause(moved=mark != before)
            if pause is None:
                reason = (
                    f"{outcome.reason} Nothing has moved over {self.restarts} restarts: giving up."
                )
                return Outcome(End.GIVE_UP, reason, outcome.exit_code)
            self.restarts += 1
            when = f"in {pause:.0f} s" if pause else "now"
            self._say(f"{outcome.reason} Starting again {when} (restart {self.restarts}).")
            self._write(lambda connection: runs.restarted(connection, self._run, self.restarts))
            self._wait(pause)

    def _attempt(self) -> Outcome:
        self._tools.interrupts.check()
        pipeline = Pipeline(self._tools.root, self._tools.env)
        account = logs.Account()
        try:
            while (text := pipeline.next_line(_POLL_S)) is not None:
                if text:
                    self._read(logs.parse(text), account)
                self._tools.interrupts.check()
                self._tools.view.tick()
                self._revive_database()
        except BaseException:
            pipeline.stop()
            # How it ended belongs in the log too, also when nobody can be shown it any more.
            while text := pipeline.next_line(_POLL_S):
                with suppress(OSError):
                    self._read(logs.parse(text), account)
            # A terminal that goes away fails before its signal is looked at.
            self._tools.interrupts.check()
            raise
        code = pipeline.wait()
        return outcomes.judge(code, account, self._checkpoint() if code == 0 else None)

    def _revive_database(self) -> None:
        # The loader waits some seconds for its database, long enough for a stand-in.
        if self._tools.view.blind and time.monotonic() - self._revived_at > _REVIVE_EVERY_S:
            self._revived_at = time.monotonic()
            self._revive()

    def _revive(self) -> None:
        at_home = True
        # A stand-in that does not start is a reason to try again, like any other.
        with suppress(IngestionError):
            at_home = self._tools.revive()
        if not at_home:
            message = "The sandbox came back at another address: run this again."
            raise IngestionError(message)

    def _read(self, line: logs.LogLine, account: logs.Account) -> None:
        if logs.is_noise(line):
            return
        account.note(line)
        print(line, file=self._tools.log)
        if self._tools.verbose:
            self._tools.view.say(str(line))
        elif line.source != logs.MELTANO and line.level == "warning":
            # An error ends the attempt, and is said then, with what follows from it.
            self._tools.view.say(f"{line.source}: {line.text}")

    def _say(self, message: str) -> None:
        self._log(message, "warning")
        self._tools.view.say(message)

    def _log(self, message: str, level: str) -> None:
        now = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S.%fZ}"
        print(logs.LogLine(message, "supervisor", level, now), file=self._tools.log)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._tools.view.note = f"starting again in {left:.0f} s"
            self._tools.view.tick()
            self._tools.interrupts.sleep(min(_POLL_S, left))
        self._tools.view.note = None

    def _checkpoint(self) -> Checkpoint | None:
        # A database that is away is a reason to try again, like any other.
        with suppress(IngestionError):
            return self._tools.door.ask(database.checkpoint)
        return None

    def _mark(self) -> datetime | None:
        checkpoint = self._checkpoint()
        return checkpoint.updated_at if checkpoint else None

    def _fail(self, reason: str) -> None:
        # The disk of the log may be the reason.
        with suppress(OSError):
            self._log(reason, "error")
        self._note("failed", reason)

    def _note(self, outcome: str, message: str | None) -> None:
        self._write(lambda connection: runs.end(connection, self._run, outcome, message))

    def _write(self, note: Callable[[psycopg.Connection[Any]], object]) -> None:
        # Neither a restart nor the end waits for a database that is away.
        with suppress(IngestionError):
            self._tools.door.ask(note, attempts=1)
