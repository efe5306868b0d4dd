"""The last words of a run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from datasync_monitor import words

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from datasync_ingestion.settings import Database


@dataclass(frozen=True, slots=True)
class Summary:
    """The numbers of a finished run.

    Attributes:
        in_table: Rows in `events`.
        before: The same when the run began.
        reported: Events that the API reports.
        rejected: Rows in `rejected_events`.
        seconds: How long the pipeline took.
        restarts: How often it was started again.
        database: Where to look.
        embedded: Whether that is the sandbox's.
        log: The full log.
    """

    in_table: int
    before: int
    reported: int | None
    rejected: int
    seconds: float
    restarts: int
    database: Database
    embedded: bool
    log: Path

    @property
    def new(self) -> int:
        """Rows that this run added."""
        return self.in_table - self.before

    def lines(self) -> Iterator[str]:
        """Yield the summary, line by line."""
        yield "Done."
        for name, value in self._facts():
            yield f"  {name:<24}{value}"
        if self.reported is not None and self.in_table < self.reported:
            missing = words.plural(self.reported - self.in_table, "event")
            yield (
                f"The API reports {missing} more than the table holds. Those that arrived "
                "meanwhile come with the next run, those without an id are in rejected_events; "
                "if rows were deleted, `sh run-ingestion.sh --full-refresh` brings them back."
            )
        if self.embedded:
            yield (
                "The sandbox goes on running, so that you can look; "
                "`sh run-ingestion.sh --stop` stops it."
            )

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield "events in the table", f"{words.count(self.in_table)} ({words.count(self.new)} new)"
        reported = "not told" if self.reported is None else words.count(self.reported)
        yield "events the API reports", reported
        yield "rejected events", words.count(self.rejected)
        yield "duration", words.duration(timedelta(seconds=self.seconds))
        if self.new > 0 and self.seconds > 0:
            yield "speed", words.per_second(self.new / self.seconds)
        if self.restarts:
            yield "restarts", words.count(self.restarts)
        at = self.database
        if self.embedded:
            yield "look at them with", ".venv/bin/datasync-sandbox db psql"
            yield "or", f"psql postgresql://{at.user}:{at.password}@{at.host}:{at.port}/{at.name}"
        else:
            yield "look at them with", f"psql -h {at.host} -p {at.port} -U {at.user} {at.name}"
        yield "log", str(self.log)
