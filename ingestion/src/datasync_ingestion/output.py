"""Output of a run: messages, progress, hints and the summary."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from shlex import quote
from typing import TYPE_CHECKING, Any

import click
from datasync_monitor import formatting
from datasync_monitor.database import DatabaseUnavailable
from datasync_monitor.progress import read_progress
from datasync_monitor.terminal import LiveView, LogLines, is_live

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from datasync_monitor.database import DatabaseSettings, ReconnectingConnection
    from typing_extensions import Self

RESUME_NOTE = "Loaded events are kept; the next run resumes from the checkpoint."

_REFRESH_SECONDS = 1.0
_COMPOSE_DATABASE = "postgres"


@dataclass(frozen=True, slots=True)
class Hints:
    """Commands for the user, which differ on a host and in the Compose service `ingestion`.

    Attributes:
        in_container: Whether this is the container.
    """

    in_container: bool = False

    @property
    def stop(self) -> str:
        """How to stop a run that is in progress."""
        if self.in_container:
            return "with `docker compose stop ingestion`"
        return "with Ctrl-C where it was started"

    def log(self, path: Path) -> str:
        """Where the full log is."""
        if self.in_container:
            return "docker compose cp ingestion:/app/.run/log ."
        return str(path)

    def query(self, database: DatabaseSettings, *, embedded: bool) -> str | None:
        """Command that queries the events; None in a container with an external database."""
        if embedded:
            return ".venv/bin/datasync-sandbox db psql"
        if not self.in_container:
            return (
                f"psql -h {quote(database.host)} -p {database.port} -U {quote(database.user)} "
                f"-d {quote(database.name)}"
            )
        if database.host == _COMPOSE_DATABASE:
            return (
                "docker compose exec postgres psql "
                f"--username {quote(database.user)} {quote(database.name)}"
            )
        return None


class ProgressDisplay:
    """A live bar on a terminal, and log lines otherwise, read from the database.

    Attributes:
        note: Shown beside the progress, for example the time until a restart.
        database_unreachable: Whether the last reading failed.
    """

    def __init__(self, database: ReconnectingConnection) -> None:
        """Prepare the display; `refresh` shows the first progress.

        Args:
            database: A connection of its own, without retries.
        """
        self._database = database
        self._live = LiveView() if is_live(sys.stdout) else None
        self._lines = LogLines()
        self._next_refresh = 0.0
        self._reported = False
        self.note: str | None = None
        self.database_unreachable = False

    def __enter__(self) -> Self:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            # Restoring a closed terminal fails.
            with suppress(OSError):
                self._live.__exit__()
        self._database.close()

    def message(self, text: str) -> None:
        """Print a message that stays on the screen."""
        if self._live:
            self._live.print(text)
        else:
            click.echo(text)

    def refresh(self, *, last: bool = False) -> None:
        """Show the current progress, once a second at most.

        Args:
            last: Whether the run has finished: the final state is shown in any case.
        """
        if not last and time.monotonic() < self._next_refresh:
            return
        self._next_refresh = time.monotonic() + _REFRESH_SECONDS
        try:
            progress: Any = self._database.run(read_progress)
            self.database_unreachable = False
        except DatabaseUnavailable as unavailable:
            # The target handles and logs the outage; the next refresh tries again.
            self.database_unreachable = True
            if not self._reported:
                self._reported = True
                self.message(f"Progress is not available for now. {unavailable}")
            return
        if self._live:
            self._live.update(progress, self.note)
        elif line := self._lines.next(progress, last=last):
            click.echo(line)


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a finished run.

    Attributes:
        rows: Rows in `events`.
        rows_before: The same at the start of the run.
        total_events: Events that the API reports; None where it reports none.
        rejected: Rows in `rejected_events`.
        seconds: Duration of the load.
        restarts: How often the pipeline was started again.
        query: Command that queries the events; None if there is none to suggest.
        log: Where the full log is.
        sandbox_runs: Whether the sandbox keeps running.
    """

    rows: int
    rows_before: int
    total_events: int | None
    rejected: int
    seconds: float
    restarts: int
    query: str | None
    log: str
    sandbox_runs: bool

    def lines(self) -> Iterator[str]:
        """Yield the summary line by line."""
        count = formatting.count
        new = self.rows - self.rows_before
        total = "not reported" if self.total_events is None else count(self.total_events)
        values = {
            "events in the table": f"{count(self.rows)} ({count(new)} new)",
            "events in the API": total,
            "rejected events": count(self.rejected),
            "duration": formatting.duration(timedelta(seconds=self.seconds)),
        }
        if new > 0 and self.seconds > 0:
            values["throughput"] = formatting.per_second(new / self.seconds)
        if self.restarts:
            values["restarts"] = count(self.restarts)
        if self.query:
            values["query them with"] = self.query
        values["full log"] = self.log
        yield "Finished."
        for name, value in values.items():
            yield f"  {name:<24}{value}"
        if self.total_events is not None and self.rows < self.total_events:
            missing = formatting.plural(self.total_events - self.rows, "event")
            yield (
                f"The API reports {missing} more than the table contains: events that arrived "
                "during the run (the next run loads them), or without an id (see "
                "rejected_events). If rows were deleted, use --full-refresh."
            )
        if self.sandbox_runs:
            yield "The sandbox keeps running; `sh run-ingestion.sh --stop-sandbox` stops it."
